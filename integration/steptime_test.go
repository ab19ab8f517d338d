package integration

import (
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// A step that heeds its StepTimeout has failed, and says by what; one that does
// not heed it goes on, which the daemon's log says.
func TestStepTimeouts(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings(""))
		heeds := w.create(step("slow").with("gate", "go").with("timeout", 50))
		w.becomes(heeds, store.RunFailed)
		steps := w.detail(heeds).Steps
		if len(steps) != 1 || !strings.HasPrefix(steps[0].Error, "timed out after 50ms (StepTimeout)") {
			t.Errorf("the steps are %+v", steps)
		}
		ignores := w.create(step("deaf").with("gate", "go").with("timeout", 50).with("deaf", true))
		w.eventually("the log to say that the step goes on", func() bool {
			for line := range strings.Lines(d.logs.String()) {
				if strings.Contains(line, "past its StepTimeout and has not returned") && strings.Contains(line, "step=deaf") {
					return true
				}
			}
			return false
		})
		w.openGate("go")
		w.output(ignores)
		d.stop()
	})
}
