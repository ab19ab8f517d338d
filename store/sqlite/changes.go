package sqlite

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// changes is what is to become of leased messages. It is filled item by item
// and written by a constant number of statements.
type changes struct {
	archived records // to the archive: id, dead, attempts, errors, output
	delayed  records // to delayed: id, attempts, errors, due
	again    records // ready again, changed: id, attempts, errors
	text     texts
	leaving  idList // their rows in messages go
	deleted  idList // of these, those that are not kept anywhere
}

// attempted is what is known of a leased message whose attempt is recorded.
type attempted struct {
	id          int64
	attempts    int
	maxAttempts int
	errors      []byte
	worker      int64
}

// keep stands for errors that stay as they are in the row.
const keep = -1

func (c *changes) done(id int64, output []byte) {
	at, length := c.text.add(output)
	c.archived.add(id, 0, keep, 1, keep, at, length)
	c.leaving.add(id)
}

// fail counts a failed attempt: the message waits, is ready again, or dies of
// it. It returns where the message is then.
func (c *changes) fail(m attempted, reason string, now int64, delay time.Duration, last bool) (store.State, error) {
	errs, err := appendError(m.errors, store.AttemptError{
		Attempt: m.attempts + 1,
		At:      time.UnixMicro(now).UTC(),
		Error:   store.CleanError(reason),
		Worker:  m.worker,
	})
	if err != nil {
		return "", fmt.Errorf("errors of message %d: %w", m.id, err)
	}
	at, length := c.text.add(errs)
	attempts := int64(m.attempts + 1)
	switch {
	case last || m.attempts+1 >= m.maxAttempts:
		c.archived.add(m.id, 1, attempts, at, length, 1, 0)
		c.leaving.add(m.id)
		return store.Dead, nil
	case delay > 0:
		c.delayed.add(m.id, attempts, at, length, now+micros(delay))
		c.leaving.add(m.id)
		return store.Delayed, nil
	default:
		c.again.add(m.id, attempts, at, length)
		return store.Ready, nil
	}
}

func (c *changes) snooze(id, now int64, delay time.Duration) store.State {
	if delay == 0 {
		return store.Ready // the row is there, and its lease goes
	}
	c.delayed.add(id, keep, 1, keep, now+micros(delay))
	c.leaving.add(id)
	return store.Delayed
}

func (c *changes) delete(id int64) {
	c.leaving.add(id)
	c.deleted.add(id)
}

const (
	// With each row a message id, whether it is dead, its attempts, and where
	// its errors and its output are in the texts; -1 keeps what the row has.
	sqlArchiveLeased = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, dead, attempts, errors_at, errors_len, output) AS (
    SELECT CAST(substr(?2, i*140 + 1, 20) AS INTEGER), CAST(substr(?2, i*140 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*140 + 41, 20) AS INTEGER), CAST(substr(?2, i*140 + 61, 20) AS INTEGER),
        CAST(substr(?2, i*140 + 81, 20) AS INTEGER),
        NULLIF(CAST(substr(?3, CAST(substr(?2, i*140 + 101, 20) AS INTEGER), CAST(substr(?2, i*140 + 121, 20) AS INTEGER)) AS TEXT), '')
    FROM r)
INSERT INTO archive (id, queue_id, state, priority, attempts, enqueued_at, finished_at, worker_id, headers, errors, output, payload)
SELECT m.id, m.queue_id, CASE f.dead WHEN 0 THEN 'done' ELSE 'dead' END, m.priority,
    CASE WHEN f.attempts < 0 THEN m.attempts ELSE f.attempts END, m.enqueued_at, ?4, l.worker_id, m.headers,
    CASE WHEN f.errors_len < 0 THEN m.errors ELSE CAST(substr(?3, f.errors_at, f.errors_len) AS TEXT) END,
    f.output, m.payload
FROM f CROSS JOIN messages m ON m.id = f.id CROSS JOIN leases l ON l.message_id = f.id`

	// With each row a message id, its attempts, where its errors are in the
	// texts, and when it is due; -1 keeps what the row has.
	sqlDelayLeased = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, attempts, errors_at, errors_len, due_at) AS (
    SELECT CAST(substr(?2, i*100 + 1, 20) AS INTEGER), CAST(substr(?2, i*100 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 41, 20) AS INTEGER), CAST(substr(?2, i*100 + 61, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 81, 20) AS INTEGER)
    FROM r)
INSERT INTO delayed (id, queue_id, priority, attempts, enqueued_at, due_at, headers, errors, payload)
SELECT m.id, m.queue_id, m.priority, CASE WHEN f.attempts < 0 THEN m.attempts ELSE f.attempts END, m.enqueued_at, f.due_at,
    m.headers, CASE WHEN f.errors_len < 0 THEN m.errors ELSE CAST(substr(?3, f.errors_at, f.errors_len) AS TEXT) END, m.payload
FROM f CROSS JOIN messages m ON m.id = f.id`

	// With each row a message id, its attempts, and where its errors are in the
	// texts. It is ready again: the only change that a message row ever sees.
	sqlFailLeased = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, attempts, errors) AS (
    SELECT CAST(substr(?2, i*80 + 1, 20) AS INTEGER), CAST(substr(?2, i*80 + 21, 20) AS INTEGER),
        CAST(substr(?3, CAST(substr(?2, i*80 + 41, 20) AS INTEGER), CAST(substr(?2, i*80 + 61, 20) AS INTEGER)) AS TEXT)
    FROM r)
UPDATE messages SET attempts = f.attempts, errors = f.errors, ready_at = ?4 FROM f WHERE messages.id = f.id`
)

// write writes the changes. The leases stay, for the caller to end.
func (c *changes) write(t *tx) error {
	for _, step := range []struct {
		statement string
		rows      records
	}{{sqlArchiveLeased, c.archived}, {sqlDelayLeased, c.delayed}, {sqlFailLeased, c.again}} {
		if step.rows.n == 0 {
			continue
		}
		args := []any{step.rows.n, step.rows.buf, c.text.buf, t.now}
		if step.statement == sqlDelayLeased {
			args = args[:3]
		}
		if _, err := t.exec(step.statement, args...); err != nil {
			return err
		}
	}
	if !c.leaving.empty() {
		if _, err := t.exec(sqlDeleteMessages, c.leaving.json()); err != nil {
			return err
		}
	}
	if c.deleted.empty() {
		return nil
	}
	return t.each([]any{c.deleted.json()}, sqlDeleteSteps, sqlDeleteRuns)
}

const (
	sqlAttempted = `
SELECT m.id, m.attempts, q.max_attempts, m.errors, l.worker_id
FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value
    CROSS JOIN queues q ON q.id = m.queue_id CROSS JOIN leases l ON l.message_id = m.id`
	sqlEndLeases = `DELETE FROM leases WHERE message_id IN (SELECT value FROM json_each(?1))`

	// With each row a worker, a claim, and how many leases it has lost.
	withClaims = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(worker_id, claim, n) AS (
    SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)`
	sqlLowerHeld = withClaims + `
UPDATE claims SET held = held - f.n FROM f WHERE claims.worker_id = f.worker_id AND claims.claim = f.claim`
	sqlEndClaims = withClaims + `
DELETE FROM claims WHERE (worker_id, claim) IN (SELECT worker_id, claim FROM f) AND held <= 0`
)

// scanAttempted collects rows of sqlAttempted's columns.
func scanAttempted(use func(attempted)) func(*sql.Rows) error {
	return func(rows *sql.Rows) error {
		var m attempted
		if err := rows.Scan(&m.id, &m.attempts, &m.maxAttempts, &m.errors, &m.worker); err != nil {
			return err
		}
		use(m)
		return nil
	}
}

// endLeases ends held leases, and the claims that have no other.
func (t *tx) endLeases(leases []store.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	var ids idList
	ended := make(map[store.Lease]int64)
	for _, l := range leases {
		ids.add(l.ID)
		ended[store.Lease{Worker: l.Worker, Claim: l.Claim}]++
	}
	var claims records
	for c, n := range ended {
		claims.add(c.Worker, c.Claim, n)
	}
	if _, err := t.exec(sqlEndLeases, ids.json()); err != nil {
		return err
	}
	return t.each([]any{claims.n, claims.buf}, sqlLowerHeld, sqlEndClaims)
}
