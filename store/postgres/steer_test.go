package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// A call that is not to wait for a kept row is tried once, others again.
func TestOneTryIsOne(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context
		want int
	}{{store.OneTry(ctx), 1}, {ctx, 2}} {
		tries := 0
		err := s.steer(c.ctx, "try", func() error {
			if tries++; tries == 2 {
				cancel()
			}
			return store.ErrLocked
		})
		if tries != c.want || !errors.Is(err, store.ErrLocked) {
			t.Errorf("it was tried %d times, want %d: %v", tries, c.want, err)
		}
	}
}

// However many calls wait for a run that a transaction keeps, the worker's own
// get their connections; and the calls end when the transaction does, or say
// that the run is locked.
func TestCallsOnAKeptRunLeaveConnectionsToTheOthers(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	id := startRun(t, s, "q")
	c := newConsumer(t, s, "q")
	waitFor(t, c, lease1(t, c), store.WaitSignal, 0)
	tx := begun(t, s, sendSignal, id, "first")

	calls := map[string]func(ctx context.Context) error{
		"send": func(ctx context.Context) error {
			_, _, err := s.Workflows().Send(ctx, store.NewSignal{Run: id, Topic: "x"})
			return err
		},
		"pause": func(ctx context.Context) error { return s.Workflows().Pause(ctx, id) },
		"cancel": func(ctx context.Context) error {
			_, err := s.Workflows().Cancel(ctx, id, false)
			return err
		},
	}
	for name, call := range calls {
		if err := call(t.Context()); !errors.Is(err, store.ErrLocked) {
			t.Errorf("%s while the run is kept: %v", name, err)
		}
	}

	// They try again and again, for longer than they are let.
	stop, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	const callers = 4 * DefaultPoolSize
	for range callers {
		go func() {
			var err error
			for stop.Err() == nil {
				if err = calls["send"](stop); err != nil && !errors.Is(err, store.ErrLocked) && stop.Err() == nil {
					break
				}
			}
			ended <- err
		}()
	}
	for waiting := 0; waiting < cap(s.steering); {
		if err := tx.QueryRow(t.Context(), `select count(distinct l.pid) from pg_locks l where pg_backend_pid() = any(pg_blocking_pids(l.pid))`).
			Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	// The time-out is that of an event: with all connections taken it would pass.
	soon, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	for range 50 {
		if err := c.Heartbeat(soon); err != nil {
			t.Fatalf("a heartbeat: %v", err)
		}
	}
	commit(t, tx)
	if err := calls["pause"](t.Context()); err != nil {
		t.Errorf("pause when the transaction has ended: %v", err)
	}
	cancel()
	for range callers {
		if err := <-ended; err != nil && !errors.Is(err, store.ErrLocked) && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// A retry of a run whose row a transaction keeps says so, instead of waiting as
// long as a statement may.
func TestRetryOfAKeptRunSaysSo(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	id := startRun(t, s, "q")
	c := newConsumer(t, s, "q")
	settle1(t, c, store.Outcome{Lease: lease1(t, c).Lease, Kind: store.OutcomeDiscard, Error: "no",
		Steps: []store.StepResult{{StepKey: store.StepKey{Name: "a"}}}})
	tx := begun(t, s, `select from {{schema}}.runs where run_id = $1 for update`, id)
	if err := s.Workflows().Retry(t.Context(), id); !errors.Is(err, store.ErrLocked) {
		t.Errorf("retry while the run is kept: %v", err)
	}
	commit(t, tx)
	if err := s.Workflows().Retry(t.Context(), id); err != nil {
		t.Errorf("retry when the transaction has ended: %v", err)
	}
}
