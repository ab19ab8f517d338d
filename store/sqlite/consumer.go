package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// consumer leases messages of one queue.
type consumer struct {
	worker
	queue string
	// claim is the number of the last claim. It lives in memory alone: a worker
	// row is of one process, so that its numbers never recur.
	claim atomic.Int64
	// leased is how many messages the last claim found: about as many as the
	// next one will.
	leased atomic.Int64
}

func (d *database) Consumer(ctx context.Context, queue string, opts store.WorkerOptions) (store.Consumer, error) {
	w, err := d.register(ctx, store.KindConsumer, queue, opts)
	if err != nil {
		return nil, err
	}
	return &consumer{worker: w, queue: queue}, nil
}

func (c *consumer) Queue() string { return c.queue }

const (
	sqlConsumerQueue = `
SELECT w.state, q.id, q.max_attempts, EXISTS (SELECT 1 FROM claims WHERE queue_id = q.id AND expires_at <= ?2)
FROM workers w LEFT JOIN queues q ON q.name = w.queue
WHERE w.id = ?1`
	sqlNextReady = `
SELECT m.id, m.attempts, m.priority, m.enqueued_at, x.ready_at, m.headers, m.payload
FROM ready x CROSS JOIN messages m ON m.id = x.message_id
WHERE x.queue_id = ?1
ORDER BY x.priority, x.message_id
LIMIT ?2 + 0`
	sqlInsertClaim = `
INSERT INTO claims (worker_id, claim, queue_id, held, leased_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)`
	// What is leased is the first of what is ready, up to the last message.
	whereFirst      = `WHERE queue_id = ?1 AND (priority, message_id) <= (?2, ?3)`
	sqlInsertLeases = `
INSERT INTO leases (message_id, worker_id, claim, queue_id, ready_at)
SELECT message_id, ?4, ?5, queue_id, ready_at FROM ready ` + whereFirst
	sqlTakeReady = `DELETE FROM ready ` + whereFirst
)

func (c *consumer) Dequeue(ctx context.Context, limit int, lease time.Duration) ([]store.LeasedMessage, error) {
	if limit <= 0 || lease <= 0 {
		return nil, store.Invalidf("lease messages of queue %s: limit %d and lease %s must be positive", c.queue, limit, lease)
	}
	leased := make([]store.LeasedMessage, 0, min(limit, int(c.leased.Load())+16))
	err := c.d.write(ctx, unflushed, func(t *tx) (err error) {
		leased, err = c.dequeue(t, leased, limit, lease)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lease messages of queue %s: %w", c.queue, err)
	}
	c.leased.Store(int64(len(leased)))
	return leased, nil
}

func (c *consumer) dequeue(t *tx, leased []store.LeasedMessage, limit int, lease time.Duration) ([]store.LeasedMessage, error) {
	var (
		state       store.WorkerState
		queue       sql.NullInt64
		maxAttempts sql.NullInt64
		anyRunOut   bool
	)
	err := t.row(sqlConsumerQueue, []any{c.id, t.now}, &state, &queue, &maxAttempts, &anyRunOut)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, &store.NotReadyError{Worker: c.id, State: store.WorkerStopped}
	case err != nil:
		return nil, err
	case state != store.WorkerReady:
		return nil, &store.NotReadyError{Worker: c.id, State: state}
	case !queue.Valid:
		return nil, unknownQueue(t, c.queue, "")
	}
	if anyRunOut {
		if _, err := t.giveBack(runOut(queue.Int64, t.now)); err != nil {
			return nil, err
		}
	}
	fence := store.Lease{Worker: c.id, Claim: c.claim.Add(1)}
	if leased, err = t.next(leased, fence, queue.Int64, limit); err != nil {
		return nil, err
	}
	if len(leased) == 0 {
		if anyRunOut {
			return leased, nil
		}
		return leased, errNothing
	}
	for i := range leased {
		leased[i].MaxAttempts = int(maxAttempts.Int64)
	}
	return leased, t.lease(leased, queue.Int64, t.now+micros(lease))
}

// lease takes messages that are the first of a queue out of those that are ready.
func (t *tx) lease(leased []store.LeasedMessage, queue, until int64) error {
	fence, last := leased[0].Lease, leased[len(leased)-1]
	if _, err := t.exec(sqlInsertClaim, fence.Worker, fence.Claim, queue, len(leased), t.now, until); err != nil {
		return err
	}
	if _, err := t.exec(sqlInsertLeases, queue, last.Priority, last.ID, fence.Worker, fence.Claim); err != nil {
		return err
	}
	_, err := t.exec(sqlTakeReady, queue, last.Priority, last.ID)
	return err
}

// next appends the next ready messages of a queue.
func (t *tx) next(leased []store.LeasedMessage, fence store.Lease, queue int64, limit int) ([]store.LeasedMessage, error) {
	err := t.rows(sqlNextReady, []any{queue, limit}, func(rows *sql.Rows) error {
		m := store.LeasedMessage{Lease: fence}
		var attempts int
		var enqueued, ready int64
		var headers, payload []byte
		if err := rows.Scan(&m.ID, &attempts, &m.Priority, &enqueued, &ready, &headers, &payload); err != nil {
			return err
		}
		m.Attempt, m.Headers, m.Payload = attempts+1, store.ParseHeaders(headers), payload
		m.EnqueuedAt, m.Waited = time.UnixMicro(enqueued).UTC(), fromMicros(max(0, t.now-ready))
		leased = append(leased, m)
		return nil
	})
	return leased, err
}

// holding runs a write for those leases that are held; the others' error is
// store.ErrLeaseLost. fn gets the positions of those that are held.
func (c *consumer) holding(ctx context.Context, leases []store.Lease, fn func(t *tx, is []bool) error) ([]error, error) {
	errs := make([]error, len(leases))
	if len(leases) == 0 {
		return errs, nil
	}
	err := c.d.write(ctx, unflushed, func(t *tx) error {
		is, err := held(t, leases)
		if err != nil {
			return err
		}
		some := false
		for i := range is {
			if errs[i] = nil; !is[i] {
				errs[i] = store.ErrLeaseLost
			}
			some = some || is[i]
		}
		if !some {
			return errNothing
		}
		return fn(t, is)
	})
	return errs, err
}

const sqlMarkStarted = `UPDATE leases SET started = 1 WHERE message_id IN (SELECT value FROM json_each(?1))`

func (c *consumer) Started(ctx context.Context, leases ...store.Lease) ([]error, error) {
	errs, err := c.holding(ctx, leases, func(t *tx, is []bool) error {
		var ids idList
		for i, l := range leases {
			if is[i] {
				ids.add(l.ID)
			}
		}
		_, err := t.exec(sqlMarkStarted, ids.json())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mark %d messages of queue %s as started: %w", len(leases), c.queue, err)
	}
	return errs, nil
}

const sqlExtendClaims = withLeases + `
UPDATE claims SET expires_at = ?3 FROM f WHERE claims.worker_id = f.worker_id AND claims.claim = f.claim`

func (c *consumer) Extend(ctx context.Context, d time.Duration, leases ...store.Lease) ([]error, error) {
	if d <= 0 {
		return nil, store.Invalidf("extend leases of queue %s: %s is not positive", c.queue, d)
	}
	errs, err := c.holding(ctx, leases, func(t *tx, is []bool) error {
		var rec records
		seen := make(map[store.Lease]bool)
		for i, l := range leases {
			if claim := (store.Lease{Worker: l.Worker, Claim: l.Claim}); is[i] && !seen[claim] {
				seen[claim] = true
				rec.add(l.ID, l.Worker, l.Claim)
			}
		}
		_, err := t.exec(sqlExtendClaims, rec.n, rec.buf, t.now+micros(d))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("extend %d leases of queue %s: %w", len(leases), c.queue, err)
	}
	return errs, nil
}

// With each row a message id, and where the progress, in JSON, is in the texts.
const sqlSetProgress = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, at) AS (
    SELECT CAST(substr(?2, i*40 + 1, 20) AS INTEGER), CAST(substr(?2, i*40 + 21, 20) AS INTEGER) FROM r)
UPDATE leases SET progress = CAST(substr(?3, f.at>>31, f.at&0x7fffffff) AS TEXT) FROM f WHERE leases.message_id = f.id`

func (c *consumer) Progress(ctx context.Context, progress map[store.Lease]store.Progress) error {
	leases := make([]store.Lease, 0, len(progress))
	for l := range progress {
		leases = append(leases, l)
	}
	errs, err := c.holding(ctx, leases, func(t *tx, is []bool) error {
		var rec records
		var text texts
		for i, l := range leases {
			if !is[i] {
				continue
			}
			p, err := encodeProgress(progress[l], t.now)
			if err != nil {
				return err
			}
			rec.add(l.ID, text.add(p))
		}
		_, err := t.exec(sqlSetProgress, rec.n, rec.buf, text.buf)
		return err
	})
	if err == nil && slices.Contains(errs, store.ErrLeaseLost) {
		err = store.ErrLeaseLost
	}
	if err != nil {
		return fmt.Errorf("publish the progress of %d messages of queue %s: %w", len(leases), c.queue, err)
	}
	return nil
}
