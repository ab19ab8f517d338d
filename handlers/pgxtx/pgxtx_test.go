package pgxtx_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/pgxtx"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	retry   = handlerpb.Outcome_OUTCOME_RETRY
	discard = handlerpb.Outcome_OUTCOME_DISCARD
	wait    = handlerpb.Outcome_OUTCOME_WAIT
)

// once adds the effect, and lets what go wrong the first time that the body runs.
func (b *bench) once(what func(ctx context.Context, tx pgx.Tx) error) func(ctx context.Context, tx pgx.Tx) (int, error) {
	return func(ctx context.Context, tx pgx.Tx) (int, error) {
		n, err := add(ctx, tx, "pay")
		if err == nil && b.bodies == 1 {
			err = what(ctx, tx)
		}
		return n, err
	}
}

func fine(context.Context, pgx.Tx) error { return nil }

// is checks what the handler said of an attempt.
func (b *bench) is(r *handlerpb.Result, outcome handlerpb.Outcome, says string) {
	b.Helper()
	if r.Outcome != outcome || !strings.Contains(r.Error, says) {
		b.Fatalf("the attempt is %v, want %s that says %q", r, outcome, says)
	}
}

// nothing checks that neither a record nor an effect is there.
func (b *bench) nothing() {
	b.Helper()
	b.noneRecorded()
	if n := b.effect("pay"); n != 0 {
		b.Errorf("the effect is there %d times", n)
	}
}

func TestStepAndEffectAreThereOnce(t *testing.T) {
	b := newBench(t)
	h := b.pay(b.db(), b.once(fine))
	if r := b.try(h); r.Outcome != handlerpb.Outcome_OUTCOME_DONE {
		t.Fatalf("the attempt is %v", r)
	}
	b.recorded(store.StepSucceeded, "1", 1)
	// Its result is lost with the daemon; another one carries the run on.
	b.settle(store.Outcome{Lease: b.lease, Kind: store.OutcomeRelease})
	b.done(b.attempt(h), "1", 1)
}

// isolated begins transactions of a level.
type isolated struct {
	*pgxpool.Pool
	level pgx.TxIsoLevel
}

func (i isolated) Begin(ctx context.Context) (pgx.Tx, error) {
	return i.BeginTx(ctx, pgx.TxOptions{IsoLevel: i.level})
}

// A transaction that the database ends for another one's sake is begun again
// in place, and its effect is there once.
func TestCollisionsAreTriedAgainInPlace(t *testing.T) {
	t.Parallel()
	t.Run("concurrent update", func(t *testing.T) {
		b := newBench(t)
		b.exec(`insert into effects values ('both', 0)`)
		h := b.pay(pgxtx.InSchema(isolated{b.app, pgx.RepeatableRead}, b.schema), b.once(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := b.app.Exec(ctx, `update effects set n = n + 1 where what = 'both'`); err != nil {
				return err
			}
			_, err := add(ctx, tx, "both")
			return err
		}))
		b.done(b.attempt(h), "1", 2)
		b.recorded(store.StepSucceeded, "1", 1)
	})
	t.Run("write skew", func(t *testing.T) {
		b := newBench(t)
		db := isolated{b.app, pgx.Serializable}
		count := func(ctx context.Context, tx pgx.Tx) (n int, err error) {
			err = tx.QueryRow(ctx, `select count(*) from effects`).Scan(&n)
			return n, err
		}
		h := b.pay(pgxtx.InSchema(db, b.schema), b.once(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := count(ctx, tx); err != nil {
				return err
			}
			other, err := db.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err = count(ctx, other); err == nil {
				_, err = add(ctx, other, "other")
			}
			return errors.Join(err, other.Commit(ctx))
		}))
		b.done(b.attempt(h), "1", 2)
	})
	t.Run("deadlock", func(t *testing.T) {
		b := newBench(t)
		b.exec(`insert into effects values ('a', 0), ('b', 0)`)
		h := b.pay(b.db(), b.once(b.deadlock))
		b.done(b.attempt(h), "1", 2)
		b.recorded(store.StepSucceeded, "1", 1)
	})
	t.Run("for ever", func(t *testing.T) {
		b := newBench(t)
		collides := b.pay(b.db(), func(ctx context.Context, tx pgx.Tx) (int, error) {
			if n, err := add(ctx, tx, "pay"); err != nil {
				return n, err
			}
			_, err := tx.Exec(ctx, `do $$ begin raise exception 'again' using errcode = '40001'; end $$`)
			return 0, err
		})
		b.is(b.attempt(collides), retry, "step pay: tried 10 times")
		b.nothing()
		if b.bodies != 10 {
			t.Errorf("the body ran %d times", b.bodies)
		}
		b.done(b.attempt(b.pay(b.db(), b.once(fine))), "1", 11)
	})
}

// deadlock meets another transaction in a deadlock, whose victim tx is: it alone
// looks for one.
func (b *bench) deadlock(ctx context.Context, tx pgx.Tx) error {
	other, err := b.app.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = other.Rollback(ctx) }()
	pid := other.Conn().PgConn().PID()
	if _, err := other.Exec(ctx, `set local deadlock_timeout = '1h'`); err != nil {
		return err
	}
	if _, err := add(ctx, other, "b"); err != nil {
		return err
	}
	if _, err := add(ctx, tx, "a"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := add(ctx, other, "a")
		ended <- err
	}()
	for waits := false; !waits; {
		if err := b.app.QueryRow(ctx, `select exists (select from pg_locks where pid = $1 and not granted)`, pid).Scan(&waits); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `set local deadlock_timeout = '10ms'`); err != nil {
		return err
	}
	_, err = add(ctx, tx, "b")
	// Only then does the other one go on, and tell how it ended.
	if rolled := tx.Rollback(ctx); rolled != nil {
		return rolled
	}
	return errors.Join(err, <-ended)
}

// terminate ends tx's connection from outside.
func (b *bench) terminate(ctx context.Context, tx pgx.Tx) error {
	var gone bool
	err := b.app.QueryRow(ctx, `select pg_terminate_backend($1, 60000)`, tx.Conn().PgConn().PID()).Scan(&gone)
	if err == nil && !gone {
		err = errors.New("the connection is still there")
	}
	return err
}

// A connection that is lost costs the run an attempt, for it says nothing of
// the step. The next one finds whether the step is recorded.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	t.Run("before the body", func(t *testing.T) {
		b := newBench(t)
		b.is(b.attempt(b.pay(down{}, b.once(fine))), retry, "step pay: begin its transaction: no route")
		b.nothing()
		if b.bodies != 0 {
			t.Errorf("the body ran")
		}
	})
	t.Run("in the body", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(ctx context.Context, tx pgx.Tx) error {
			if err := b.terminate(ctx, tx); err != nil {
				return err
			}
			_, err := add(ctx, tx, "more")
			return err
		}))
		b.is(b.attempt(h), retry, "57P01")
		b.nothing()
		b.done(b.attempt(h), "1", 2)
	})
	t.Run("at the end of the body", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(b.terminate))
		b.is(b.attempt(h), retry, "step pay: record it in its transaction")
		b.nothing()
		b.done(b.attempt(h), "1", 2)
	})
	t.Run("before the commit", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(context.Context, pgx.Tx) error { b.commit.Store(commitGoesLost); return nil }))
		b.is(b.attempt(h), retry, "step pay: commit its transaction")
		b.nothing()
		b.done(b.attempt(h), "1", 2)
	})
	t.Run("after the commit", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(context.Context, pgx.Tx) error { b.commit.Store(commitUnanswered); return nil }))
		b.is(b.attempt(h), retry, "step pay: commit its transaction")
		b.recorded(store.StepSucceeded, "1", 1)
		b.done(b.attempt(h), "1", 1)
	})
}

// down is a database that is out of reach.
type down struct{}

func (down) Begin(context.Context) (pgx.Tx, error) { return nil, errors.New("no route") }

// A transaction under a lease that was lost meanwhile leaves nothing; whoever
// has the run then does the step.
func TestLeaseLostInTheBody(t *testing.T) {
	b := newBench(t)
	h := b.pay(b.db(), b.once(func(ctx context.Context, _ pgx.Tx) error {
		_, err := b.consumer.Settle(ctx, []store.Outcome{{Lease: b.lease, Kind: store.OutcomeRelease}})
		return err
	}))
	b.is(b.attempt(h), retry, "PQ001")
	b.nothing()
	b.done(b.attempt(h), "1", 2)
}

// A step that was recorded meanwhile is not done twice; the run goes on with
// what is recorded.
func TestRecordedAlready(t *testing.T) {
	b := newBench(t)
	h := b.pay(b.db(), func(ctx context.Context, tx pgx.Tx) (int, error) {
		_, err := b.app.Exec(ctx, `with done as (insert into effects values ('pay', 1))
			select complete_step($1, $2, $3, 'pay', 0, 0, '7')`, b.run, b.lease.Worker, b.lease.Claim)
		if err != nil {
			return 0, err
		}
		return add(ctx, tx, "pay")
	})
	b.is(b.attempt(h), retry, "PQ002")
	b.recorded(store.StepSucceeded, "7", 1)
	b.done(b.attempt(h), "7", 1)
}

// An error of the body leaves nothing of its transaction, and is the step's.
func TestErrorOfTheBody(t *testing.T) {
	t.Parallel()
	t.Run("failure", func(t *testing.T) {
		b := newBench(t)
		b.is(b.attempt(b.pay(b.db(), b.once(func(context.Context, pgx.Tx) error { return errors.New("no money") }))), discard, "no money")
		b.recorded(store.StepFailed, "", 1)
		if n := b.effect("pay"); n != 0 {
			t.Errorf("the effect is there %d times", n)
		}
	})
	t.Run("failure that the database found", func(t *testing.T) {
		b := newBench(t)
		b.is(b.attempt(b.pay(b.db(), b.once(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into effects values ('nothing', null)`)
			return err
		}))), discard, "23502")
		b.recorded(store.StepFailed, "", 1)
	})
	t.Run("failure that the body keeps to itself", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(ctx context.Context, tx pgx.Tx) error {
			_, _ = tx.Exec(ctx, `insert into effects values ('nothing', null)`)
			return nil
		}))
		b.is(b.attempt(h), retry, "step pay: record it in its transaction")
		b.nothing()
		b.done(b.attempt(h), "1", 2)
	})
	t.Run("another try", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(context.Context, pgx.Tx) error { return handlers.Retry(errors.New("not yet"), 1) }), handlers.Tries(2))
		b.is(b.attempt(h), wait, "")
		b.recorded(store.StepWaiting, "", 1)
		if n := b.effect("pay"); n != 0 {
			t.Errorf("the effect is there %d times", n)
		}
		b.done(b.attempt(h), "1", 2)
		b.recorded(store.StepSucceeded, "1", 2)
	})
	t.Run("panic", func(t *testing.T) {
		b := newBench(t)
		h := b.pay(b.db(), b.once(func(context.Context, pgx.Tx) error { panic("out of order") }))
		b.is(b.attempt(h), retry, "out of order")
		b.nothing()
		b.done(b.attempt(h), "1", 2)
	})
}

// Without a database to share the run fails, says why, and has done nothing.
func TestNoLeaseToRecordUnder(t *testing.T) {
	b := newBench(t)
	b.unfenced = true
	b.is(b.attempt(b.pay(b.db(), b.once(fine))), discard, "step pay: it is recorded in your own transaction, which wants a daemon that runs on PostgreSQL")
	b.nothing()
	if b.bodies != 0 {
		t.Error("the body ran")
	}
}

// A run that begins with such a step begins under the version of its handler,
// which is the only thing that knows of it when its process is lost.
func TestVersionThatBegan(t *testing.T) {
	b := newBench(t)
	h := b.pay(b.db(), b.once(fine))
	b.try(h, handlers.Version("v1"))
	b.settle(store.Outcome{Lease: b.lease, Kind: store.OutcomeRelease})
	run, err := b.store.Workflows().Get(t.Context(), b.run)
	if err != nil || run.Version != "v1" || run.BegunAt.IsZero() {
		t.Errorf("the run is of version %q and began at %s, %v", run.Version, run.BegunAt, err)
	}
	b.done(b.attempt(h, handlers.Version("v2")), "1", 1)
	if run, err = b.store.Workflows().Get(t.Context(), b.run); err != nil || run.Version != "v1" {
		t.Errorf("in the end the run is of version %q, %v", run.Version, err)
	}
}
