package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// `workflow get` says which step a run is at, while it runs and while it is being
// cancelled, once that step has run for a moment.
func TestWorkflowGetShowsTheStepThatRuns(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings(""))
		id := w.create(step("quick"), step("slow").with("gate", "go"), step("last"))
		w.eventually("the step to be shown", func() bool {
			p := w.detail(id).Progress
			return p != nil && p.Message == "step slow" && p.Percent < 0 && !p.At.IsZero()
		})
		now := func() string {
			t.Helper()
			text, _, _ := w.cli("workflow", "get", fmt.Sprint(id))
			for line := range strings.Lines(text) {
				if rest, found := strings.CutPrefix(line, "now:"); found {
					return strings.TrimSpace(rest)
				}
			}
			t.Fatalf("workflow get says nothing of now:\n%s", text)
			return ""
		}
		r := w.run(id)
		if got, want := now(), fmt.Sprintf("runs on worker %d: step slow since ", r.Worker); !strings.HasPrefix(got, want) {
			t.Errorf("now: %q, want %q", got, want)
		}
		if text, _, _ := w.cli("workflow", "list", "flow"); !strings.Contains(text, fmt.Sprintf("worker %d, step", r.Worker)) {
			t.Errorf("workflow list does not name the step:\n%s", text)
		}
		w.cancel(id, store.RunCancelling)
		if got, want := now(), "is being cancelled: stops after step slow since "; !strings.HasPrefix(got, want) {
			t.Errorf("now: %q, want %q", got, want)
		}
		w.openGate("go")
		w.becomes(id, store.RunCancelled)
		d.stop()
	})
}
