package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// leasedRuns starts runs and leases them under one claim.
func leasedRuns(t *testing.T, s *Store, c store.Consumer, n int) []store.Lease {
	t.Helper()
	for range n {
		startRun(t, s, "q")
	}
	got, err := c.Dequeue(t.Context(), n, time.Hour)
	if err != nil || len(got) != n {
		t.Fatalf("%d messages, %v; want %d", len(got), err, n)
	}
	leases := make([]store.Lease, n)
	for i := range got {
		leases[i] = got[i].Lease
	}
	return leases
}

func started(t *testing.T, c store.Consumer, leases ...store.Lease) {
	t.Helper()
	if errs, err := c.Started(t.Context(), leases...); errors.Join(append(errs, err)...) != nil {
		t.Fatal(errs, err)
	}
}

func workerState(t *testing.T, s *Store, id int64) store.WorkerState {
	t.Helper()
	states, err := s.Workers().States(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return states[id]
}

// brief bounds a call that is to wait for nobody but by a time of ours, so that
// one which waits for a transaction of the test's fails.
func brief(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A release gives back all but what an application's transaction keeps. That
// stays its worker's, costs no attempt, and is leased to nobody else until the
// worker is reclaimed.
func TestAReleaseLeavesWhatIsKept(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(ctx context.Context, c store.Consumer, a store.Admin) (int64, error){
		"consumer": func(ctx context.Context, c store.Consumer, _ store.Admin) (int64, error) { return c.ReleaseAll(ctx) },
		"admin": func(ctx context.Context, c store.Consumer, a store.Admin) (int64, error) {
			return a.ReleaseWorker(ctx, c.ID())
		},
		"close": func(ctx context.Context, c store.Consumer, _ store.Admin) (int64, error) { return 2, c.Close(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := flow(t, "q")
			admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
			if err != nil {
				t.Fatal(err)
			}
			c, err := s.Consumer(t.Context(), "q", store.WorkerOptions{Slot: "s"})
			if err != nil {
				t.Fatal(err)
			}
			both := leasedRuns(t, s, c, 2)
			kept, free := both[0], append(both[1:], leasedRuns(t, s, c, 1)...)
			started(t, c, kept, free[0])
			tx := completing("pay")(t, s, kept)

			if n, err := release(brief(t), c, admin); n != 2 || !errors.Is(err, store.ErrLocked) {
				t.Fatalf("released %d, %v; want the 2 that are free, and %v", n, err, store.ErrLocked)
			}
			by := newConsumer(t, s, "q")
			if name == "consumer" {
				by = c // whose own claim it is that it must pass over
			}
			got, err := by.Dequeue(brief(t), 5, time.Hour)
			if err != nil || len(got) != 2 || got[0].ID != free[0].ID || got[0].Attempt != 1 || got[1].ID != free[1].ID {
				t.Errorf("leased %+v, %v; want the 2 that were released", got, err)
			}
			if state := workerState(t, s, c.ID()); state != store.WorkerReady {
				t.Errorf("the worker is %q; what is left is found through it", state)
			}
			commit(t, tx)
			// It died, says the slot, but what was to be released costs no attempt.
			n, err := admin.ReclaimSlot(t.Context(), "s")
			if err != nil || n.Workers != 1 || n.Dead != 0 {
				t.Errorf("reclaimed %+v, %v", n, err)
			}
			if l := lease1(t, newConsumer(t, s, "q")); l.ID != kept.ID || l.Attempt != 1 {
				t.Errorf("leased %d in attempt %d, want %d in its first", l.ID, l.Attempt, kept.ID)
			}
		})
	}
}

// What is left is released by the next try, once the transaction has ended; then
// an ephemeral worker's row goes as well.
func TestAReleaseFinishesWhatWasLeft(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c, err := s.Consumer(t.Context(), "q", store.WorkerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept := leasedRuns(t, s, c, 1)[0]
	tx := completing("pay")(t, s, kept)
	if err := c.Close(brief(t)); !errors.Is(err, store.ErrLocked) {
		t.Errorf("closed: %v, want %v", err, store.ErrLocked)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if state := workerState(t, s, c.ID()); state != "" {
		t.Errorf("the worker is %q, want no row", state)
	}
	if l := lease1(t, newConsumer(t, s, "q")); l.ID != kept.ID {
		t.Errorf("run %d is leased, want %d", l.ID, kept.ID)
	}
}

// A release waits for those of us who lock a claim: what they hold is not left.
// One that takes too long for it changes nothing.
func TestAReleaseLeavesNothingForASettlement(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q").(*consumer)
	kept, busy := leasedRuns(t, s, c, 1)[0], leasedRuns(t, s, c, 2)
	completing("pay")(t, s, kept)
	// As a settlement or a renewal does.
	tx := begun(t, s, sqlLockClaims, busy[0].Worker, []int64{busy[0].Claim})
	if n, err := c.ReleaseAll(brief(t)); n != 0 || !errors.Is(err, store.ErrLocked) {
		t.Errorf("released %d, %v; want none, and %v", n, err, store.ErrLocked)
	}
	if n := len(c.holdings.claims); n != 2 {
		t.Errorf("%d claims are known, want both", n)
	}
	commit(t, tx)
	if n, err := c.ReleaseAll(brief(t)); n != 2 || !errors.Is(err, store.ErrLocked) {
		t.Errorf("released %d, %v; want the 2 that were locked, and %v", n, err, store.ErrLocked)
	}
	if n := len(c.holdings.claims); n != 1 {
		t.Errorf("%d claims are known, want the one that is left", n)
	}
}

// A reclaim takes all but what an application's transaction keeps, of the same
// worker and the same claim too.
func TestAReclaimLeavesWhatIsKept(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	heldUp, other := inSlot(t, s), inSlot(t, s)
	both := leasedRuns(t, s, heldUp, 2)
	kept, beside := both[0], both[1]
	leasedRuns(t, s, other, 2)
	started(t, heldUp, kept, beside)
	tx := completing("pay")(t, s, kept)

	if n, err := admin.ReclaimSlot(brief(t), "s"); !errors.Is(err, store.ErrLocked) || n != (store.GivenBack{Workers: 1, Ready: 3}) {
		t.Errorf("reclaimed %+v, %v; want the other worker, 3 runs, and %v", n, err, store.ErrLocked)
	}
	if a, b := workerState(t, s, heldUp.ID()), workerState(t, s, other.ID()); a != store.WorkerReady || b != store.WorkerStopped {
		t.Errorf("the workers are %s and %s", a, b)
	}
	got, err := newConsumer(t, s, "q").Dequeue(t.Context(), 5, time.Hour)
	if err != nil || len(got) != 3 || got[0].ID != beside.ID || got[0].Attempt != 2 {
		t.Errorf("leased %+v, %v; want 3, and first %d in its second attempt", got, err, beside.ID)
	}
	commit(t, tx)
	if n, err := admin.ReclaimSlot(t.Context(), "s"); err != nil || n != (store.GivenBack{Workers: 1, Ready: 1}) {
		t.Errorf("reclaimed %+v, %v; want the worker that was left", n, err)
	}
	if l := lease1(t, newConsumer(t, s, "q")); l.ID != kept.ID || l.Attempt != 2 || len(load1(t, s, l.ID).Steps) != 1 {
		t.Errorf("leased %+v, want %d in its second attempt, with its step", l, kept.ID)
	}
}

// A run whose step a transaction records keeps its lease until that has ended,
// so that the others of its claim are settled, and nobody waits for the claim.
func TestAKeptLeaseDoesNotEnd(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]store.Outcome{
		"release": {Kind: store.OutcomeRelease},
		"snooze":  {Kind: store.OutcomeSnooze},
		"retry":   {Kind: store.OutcomeRetry, Error: "again"},
		"wait":    {Kind: store.OutcomeWait, Wait: &store.Wait{Kind: store.WaitSleep}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := flow(t, "q")
			c := newConsumer(t, s, "q")
			leases := leasedRuns(t, s, c, 2)
			tx := completing("pay")(t, s, leases[0])
			back.Lease = leases[0]
			got, err := c.Settle(brief(t), []store.Outcome{back})
			if err != nil || !errors.Is(got[0].Err, store.ErrLocked) {
				t.Errorf("settled %+v, %v; want %v", got, err, store.ErrLocked)
			}
			got, err = c.Settle(brief(t), []store.Outcome{{Lease: leases[1], Kind: store.OutcomeDone}})
			if err != nil || got[0].Err != nil {
				t.Errorf("the run beside it: %+v, %v", got, err)
			}
			if l, err := c.Dequeue(brief(t), 1, time.Hour); err != nil || len(l) != 0 {
				t.Errorf("leased %+v, %v", l, err)
			}
			commit(t, tx)
			settle1(t, c, back)
			if l := lease1(t, c); l.ID != leases[0].ID || len(load1(t, s, l.ID).Steps) != 1 {
				t.Errorf("leased %+v, want run %d with its step", l, leases[0].ID)
			}
		})
	}
}

// A step is not recorded of a run that is just being taken out of its claim.
func TestALeaseThatEndsIsNotKept(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	l := leasedRuns(t, s, newConsumer(t, s, "q"), 2)[0]
	app := begun(t, s, `select`)
	// As a settlement does that releases the run.
	tx := begun(t, s, sqlLockClaims, l.Worker, []int64{l.Claim})
	in(t, s, tx, sqlLockMessages, []int64{l.ID})
	done := blocked(t, tx, func() error { return completeStep(t, s, app, l, "pay") })
	in(t, s, tx, sqlShrinkClaims, l.Worker, []int64{l.Claim}, []int64{l.ID})
	commit(t, tx)
	if err := <-done; !isState(err, "PQ001") {
		t.Errorf("recorded a step: %v, want PQ001", err)
	}
}

// A queue with a run whose step a transaction records is not deleted, and that is
// said at once: everybody who enqueues waits meanwhile.
func TestAQueueIsNotDeletedUnderAStep(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	completing("pay")(t, s, leasedRuns(t, s, newConsumer(t, s, "q"), 1)[0])
	if err := s.Queues().Delete(brief(t), "q", true); !errors.Is(err, store.ErrLeased) {
		t.Errorf("deleted: %v, want %v", err, store.ErrLeased)
	}
}
