package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// changes is what is to become of leased messages. It is filled item by item
// and written by a constant number of statements.
type changes struct {
	archived records // id, output
	text     texts   // the outputs and places
	delayed  records // id, due
	ready    records // id, since when
	failed   failures
	places   records // id, where the places are at which the failure of a run begins
	deleted  []int64
}

// attempted is what is known of a leased message whose attempt is recorded.
type attempted struct {
	id          int64
	attempts    int
	maxAttempts int
	errors      []byte
	worker      int64
}

const (
	keep        = -1 // stands for a time that stays as it is
	isDead      = -1 // stands for the output of a message that died
	isCancelled = -2 // and of a run that was cancelled
)

func (c *changes) done(id int64, output []byte) {
	at := int64(0)
	if len(output) > 0 {
		at = c.text.add(output)
	}
	c.archived.add(id, at)
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
	c.failed.add(m.id, m.attempts+1, errs)
	switch {
	case last || m.attempts+1 >= m.maxAttempts:
		c.archived.add(m.id, isDead)
		return store.Dead, nil
	case delay > 0:
		c.delayed.add(m.id, now+micros(delay))
		return store.Delayed, nil
	default:
		c.ready.add(m.id, now)
		return store.Ready, nil
	}
}

// failedAt notes where the failure of a run begins that dies of it.
func (c *changes) failedAt(id int64, places []store.Place) error {
	if len(places) == 0 {
		return nil
	}
	raw, err := json.Marshal(places)
	if err != nil {
		return fmt.Errorf("encode where run %d has failed: %w", id, err)
	}
	c.places.add(id, c.text.add(raw))
	return nil
}

func (c *changes) snooze(id, now int64, delay time.Duration) store.State {
	if delay == 0 {
		return c.release(id)
	}
	c.delayed.add(id, now+micros(delay))
	return store.Delayed
}

// wait lets a run wait; a negative delay is until it is woken.
func (c *changes) wait(id, now int64, delay time.Duration) store.State {
	switch {
	case delay < 0:
		c.delayed.add(id, never)
	case delay == 0:
		c.ready.add(id, now)
		return store.Ready
	default:
		c.delayed.add(id, now+micros(delay))
	}
	return store.Delayed
}

func (c *changes) cancel(id int64) store.State {
	c.archived.add(id, isCancelled)
	return store.Cancelled
}

// release puts a message back where it was.
func (c *changes) release(id int64) store.State {
	c.ready.add(id, keep)
	return store.Ready
}

func (c *changes) delete(id int64) { c.deleted = append(c.deleted, id) }

const (
	// With each row a message id and the place of its output in the texts,
	// which is negative if it is dead or cancelled.
	sqlArchiveLeased = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, at) AS (
    SELECT CAST(substr(?2, i*40 + 1, 20) AS INTEGER), CAST(substr(?2, i*40 + 21, 20) AS INTEGER) FROM r)
INSERT INTO archive (message_id, queue_id, state, finished_at, worker_id, output)
SELECT f.id, l.queue_id, CASE WHEN f.at >= 0 THEN 'done' WHEN f.at = -1 THEN 'dead' ELSE 'cancelled' END, ?4, l.worker_id,
    CASE WHEN f.at > 0 THEN CAST(substr(?3, f.at>>31, f.at&0x7fffffff) AS TEXT) END
FROM f CROSS JOIN leases l ON l.message_id = f.id`

	// With each row an archived message, and the place of its places in the texts.
	sqlArchiveFailed = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, at) AS (
    SELECT CAST(substr(?2, i*40 + 1, 20) AS INTEGER), CAST(substr(?2, i*40 + 21, 20) AS INTEGER) FROM r)
UPDATE archive SET failed = CAST(substr(?3, f.at>>31, f.at&0x7fffffff) AS TEXT) FROM f WHERE archive.message_id = f.id`

	// With each row a message id, and when it is due or since when it is ready.
	withTimes = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, at) AS (
    SELECT CAST(substr(?2, i*40 + 1, 20) AS INTEGER), CAST(substr(?2, i*40 + 21, 20) AS INTEGER) FROM r)`
	sqlDelayLeased = withTimes + `
INSERT INTO delayed (message_id, queue_id, due_at)
SELECT f.id, l.queue_id, f.at FROM f CROSS JOIN leases l ON l.message_id = f.id`
	sqlReadyLeased = withTimes + `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT m.queue_id, m.priority, m.id, CASE WHEN f.at < 0 THEN l.ready_at ELSE f.at END
FROM f CROSS JOIN leases l ON l.message_id = f.id CROSS JOIN messages m ON m.id = f.id`

	// With each row a message id, its attempts, and where its errors are in the
	// texts. A message's row changes only here and where a replay sets its
	// attempts to zero (sqlForgiveAttempts).
	sqlFail = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, attempts, errors) AS (
    SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)
UPDATE messages SET attempts = f.attempts, errors = CAST(substr(?3, f.errors>>31, f.errors&0x7fffffff) AS TEXT) FROM f WHERE messages.id = f.id`
)

// write writes the changes. The leases stay, for the caller to end.
func (c *changes) write(t *tx) error {
	if c.archived.n > 0 {
		if _, err := t.exec(sqlArchiveLeased, c.archived.n, c.archived.buf, c.text.buf, t.now); err != nil {
			return err
		}
	}
	if c.places.n > 0 {
		if _, err := t.exec(sqlArchiveFailed, c.places.n, c.places.buf, c.text.buf); err != nil {
			return err
		}
	}
	if c.delayed.n > 0 {
		if _, err := t.exec(sqlDelayLeased, c.delayed.n, c.delayed.buf); err != nil {
			return err
		}
	}
	if c.ready.n > 0 {
		if _, err := t.exec(sqlReadyLeased, c.ready.n, c.ready.buf); err != nil {
			return err
		}
	}
	if err := c.failed.write(t); err != nil {
		return err
	}
	return t.deleteMessages(c.deleted)
}

// failures are the attempts and errors that messages have now.
type failures struct {
	rows records // id, attempts, errors
	text texts
}

func (f *failures) add(id int64, attempts int, errors []byte) {
	f.rows.add(id, int64(attempts), f.text.add(errors))
}

func (f *failures) write(t *tx) error {
	if f.rows.n == 0 {
		return nil
	}
	_, err := t.exec(sqlFail, f.rows.n, f.rows.buf, f.text.buf)
	return err
}

const (
	sqlAttempted = `
SELECT m.id, m.attempts, q.max_attempts, m.errors, l.worker_id
FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value
    CROSS JOIN queues q ON q.id = m.queue_id CROSS JOIN leases l ON l.message_id = m.id`
	// Most calls are about one claim.
	sqlLowerHeldOne = `UPDATE claims SET held = held - ?3 WHERE worker_id = ?1 AND claim = ?2`
	sqlEndClaimOne  = `DELETE FROM claims WHERE worker_id = ?1 AND claim = ?2 AND held <= 0`
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
	ids := make([]int64, len(leases))
	ended := make(map[store.Lease]int64)
	for i, l := range leases {
		ids[i] = l.ID
		ended[store.Lease{Worker: l.Worker, Claim: l.Claim}]++
	}
	if err := t.deleteIDs(ids, leasesOfMessages); err != nil {
		return err
	}
	if claim := (store.Lease{Worker: leases[0].Worker, Claim: leases[0].Claim}); len(ended) == 1 {
		if _, err := t.exec(sqlLowerHeldOne, claim.Worker, claim.Claim, ended[claim]); err != nil {
			return err
		}
		_, err := t.exec(sqlEndClaimOne, claim.Worker, claim.Claim)
		return err
	}
	var claims records
	for c, n := range ended {
		claims.add(c.Worker, c.Claim, n)
	}
	return t.each([]any{claims.n, claims.buf}, sqlLowerHeld, sqlEndClaims)
}
