package integration

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// A deploy of a handler is no failure of what runs in it: whether its binary is
// replaced, its environment changes at a SIGHUP, or it is removed and comes back,
// steps that outlast drain_timeout are cancelled, those that do not heed that
// within cancel_grace end with their process, and neither loses an attempt. Where
// one attempt is all that a run has, it carries on all the same.
func TestReplacedHandlerCostsNoAttempt(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		s := w.settings("max_attempts = 1", "TOKEN=one")
		s.daemon = "drain_timeout = \"100ms\"\ncancel_grace = \"200ms\""
		d := w.up("a", s)
		heeds := w.create(step("first"), step("slow").with("gate", "go"), step("last"))
		ignores := w.create(step("first"), step("slow").with("gate", "go").with("deaf", true), step("last"))
		runs := []int64{heeds, ignores}
		begun := func(times int) {
			t.Helper()
			for _, id := range runs {
				w.eventually("the slow steps to run", func() bool { return w.count("body", id, "slow") == times })
			}
		}
		file := filepath.Join(w.dir, "plugins", "testworkflow")

		begun(1)
		before := d.children()
		raw, err := os.ReadFile(file)
		must(t, err)
		hidden := filepath.Join(filepath.Dir(file), ".new")
		must(t, os.WriteFile(hidden, append(raw, "another build"...), 0o755))
		must(t, os.Rename(hidden, file))
		begun(2)
		s = w.settings("max_attempts = 1", "TOKEN=two")
		s.daemon = "drain_timeout = \"150ms\"\ncancel_grace = \"200ms\""
		w.config("a", s)
		d.signal(syscall.SIGHUP)
		begun(3)
		must(t, os.Rename(file, filepath.Join(w.dir, "away")))
		w.eventually("the runs to be back on the queue", func() bool {
			return w.run(heeds).State == store.Ready && w.run(ignores).State == store.Ready
		})
		must(t, os.Rename(filepath.Join(w.dir, "away"), file))
		begun(4)

		w.openGate("go")
		for _, id := range runs {
			w.output(id) // no attempt is counted
			if n := w.count("body", id, "first"); n != 1 {
				t.Errorf("the first step of run %d ran %d times", id, n)
			}
		}
		w.eventually("the first process to end", func() bool {
			return !slices.ContainsFunc(before, alive)
		})
		d.stop()
	})
}
