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

// brief bounds a call that is to wait for nobody but by a time of ours, so that
// one which waits for a transaction of the test's fails.
func brief(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
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
