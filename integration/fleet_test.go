package integration

import (
	"slices"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// quickFleet makes dead daemons known within seconds.
const quickFleet = "heartbeat_interval = \"200ms\"\nworker_timeout = \"2s\"\nmaintenance_interval = \"200ms\""

// startElsewhere starts a daemon with a state directory of its own, as if it
// ran on another machine.
func (w *world) startElsewhere(name string, s settings) *process {
	w.t.Helper()
	s.stateDir = w.t.TempDir()
	return w.start(name, s)
}

// Two daemons share a queue; one is killed; the other finishes everything.
func TestFleetSurvivesKill(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	s := settings{queue: "concurrency = 3", daemon: quickFleet}
	a := w.start("a", s)
	running := w.enqueue(gated(3, "go")...)
	w.started(running...) // a is full
	b := w.startElsewhere("b", s)
	shared := w.enqueue(gated(3, "go")...)
	w.started(shared...) // b took these
	rest := w.enqueue(many(200)...)
	a.kill()
	w.openGate("go")
	w.settle()
	b.stop()
	all := slices.Concat(running, shared, rest)
	w.ledger(all, failedOnce(running...))
}

// A daemon is stopped (SIGSTOP) until another has taken its messages, and then
// goes on: its late settles change nothing, and it serves again.
func TestFrozenDaemon(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	s := settings{queue: "concurrency = 3\nlease = \"2s\"", daemon: quickFleet}
	a := w.start("a", s)
	running := w.enqueue(gated(3, "go")...)
	w.started(running...)
	a.signal(syscall.SIGSTOP)
	frozen := w.consumer().ID

	b := w.startElsewhere("b", s)
	w.eventually("the other daemon to have taken the messages", func() bool {
		for _, id := range running {
			m, err := w.store.Messages().Get(t.Context(), id)
			must(t, err)
			if m.State != store.Leased || m.Worker == frozen || !m.Started {
				return false
			}
		}
		return true
	})
	w.openGate("go") // both sides' jobs finish now
	w.settle()
	settled := w.archived("work")
	a.signal(syscall.SIGCONT)

	// The one that was frozen registers anew and works on.
	b.stop()
	more := w.enqueue(many(20)...)
	w.settle()
	a.stop()
	w.ledger(append(running, more...), failedOnce(running...))
	for _, id := range running {
		before, after := settled[id], w.archived("work")[id]
		if !before.FinishedAt.Equal(after.FinishedAt) || before.Worker != after.Worker {
			t.Errorf("message %d was settled again: by %d at %s, then by %d at %s", id, before.Worker, before.FinishedAt, after.Worker, after.FinishedAt)
		}
		if before.Worker == frozen {
			t.Errorf("message %d was settled by the frozen worker", id)
		}
	}
}

// Two daemons of one host, with one state directory, hold different slots and
// leave each other's messages alone.
func TestTwoDaemonsOneHost(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	s := settings{queue: "concurrency = 2"}
	a := w.start("a", s)
	running := w.enqueue(gated(2, "go")...)
	w.started(running...)
	b := w.start("b", s) // takes a slot of its own; reclaims nothing of a's
	w.openGate("go")
	w.settle()
	a.stop()
	b.stop()
	w.ledger(running, nil)
}
