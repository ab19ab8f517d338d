package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
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
	return b.s.fail(ctx, op, b.s.pool.SendBatch(call, &b.b).Close())
}

// sendIn runs the batch within tx.
func (b *batch) sendIn(ctx context.Context, tx pgx.Tx) error {
	if b.b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &b.b).Close()
}

// transaction runs fn in a transaction and commits unless fn fails.
func (s *Store) transaction(ctx context.Context, op string, fn func(ctx context.Context, tx pgx.Tx) error) error {
	call, cancel := s.limited(ctx)
	defer cancel()
	return s.fail(ctx, op, pgx.BeginFunc(call, s.pool, func(tx pgx.Tx) error { return fn(call, tx) }))
}

func duration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

func micros(d time.Duration) int64 { return d.Microseconds() }
