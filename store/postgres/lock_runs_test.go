package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

// begun runs a statement in a transaction, as of an application, that stays open.
func begun(t *testing.T, s *Store, text string, args ...any) pgx.Tx {
	t.Helper()
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	in(t, s, tx, text, args...)
	return tx
}

// in runs another statement in it.
func in(t *testing.T, s *Store, tx pgx.Tx, text string, args ...any) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), s.sql(text), args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// blocked starts f and returns when it waits for the transaction.
func blocked(t *testing.T, tx pgx.Tx, f func() error) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	for waits := false; !waits; {
		if len(done) > 0 {
			t.Fatalf("it waits for nobody: %v", <-done)
		}
		if err := tx.QueryRow(t.Context(), `select exists (select from pg_locks l where pg_backend_pid() = any(pg_blocking_pids(l.pid)))`).
			Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	return done
}

const sendSignal = `select {{schema}}.send_signal($1, 'x', 'null', $2)`

// leftovers are the rows that only runs have.
func leftovers(t *testing.T, s *Store) int {
	t.Helper()
	n := 0
	for _, table := range []string{"runs", "steps", "signals", "events"} {
		n += tableCount(t, s, table)
	}
	return n
}

// removals remove a run that has not ended, or one that has.
var (
	removals = map[string]func(ctx context.Context, s *Store, id int64) error{
		"purge": func(ctx context.Context, s *Store, _ int64) error {
			n, err := s.Queues().Purge(ctx, "q")
			if err == nil && n != 1 {
				err = errors.New("not one message was purged")
			}
			return err
		},
		"delete queue":   func(ctx context.Context, s *Store, _ int64) error { return s.Queues().Delete(ctx, "q", true) },
		"delete message": func(ctx context.Context, s *Store, id int64) error { return s.Messages().Delete(ctx, id) },
	}
	archiveRemovals = map[string]func(ctx context.Context, s *Store, id int64) error{
		"purge archive": func(ctx context.Context, s *Store, _ int64) error {
			_, err := s.Archive().Purge(ctx, "q", 0)
			return err
		},
		"delete run":   func(ctx context.Context, s *Store, id int64) error { return s.Archive().Delete(ctx, id) },
		"delete queue": func(ctx context.Context, s *Store, _ int64) error { return s.Queues().Delete(ctx, "q", true) },
	}
)

// Whoever removes a run waits for the transactions in which signals are sent to
// it, which may send more, and then leaves nothing of it.
func TestRemovalsWaitForSignals(t *testing.T) {
	t.Parallel()
	for name, remove := range removals {
		for place, prepare := range map[string]func(t *testing.T, s *Store, c store.Consumer){
			"ready": func(*testing.T, *Store, store.Consumer) {},
			"waiting": func(t *testing.T, s *Store, c store.Consumer) {
				waitFor(t, c, lease1(t, c), store.WaitSignal, 0)
			},
		} {
			t.Run(name+" "+place, func(t *testing.T) {
				t.Parallel()
				s, _ := flow(t, "q")
				id := startRun(t, s, "q")
				prepare(t, s, newConsumer(t, s, "q"))
				// The row is locked, and the run waits still.
				tx := begun(t, s, `insert into {{schema}}.runs as r (run_id, queue_id) select $1, id from {{schema}}.queues
					on conflict (run_id) do update set news = r.news where false`, id)
				done := blocked(t, tx, func() error { return remove(t.Context(), s, id) })
				in(t, s, tx, sendSignal, id, "one")
				in(t, s, tx, sendSignal, id, "two")
				commit(t, tx)
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := leftovers(t, s); n != 0 {
					t.Errorf("%d rows are left of a run that is nowhere", n)
				}
			})
		}
	}
	// A run without steps ends while a signal is being sent to it.
	for name, remove := range archiveRemovals {
		t.Run(name+" archived", func(t *testing.T) {
			t.Parallel()
			s, _ := flow(t, "q")
			id := startRun(t, s, "q")
			c := newConsumer(t, s, "q")
			l := lease1(t, c)
			tx := begun(t, s, sendSignal, id, nil)
			settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone})
			done := blocked(t, tx, func() error { return remove(t.Context(), s, id) })
			commit(t, tx)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := leftovers(t, s); n != 0 {
				t.Errorf("%d rows are left of a run that is nowhere", n)
			}
		})
	}
}

// What comes to a run while it is being removed finds that it is gone, and
// leaves nothing of it either.
func TestWhatComesToARemovedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	removing := func() (id int64, tx pgx.Tx) {
		id = startRun(t, s, "q")
		waitFor(t, c, lease1(t, c), store.WaitSignal, 0)
		tx = begun(t, s, sqlLockForgotten, []int64{id})
		in(t, s, tx, sqlQueuePurgeDelayed, []int64{id})
		in(t, s, tx, sqlForgetGone, []int64{id})
		return id, tx
	}

	id, tx := removing()
	done := blocked(t, tx, func() error {
		_, _, err := s.Workflows().Send(t.Context(), store.NewSignal{Run: id, Topic: "x"})
		return err
	})
	commit(t, tx)
	if err := <-done; !errors.Is(err, store.ErrNotFound) {
		t.Errorf("send to a run that is being removed: %v", err)
	}
	if n := leftovers(t, s); n != 0 {
		t.Errorf("a signal leaves %d rows", n)
	}

	id, tx = removing()
	sender := startRun(t, s, "q")
	l := lease1(t, c)
	done = blocked(t, tx, func() error {
		got, err := c.Settle(t.Context(), []store.Outcome{{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{
			{StepKey: key("send"), Kind: store.StepSend, Send: &store.NewSignal{Run: id, Topic: "x"}}}}})
		return errors.Join(err, got[0].Err)
	})
	commit(t, tx)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if steps := load1(t, s, sender).Steps; len(steps) != 1 || steps[0].State != store.StepFailed {
		t.Errorf("a step that sends to a run that is removed: %+v", steps)
	}
	settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone})
	if err := s.Archive().Delete(t.Context(), sender); err != nil {
		t.Fatal(err)
	}
	if n := leftovers(t, s); n != 0 {
		t.Errorf("a step that sends leaves %d rows", n)
	}
}

// What a child does makes no row again of a parent that is removed meanwhile.
func TestAChildOfARemovedParentLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]store.Outcome{
		"done":    {Kind: store.OutcomeDone},
		"discard": {Kind: store.OutcomeDiscard},
		"release": {Kind: store.OutcomeRelease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := flow(t, "q")
			c := newConsumer(t, s, "q")
			parent := startRun(t, s, "q")
			waitFor(t, c, lease1(t, c), store.WaitChild, 0, store.StepResult{StepKey: key("child"), Kind: store.StepChild,
				State: store.StepWaiting, Delay: -1, Child: &store.NewRun{Workflow: "q"}})
			child := lease1(t, c)
			tx := begun(t, s, sqlLockForgotten, []int64{parent})
			in(t, s, tx, sqlQueuePurgeDelayed, []int64{parent})
			in(t, s, tx, sqlForgetGone, []int64{parent})
			last.Lease = child.Lease
			done := blocked(t, tx, func() error {
				got, err := c.Settle(t.Context(), []store.Outcome{last})
				return errors.Join(err, got[0].Err)
			})
			commit(t, tx)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := tableCount(t, s, "runs"); n != 1 { // the child's own
				t.Errorf("%d rows of runs, want 1", n)
			}
		})
	}
}

// A run that is removed by its consumer is forgotten with what was just sent to it.
func TestARunThatIsDeletedUnderALeaseLeavesNothing(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	startRun(t, s, "q")
	l := lease1(t, c)
	tx := begun(t, s, sendSignal, l.ID, nil)
	done := blocked(t, tx, func() error {
		errs, err := c.Delete(t.Context(), l.Lease)
		return errors.Join(append(errs, err)...)
	})
	commit(t, tx)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := leftovers(t, s); n != 0 {
		t.Errorf("%d rows are left of a run that is nowhere", n)
	}
}

// Removals take the rows of runs in the order of their ids.
func TestRemovalsLockInOrder(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	first, second := startRun(t, s, "q"), startRun(t, s, "q")
	tx := begun(t, s, sendSignal, first, nil)
	done := blocked(t, tx, func() error { _, err := s.Queues().Purge(t.Context(), "q"); return err })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := tx.Exec(ctx, s.sql(sendSignal), second, nil); err != nil {
		t.Errorf("the second run is locked before the first: %v", err)
	}
	commit(t, tx)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A lease that has run out, and that cannot be given back because somebody keeps
// startedChild is a run, and the lease of one that it started and waits for, whose
// attempt has begun.
func startedChild(t *testing.T, s *Store, c store.Consumer, queue string) (parent int64, child store.Lease) {
	t.Helper()
	parent = startRun(t, s, queue)
	waitFor(t, c, lease1(t, c), store.WaitChild, 0, store.StepResult{StepKey: key("child"), Kind: store.StepChild,
		State: store.StepWaiting, Delay: -1, Child: &store.NewRun{Workflow: queue}})
	child = lease1(t, c).Lease
	if errs, err := c.Started(t.Context(), child); errors.Join(append(errs, err)...) != nil {
		t.Fatal(errs, err)
	}
	return parent, child
}

// runOut lets leases run out.
func runOut(t *testing.T, c store.Consumer, leases ...store.Lease) {
	t.Helper()
	if errs, err := c.Extend(t.Context(), time.Microsecond, leases...); errors.Join(append(errs, err)...) != nil {
		t.Fatal(errs, err)
	}
}

// the row of the run that started it, keeps no other message from being leased.
func TestALockedGiveBackHoldsUpNoClaim(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1})
	c := newConsumer(t, s, "q")
	parent, child := startedChild(t, s, c, "q")
	other := startRun(t, s, "q")
	beside := lease1(t, c)
	runOut(t, c, child, beside.Lease)
	tx := begun(t, s, sendSignal, parent, nil)
	// Also the lease beside it, which ran out, goes back.
	if got := lease1(t, c); got.ID != other {
		t.Errorf("run %d is leased, want %d", got.ID, other)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := lease1(t, c); got.ID != parent {
		t.Errorf("run %d is leased, want %d, which hears that run %d died", got.ID, parent, child.ID)
	}
}

// A run whose attempts are not used up goes back without the one that started it.
func TestAGiveBackNeedsNoParentOfWhatGoesOn(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	parent, child := startedChild(t, s, c, "q")
	runOut(t, c, child)
	begun(t, s, sendSignal, parent, nil)
	if got := lease1(t, c); got.ID != child.ID || got.Attempt != 2 {
		t.Errorf("run %d is leased in attempt %d, want %d in its second", got.ID, got.Attempt, child.ID)
	}
}

// inSlot is a consumer of queue q whose daemon is about to die in slot s.
func inSlot(t *testing.T, s *Store) store.Consumer {
	t.Helper()
	c, err := s.Consumer(t.Context(), "q", store.WorkerOptions{Name: "died", Slot: "s"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A reclaim and a give-back of all queues leave what needs a row that somebody
// keeps, and no other, and say so.
func TestALockedReclaimHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1})
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	heldUp, c, ranOut := inSlot(t, s), inSlot(t, s), newConsumer(t, s, "q")
	parent, child := startedChild(t, s, heldUp, "q")
	startRun(t, s, "q")
	startRun(t, s, "q")
	lease1(t, c)
	runOut(t, ranOut, lease1(t, ranOut).Lease)
	runOut(t, heldUp, child)
	tx := begun(t, s, sendSignal, parent, nil)

	if n, err := admin.GiveBack(t.Context()); !errors.Is(err, store.ErrUnavailable) || n != (store.GivenBack{Ready: 1}) {
		t.Errorf("gave back %+v, %v; want one lease, and %v", n, err, store.ErrUnavailable)
	}
	if n, err := admin.ReclaimSlot(t.Context(), "s"); !errors.Is(err, store.ErrUnavailable) || n != (store.GivenBack{Workers: 1, Ready: 1}) {
		t.Errorf("reclaimed %+v, %v; want one worker, and %v", n, err, store.ErrUnavailable)
	}
	commit(t, tx)
	if n, err := admin.ReclaimSlot(t.Context(), "s"); err != nil || n != (store.GivenBack{Workers: 1, Dead: 1}) {
		t.Errorf("reclaimed %+v, %v; want the other worker", n, err)
	}
}

// Runs that somebody moves at the same moment count as woken: else the caller
// would take them for the last.
func TestRunsThatOthersWakeCount(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	id := startRun(t, s, "q")
	settle1(t, c, store.Outcome{Lease: lease1(t, c).Lease, Kind: store.OutcomeWait, Version: "v1", Wait: &store.Wait{Kind: store.WaitVersion, For: "v1", Delay: time.Hour}})
	// As the promotion does.
	tx := begun(t, s, `
with due as (delete from {{schema}}.delayed where id = $1 returning *)
insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
select id, enqueued_at, due_at, queue_id, attempts, priority, headers, errors, payload from due`, id)
	var n int64
	woken := blocked(t, tx, func() (err error) {
		n, err = s.Workflows().WakeStranded(t.Context(), "q", []string{"v1"}, 1)
		return err
	})
	commit(t, tx)
	if err := <-woken; err != nil || n != 1 {
		t.Errorf("%d runs are woken, %v; want one", n, err)
	}
}

// The retention and a purge leave an ended run whose parent's row somebody
// keeps, and no other.
func TestALockedPurgeHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, purge := range map[string]struct {
		do  func(ctx context.Context, s *Store, a store.Admin) (int64, error)
		err error // while one is left
	}{
		"retention": {do: func(ctx context.Context, s *Store, a store.Admin) (int64, error) { return a.PurgeExpired(ctx, 10) }},
		"purge": {
			do: func(ctx context.Context, s *Store, a store.Admin) (int64, error) {
				return s.Archive().Purge(ctx, "q", 0)
			},
			err: store.ErrUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := installed(t, "q", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1, Retention: time.Microsecond})
			admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
			if err != nil {
				t.Fatal(err)
			}
			c := newConsumer(t, s, "q")
			parent, child := startedChild(t, s, c, "q")
			settle1(t, c, store.Outcome{Lease: child, Kind: store.OutcomeDone})
			startRun(t, s, "q")
			lease1(t, c) // the parent, which has heard of it
			settle1(t, c, store.Outcome{Lease: lease1(t, c).Lease, Kind: store.OutcomeDone})
			tx := begun(t, s, sendSignal, parent, nil)
			if n, err := purge.do(t.Context(), s, admin); n != 1 || !errors.Is(err, purge.err) {
				t.Errorf("%d are purged, %v; want one, and %v", n, err, purge.err)
			}
			commit(t, tx)
			if n, err := purge.do(t.Context(), s, admin); n != 1 || err != nil {
				t.Errorf("%d are purged, %v; want the one that was left", n, err)
			}
		})
	}
}
