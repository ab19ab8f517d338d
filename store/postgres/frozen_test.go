package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/store"
)

// freeze leases a message for a consumer of slot "frozen" and stops in the
// middle of settling it, as a process that gets no more time does.
func freeze(t *testing.T, s *Store, queue string) *pgxpool.Conn {
	t.Helper()
	c, err := s.Consumer(t.Context(), queue, store.WorkerOptions{Name: "frozen", Slot: "frozen"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Dequeue(t.Context(), 1, time.Hour)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	outcomes := []store.Outcome{{Lease: got[0].Lease, Kind: store.OutcomeRelease}}
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	m := &mixed{settlement: newSettlement(c.ID(), nil, outcomes), s: s}
	if found, _, err := m.look(t.Context(), conn); err != nil || len(found) != 1 {
		t.Fatalf("%d held, %v", len(found), err)
	}
	return conn
}

type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func checkLimits(t *testing.T, what, wantStatement string, in queryer) {
	t.Helper()
	var idle, statement string
	err := in.QueryRow(t.Context(), `select current_setting('idle_in_transaction_session_timeout'), current_setting('statement_timeout')`).
		Scan(&idle, &statement)
	if err != nil || idle != "5s" || statement != wantStatement {
		t.Errorf("%s may idle for %s and run statements for %s, %v; want 5s and %s", what, idle, statement, err, wantStatement)
	}
}

// A transaction of several round trips is bounded by the server, also where
// nothing can be set on the session.
func TestTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	_, cfg := installed(t, "q", store.QueuePolicy{})
	cfg.PgBouncer = true
	s := openStore(t, cfg)
	enqueue(t, s, "q", 1)
	checkLimits(t, "a settlement", "30s", freeze(t, s, "q"))
	err := s.transaction(t.Context(), "test", func(ctx context.Context, b *batch, tx pgx.Tx) error {
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		checkLimits(t, "a transaction", "30s", tx)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Queues().Insert(t.Context(), "r", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Queues().Get(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.lockQueueAlone(t.Context(), tx, r); err != nil {
		t.Error(err)
	}
	// Deleting a queue may take long.
	checkLimits(t, "the deletion of a queue", "0", tx)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
}

// A worker that is frozen within a settlement cannot be reclaimed yet. That
// stops neither its queue's other workers nor the reclaim of other queues'.
func TestReclaimOfAFrozenWorker(t *testing.T) {
	t.Parallel()
	s, cfg := installed(t, "q", store.QueuePolicy{})
	if _, err := s.Queues().Insert(t.Context(), "r", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, "q", 2)
	frozen := freeze(t, openStore(t, cfg), "q")
	if _, err := s.Consumer(t.Context(), "r", store.WorkerOptions{Name: "other", Slot: "frozen"}); err != nil {
		t.Fatal(err)
	}
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := admin.ReclaimSlot(t.Context(), "frozen")
	if !errors.Is(err, store.ErrUnavailable) || n.Workers != 1 {
		t.Errorf("reclaimed %+v, %v; want the other queue's worker, and %v", n, err, store.ErrUnavailable)
	}
	got, err := newConsumer(t, s, "q").Dequeue(t.Context(), 1, time.Hour)
	if err != nil || len(got) != 1 {
		t.Errorf("%d messages, %v", len(got), err)
	}
	if _, err := frozen.Exec(t.Context(), "rollback"); err != nil {
		t.Fatal(err)
	}
	if n, err = admin.ReclaimSlot(t.Context(), "frozen"); err != nil || n != (store.GivenBack{Workers: 1, Ready: 1}) {
		t.Errorf("reclaimed %+v, %v; want the worker and its message", n, err)
	}
}

// A reclaim locks workers in the order of their ids, as a heartbeat does.
func TestReclaimLocksInOrder(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	var ids []int64
	for range 2 {
		w, err := s.Consumer(t.Context(), "q", store.WorkerOptions{Name: "w", Slot: "s"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, w.ID())
	}
	// In the table the first comes after the second now.
	if _, err := s.Workers().Heartbeat(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lock := s.sql(`select id from {{schema}}.workers where id = $1 for update nowait`)
	if _, err := tx.Exec(t.Context(), lock, ids[0]); err != nil {
		t.Fatal(err)
	}
	reclaimed := make(chan error, 1)
	go func() {
		_, err := admin.ReclaimSlot(t.Context(), "s")
		reclaimed <- err
	}()
	for waits := false; !waits; {
		if len(reclaimed) > 0 {
			t.Fatalf("the reclaim waits for nobody: %v", <-reclaimed)
		}
		if err := tx.QueryRow(t.Context(), `select exists (select from pg_locks l where pg_backend_pid() = any(pg_blocking_pids(l.pid)))`).
			Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Exec(t.Context(), lock, ids[1]); err != nil {
		t.Errorf("the second worker is locked before the first: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-reclaimed; err != nil {
		t.Error(err)
	}
}
