package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// limited bounds a call by the store's own limit, for a server that vanished
// without closing the connection.
func (s *Store) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.limit)
}

// exec runs one statement and returns how many rows it touched.
func (s *Store) exec(ctx context.Context, op, text string, args ...any) (int64, error) {
	call, cancel := s.limited(ctx)
	defer cancel()
	// With an argument-less statement pgx would choose the simple protocol.
	tag, err := s.pool.Exec(call, s.sql(text), args...)
	return tag.RowsAffected(), s.fail(ctx, op, err)
}

// row runs one statement and scans its one row: store.ErrNotFound if there is none.
func (s *Store) row(ctx context.Context, op, text string, args []any, dest ...any) error {
	call, cancel := s.limited(ctx)
	defer cancel()
	return s.fail(ctx, op, s.pool.QueryRow(call, s.sql(text), args...).Scan(dest...))
}

// committed is row for a statement that writes.
func (s *Store) committed(ctx context.Context, op, text string, args []any, dest ...any) error {
	failpoint.At(failpoint.Commits, op)
	err := s.row(ctx, op, text, args, dest...)
	failpoint.At(failpoint.Committed, op)
	return err
}

// rows runs one statement and scans all its rows.
func rows[T any](ctx context.Context, s *Store, op, text string, args []any, scan pgx.RowToFunc[T]) ([]T, error) {
	call, cancel := s.limited(ctx)
	defer cancel()
	r, err := s.pool.Query(call, s.sql(text), args...)
	if err != nil {
		return nil, s.fail(ctx, op, err)
	}
	out, err := pgx.CollectRows(r, scan)
	return out, s.fail(ctx, op, err)
}

// batch is statements that go out together. Sent as they are, they are one
// transaction in one round trip.
type batch struct {
	s *Store
	b pgx.Batch
}

func (s *Store) batch() *batch { return &batch{s: s} }

func (b *batch) add(text string, args ...any) *pgx.QueuedQuery {
	return b.b.Queue(b.s.sql(text), args...)
}

// send runs the batch as one transaction of its own.
func (b *batch) send(ctx context.Context, op string) error {
	call, cancel := b.s.limited(ctx)
	defer cancel()
	failpoint.At(failpoint.Commits, op)
	err := b.s.pool.SendBatch(call, &b.b).Close()
	failpoint.At(failpoint.Committed, op)
	return b.s.fail(ctx, op, err)
}

// sendIn runs the batch within tx.
func (b *batch) sendIn(ctx context.Context, tx pgx.Tx) error {
	if b.b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &b.b).Close()
}

// idleLimit ends a transaction whose client sends nothing more, because it is
// frozen or gone: its locks must not stop the others.
const idleLimit = 5 * time.Second

// sqlLimits bounds a transaction of several round trips: how long it may be
// idle, and each of its statements. They are set in the transaction, for
// behind PgBouncer nothing can be set on the session.
const sqlLimits = `
select set_config('idle_in_transaction_session_timeout', $1, true), set_config('statement_timeout', $2, true)`

// limits are the parameters of sqlLimits, in milliseconds.
func (s *Store) limits() []any {
	return []any{milliseconds(min(idleLimit, s.cfg.StatementTimeout)), milliseconds(s.cfg.StatementTimeout)}
}

// milliseconds is a duration as PostgreSQL's settings have it, where zero is
// without limit.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// transaction runs fn in a transaction and commits unless fn fails. fn's first
// statements go to b, which bounds the transaction.
func (s *Store) transaction(ctx context.Context, op string, fn func(ctx context.Context, b *batch, tx pgx.Tx) error) error {
	call, cancel := s.limited(ctx)
	defer cancel()
	err := pgx.BeginFunc(call, s.pool, func(tx pgx.Tx) error {
		b := s.batch()
		b.add(sqlLimits, s.limits()...)
		err := fn(call, b, tx)
		failpoint.At(failpoint.Commits, op)
		return err
	})
	failpoint.At(failpoint.Committed, op)
	return s.fail(ctx, op, err)
}

func duration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

func micros(d time.Duration) int64 { return d.Microseconds() }
