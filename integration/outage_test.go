package integration

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func (w *world) doneAtLeast(n int64) func() bool {
	return func() bool {
		got, err := w.store.Archive().Count(w.t.Context(), store.MessageFilter{Queue: "work"})
		return err == nil && got >= n
	}
}

// Every connection is cut, again and again, while jobs run: the daemon carries
// on, and nothing is lost or done twice.
func TestConnectionsTerminated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Start(t).DSN(), "pgqrs") // its own: it cuts everybody's
	d := w.start("a", settings{queue: "concurrency = 10"})
	running := w.enqueue(gated(3, "go")...)
	w.started(running...)
	ids := w.enqueue(many(3000)...)
	conn, err := pgx.Connect(t.Context(), w.dsn)
	must(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	for round := range int64(5) {
		w.eventually("some more to be done", w.doneAtLeast(100*(round+1)))
		_, err := conn.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and application_name like 'pgqrsd%'`)
		must(t, err)
	}
	w.openGate("go")
	// The test's own handle lost its connections too; a pool mends that.
	w.eventually("every message to be archived", func() bool {
		n, err := w.store.Messages().Count(t.Context(), store.MessageFilter{Queue: "work"})
		return err == nil && n == 0
	})
	d.stop()
	w.ledgerOnceDone(append(running, ids...))
}

// Postgres crashes and comes back while jobs run. Claims that were not flushed
// may be lost, then their messages run again; what was settled stays settled.
func TestPostgresCrash(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	w := newWorld(t, cluster.DSN(), "pgqrs")
	d := w.start("a", settings{queue: "concurrency = 10"})
	running := w.enqueue(gated(3, "go")...)
	w.started(running...)
	ids := w.enqueue(many(3000)...)
	for round := range int64(3) {
		w.eventually("some more to be done", w.doneAtLeast(300*(round+1)))
		cluster.StopImmediate()
		if code := d.get("/healthz"); code != 200 {
			t.Errorf("healthz answers %d while the database is away, want 200: the daemon lives", code)
		}
		w.eventually("readyz to say that the database is away", func() bool { return d.get("/readyz") == 503 })
		cluster.Start()
	}
	w.openGate("go")
	w.eventually("every message to be archived", func() bool {
		n, err := w.store.Messages().Count(t.Context(), store.MessageFilter{Queue: "work"})
		return err == nil && n == 0
	})
	w.eventually("readyz to be well again", func() bool { return d.get("/readyz") == 200 })
	d.stop()
	w.ledgerOnceDone(append(running, ids...))
}

// ledgerOnceDone is the ledger where jobs may have run more than once, because
// a lease was lost with the database; none may have failed.
func (w *world) ledgerOnceDone(ids []int64) {
	w.t.Helper()
	journal := starts(w.journal())
	special := make(map[int64]expect)
	for id, m := range w.archived("work") {
		if m.Attempts > journal[id]-1 {
			w.t.Errorf("message %d has %d failed attempts but was started %d times", id, m.Attempts, journal[id])
		}
		special[id] = expect{store.Done, m.Attempts}
	}
	w.ledger(ids, special)
}
