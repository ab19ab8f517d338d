package integration

import (
	"strings"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// gated is n jobs that wait for a gate.
func gated(n int, gate string) []map[string]any {
	jobs := many(n)
	for _, j := range jobs {
		j["gate"] = gate
	}
	return jobs
}

// A handler process that dies costs its started jobs an attempt, and the jobs
// that were only waiting nothing.
func TestHandlerKilled(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "concurrency = 4"})
		running := w.enqueue(gated(4, "go")...)
		w.started(running...)
		waiting := w.enqueue(many(300)...)

		pids := d.children()
		if len(pids) != 1 {
			t.Fatalf("the daemon has children %v, want the one handler", pids)
		}
		must(t, syscall.Kill(pids[0], syscall.SIGKILL))
		w.openGate("go")
		w.settle()
		d.stop()

		w.ledger(append(running, waiting...), failedOnce(running...))
		for id, n := range starts(w.journal()) {
			if want := 1 + w.archived("work")[id].Attempts; n != want {
				t.Errorf("message %d was started %d times, want %d", id, n, want)
			}
		}
		m := w.archived("work")[running[0]]
		if !strings.Contains(m.Errors[0].Error, "kill") {
			t.Errorf("the attempt's error does not say that the process was killed: %q", m.Errors[0].Error)
		}
	})
}

// A job that kills its own process again and again ends in the dead letters,
// and everybody else's work is done.
func TestPoisonMessage(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "concurrency = 1\nmax_attempts = 1"})
		ids := w.enqueue(map[string]any{"kill": true})
		w.settle()
		rest := w.enqueue(many(50)...)
		w.settle()
		d.stop()
		w.ledger(append(ids, rest...), map[int64]expect{ids[0]: {store.Dead, 1}})
	})
}

// A daemon that was killed leaves no handler behind, and the next one on the
// host takes its messages back at once: the lease here is far longer than the
// test waits.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		s := settings{queue: "concurrency = 4\nlease = \"30m\"", daemon: "worker_timeout = \"30m\""}
		d := w.start("a", s)
		running := w.enqueue(gated(4, "go")...)
		w.started(running...)
		waiting := w.enqueue(many(300)...)
		orphans := d.children()
		d.kill()
		w.eventually("the handler of the killed daemon to end", func() bool { return !anyAlive(orphans) })

		d = w.start("b", s)
		w.openGate("go")
		w.settle()
		d.stop()
		w.ledger(append(running, waiting...), failedOnce(running...))
	})
}

// Killing the daemon over and over in the middle of quick jobs loses nothing.
func TestDaemonKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		s := settings{queue: "concurrency = 20\nmax_attempts = 20"}
		var ids []int64
		for round := range 5 {
			d := w.start("a", s)
			ids = append(ids, w.enqueue(many(500)...)...)
			w.eventually("half of the round to be done", func() bool {
				n, err := w.store.Archive().Count(t.Context(), store.MessageFilter{Queue: "work"})
				must(t, err)
				return n >= int64(500*round+100)
			})
			d.kill()
		}
		d := w.start("last", s)
		w.settle()
		d.stop()

		// Which of the running jobs had been marked as started is a matter of
		// moments here: no attempt may be counted that was not begun.
		journal := starts(w.journal())
		special := make(map[int64]expect)
		for id, m := range w.archived("work") {
			if m.Attempts > journal[id]-1 {
				t.Errorf("message %d has %d failed attempts but was started %d times", id, m.Attempts, journal[id])
			}
			special[id] = expect{store.Done, m.Attempts}
		}
		w.ledger(ids, special)
	})
}

// SIGTERM in mid-run: jobs that honour their context go back without costing an
// attempt, the daemon ends with 0, no process is left.
func TestTerminate(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		s := settings{queue: "concurrency = 8", daemon: "drain_timeout = \"200ms\"\ncancel_grace = \"20s\""}
		d := w.start("a", s)
		quick := w.enqueue(many(200)...)
		running := w.enqueue(gated(8, "go")...)
		w.started(running...)
		children := d.children()
		d.stop()
		if anyAlive(children) {
			t.Errorf("handler processes %v outlived the daemon", children)
		}
		if !d.notify.has("STOPPING=1") {
			t.Errorf("the daemon did not say STOPPING=1; it said %q", d.notify.all())
		}
		w.noneLeased()
		for _, id := range running {
			m, err := w.store.Messages().Get(t.Context(), id)
			must(t, err)
			if m.State != store.Ready || m.Attempts != 0 {
				t.Errorf("message %d is %s after %d failed attempts, want ready after none", id, m.State, m.Attempts)
			}
		}
		w.openGate("go")
		d = w.start("b", s)
		w.settle()
		d.stop()
		w.ledger(append(quick, running...), nil)
	})
}

// A job that finishes within drain_timeout is not cancelled.
func TestTerminateDrains(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "concurrency = 8", daemon: "drain_timeout = \"50s\""})
		ids := w.enqueue(gated(8, "go")...)
		w.started(ids...)
		d.signal(syscall.SIGTERM)
		d.waitFor("STOPPING=1")
		late := w.enqueue(many(3)...)
		w.openGate("go")
		if code := d.wait(); code != 0 {
			t.Fatalf("exit status %d", code)
		}
		for _, id := range ids {
			if m := w.archived("work")[id]; m.State != store.Done {
				t.Errorf("message %d is not done: %+v", id, m)
			}
		}
		if n := w.unfinished("work"); n != int64(len(late)) {
			t.Errorf("%d messages left, want the %d that came after SIGTERM", n, len(late))
		}
	})
}

// A second signal ends the daemon at once, with status 1 and nothing held.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "concurrency = 2", daemon: "drain_timeout = \"10m\""})
		ids := w.enqueue(gated(2, "never")...)
		w.started(ids...)
		children := d.children()
		d.signal(syscall.SIGINT)
		d.waitFor("STOPPING=1")
		d.signal(syscall.SIGINT)
		if code := d.wait(); code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
		if anyAlive(children) {
			t.Errorf("handler processes %v outlived the daemon", children)
		}
		w.noneLeased()
	})
}

// A job that ignores its cancellation is killed with its process after the
// grace; it loses the attempt, and the process's other jobs do not.
func TestDeafJob(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{
			queue:  "concurrency = 4\ntimeout = \"1s\"\nmax_attempts = 1",
			daemon: "cancel_grace = \"300ms\"",
		})
		deaf := w.enqueue(map[string]any{"gate": "never", "ignore": true})
		w.started(deaf...)
		others := w.enqueue(many(100)...)
		w.settle()
		d.stop()
		w.ledger(append(deaf, others...), map[int64]expect{deaf[0]: {store.Dead, 1}})
		if e := w.archived("work")[deaf[0]].Errors[0].Error; !strings.Contains(e, "timed out") {
			t.Errorf("the error does not say that the job timed out: %q", e)
		}
	})
}

// SIGTERM with a job that ignores its cancellation: still exit status 0, no
// attempt burned, no process left.
func TestTerminateDeafJob(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		s := settings{queue: "concurrency = 4", daemon: "drain_timeout = \"100ms\"\ncancel_grace = \"300ms\""}
		d := w.start("a", s)
		deaf := w.enqueue(map[string]any{"gate": "go", "ignore": true})
		w.started(deaf...)
		children := d.children()
		d.stop()
		if anyAlive(children) {
			t.Errorf("handler processes %v outlived the daemon", children)
		}
		w.openGate("go")
		d = w.start("b", s)
		w.settle()
		d.stop()
		w.ledger(deaf, nil)
	})
}

func anyAlive(pids []int) bool {
	for _, pid := range pids {
		if alive(pid) {
			return true
		}
	}
	return false
}
