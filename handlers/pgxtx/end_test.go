package pgxtx_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/pgxtx"
	"github.com/pgqrs/pgqrsd/store"
)

// A try whose time is over is the step's, not the run's: it counts as a try, and
// the last one is the step's failure, although the connection is lost with it.
func TestTooSlowATryIsTheSteps(t *testing.T) {
	b := newBench(t)
	slow := b.pay(b.db(), func(ctx context.Context, tx pgx.Tx) (int, error) {
		if _, err := add(ctx, tx, "slow"); err != nil {
			return 0, err
		}
		_, err := tx.Exec(ctx, "select pg_sleep(60)")
		return 0, err
	}, handlers.StepTimeout(50*time.Millisecond), handlers.Tries(2), handlers.Backoff(time.Millisecond, time.Millisecond))
	b.is(b.attempt(slow), handlerpb.Outcome_OUTCOME_WAIT, "")
	b.is(b.attempt(slow), handlerpb.Outcome_OUTCOME_DISCARD, "step pay failed")
	b.recorded(store.StepFailed, "", 2)
	if n := b.effect("slow"); n != 0 {
		t.Errorf("%d effects of tries that were too slow", n)
	}
}

// What the server refuses for its own sake is no failure of the step.
func TestServerThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]string{
		"a standby":     "set transaction read only",
		"out of memory": "do $$ begin raise exception 'no memory' using errcode = '53200'; end $$",
		"a bad disk":    "do $$ begin raise exception 'no disk' using errcode = '58030'; end $$",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			refused := b.pay(b.db(), func(ctx context.Context, tx pgx.Tx) (int, error) {
				if _, err := tx.Exec(ctx, refuse); err != nil {
					return 0, err
				}
				return add(ctx, tx, "never")
			})
			b.is(b.attempt(refused), handlerpb.Outcome_OUTCOME_RETRY, "")
			b.noneRecorded()
		})
	}
}

// A run that is being cancelled or paused stops behind the step that it is at,
// which has happened.
func TestRunsStopBehindTheirTransaction(t *testing.T) {
	t.Parallel()
	for want, steer := range map[handlerpb.Outcome]func(b *bench) error{
		handlerpb.Outcome_OUTCOME_CANCEL: func(b *bench) error {
			_, err := b.store.Workflows().Cancel(b.Context(), b.run, false)
			return err
		},
		handlerpb.Outcome_OUTCOME_WAIT: func(b *bench) error { return b.store.Workflows().Pause(b.Context(), b.run) },
	} {
		t.Run(want.String(), func(t *testing.T) {
			b := newBench(t)
			b.is(b.try(handlers.Workflow("q", func(ctx context.Context, _ struct{}) (int, error) {
				_, err := pgxtx.StepTx(ctx, b.db(), "pay", func(ctx context.Context, tx pgx.Tx) (int, error) {
					n, err := add(ctx, tx, "paid")
					return n, errors.Join(err, steer(b))
				})
				if err != nil {
					return 0, err
				}
				return pgxtx.StepTx(ctx, b.db(), "again", func(ctx context.Context, tx pgx.Tx) (int, error) { return add(ctx, tx, "again") })
			})), want, "")
			if paid, again := b.effect("paid"), b.effect("again"); paid != 1 || again != 0 {
				t.Errorf("paid %d times, and %d after it was to stop", paid, again)
			}
		})
	}
}
