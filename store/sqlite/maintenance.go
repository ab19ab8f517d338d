package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// claimed chooses claims to give back.
type claimed struct {
	queue  int64 // 0 is every queue's
	by     any   // the workers' ids in JSON; nil is everyone's
	until  int64 // those that expire by then
	reason string
	// free spares the attempts that had started.
	free bool
}

// runOut chooses the claims of a queue that have run out; queue 0 is all.
func runOut(queue, now int64) claimed {
	return claimed{queue: queue, until: now, reason: "lease ran out"}
}

// heldBy chooses all that a worker holds, without costing attempts.
func heldBy(worker int64) claimed {
	return claimed{by: jsonIDs([]int64{worker}), until: math.MaxInt64, free: true}
}

// leftBy chooses all that dead workers held.
func leftBy(workers []int64) claimed {
	return claimed{by: jsonIDs(workers), until: math.MaxInt64, reason: "its worker died"}
}

const (
	whereClaimed = `(?1 = 0 OR c.queue_id = ?1) AND (?2 IS NULL OR c.worker_id IN (SELECT value FROM json_each(?2))) AND c.expires_at <= ?3`

	sqlClaimedQueues = `
SELECT q.name, sum(c.held) FROM claims c JOIN queues q ON q.id = c.queue_id
WHERE ` + whereClaimed + ` GROUP BY q.id`
	// A run that is being cancelled does not die of this: it ends as cancelled
	// when it is leased next.
	sqlClaimedStarted = `
SELECT m.id, m.attempts, CASE WHEN w.cancelling THEN 0x7fffffff ELSE q.max_attempts END, m.errors, l.worker_id
FROM leases l CROSS JOIN claims c ON c.worker_id = l.worker_id AND c.claim = l.claim
    CROSS JOIN messages m ON m.id = l.message_id CROSS JOIN queues q ON q.id = m.queue_id
    LEFT JOIN runs w ON w.run_id = l.message_id
WHERE l.started AND ` + whereClaimed
	sqlReadyClaimed = `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT m.queue_id, m.priority, m.id, l.ready_at
FROM leases l CROSS JOIN claims c ON c.worker_id = l.worker_id AND c.claim = l.claim CROSS JOIN messages m ON m.id = l.message_id
WHERE ` + whereClaimed + `
ORDER BY 1, 2, 3`
	sqlEndClaimedLeases = `
DELETE FROM leases WHERE EXISTS (
    SELECT 1 FROM claims c WHERE c.worker_id = leases.worker_id AND c.claim = leases.claim AND ` + whereClaimed + `)`
	sqlEndClaimed = `DELETE FROM claims AS c WHERE ` + whereClaimed
)

// giveBack makes leased messages ready again. Those that had started lose an
// attempt, and are dead if it was the last, unless the choice spares them.
func (t *tx) giveBack(which claimed) (given store.GivenBack, err error) {
	args := []any{which.queue, which.by, which.until}
	var n int64
	var name string
	err = t.rows(sqlClaimedQueues, args, scanInto(func() {
		given.Ready += n
		t.wake(name)
	}, &name, &n))
	if err != nil || given.Ready == 0 {
		return given, err
	}
	if !which.free {
		var started []attempted
		if err := t.rows(sqlClaimedStarted, args, scanAttempted(func(m attempted) { started = append(started, m) })); err != nil {
			return given, err
		}
		var c changes
		var ended, dead []int64
		for _, m := range started {
			state, err := c.fail(m, which.reason, t.now, 0, false)
			if err != nil {
				return given, err
			}
			if state == store.Dead {
				given.Dead++
				given.Ready--
				dead = append(dead, m.id)
			}
			ended = append(ended, m.id)
		}
		if err := c.write(t); err != nil {
			return given, err
		}
		if err := t.deleteIDs(ended, leasesOfMessages); err != nil {
			return given, err
		}
		if err := t.runsEnded(dead); err != nil {
			return given, err
		}
	}
	return given, t.each(args, sqlReadyClaimed, sqlEndClaimedLeases, sqlEndClaimed)
}

// releaseAll gives back all that a worker holds and returns how many.
func (d *database) releaseAll(ctx context.Context, worker int64) (int64, error) {
	var given store.GivenBack
	err := d.write(ctx, flushed, func(t *tx) (err error) {
		given, err = t.giveBack(heldBy(worker))
		return err
	})
	return given.Ready, err
}

func (a *admin) GiveBack(ctx context.Context) (given store.GivenBack, err error) {
	err = a.d.write(ctx, flushed, func(t *tx) (err error) {
		given, err = t.giveBack(runOut(0, t.now))
		if err == nil && given == (store.GivenBack{}) {
			err = errNothing
		}
		return err
	})
	if err != nil {
		return store.GivenBack{}, fmt.Errorf("give back the leases that ran out: %w", err)
	}
	return given, nil
}

const (
	sqlStopSilent = `
UPDATE workers SET state = 'stopped', stopped_at = ?1, reclaimed = 1
WHERE state <> 'stopped' AND heartbeat_at <= ?2
RETURNING id`
	sqlStopSlot = `
UPDATE workers SET state = 'stopped', stopped_at = ?1, reclaimed = 1
WHERE state <> 'stopped' AND slot = ?2
RETURNING id`
)

// reclaim stops workers by a statement and gives back what they held.
func (a *admin) reclaim(ctx context.Context, stop string, arg func(t *tx) any) (given store.GivenBack, err error) {
	err = a.d.write(ctx, flushed, func(t *tx) error {
		var ids []int64
		if err := t.rows(stop, []any{t.now, arg(t)}, collect(&ids)); err != nil {
			return err
		}
		if len(ids) == 0 {
			return errNothing
		}
		if given, err = t.giveBack(leftBy(ids)); err != nil {
			return err
		}
		given.Workers = int64(len(ids))
		t.wake("")
		return nil
	})
	return given, err
}

func (a *admin) Reclaim(ctx context.Context, maxAge time.Duration) (store.GivenBack, error) {
	given, err := a.reclaim(ctx, sqlStopSilent, func(t *tx) any { return t.now - micros(maxAge) })
	if err != nil {
		return store.GivenBack{}, fmt.Errorf("reclaim the messages of workers without a heartbeat for %s: %w", maxAge, err)
	}
	return given, nil
}

func (a *admin) ReclaimSlot(ctx context.Context, slot string) (store.GivenBack, error) {
	if slot == "" {
		return store.GivenBack{}, store.Invalidf("reclaim a slot: its name is empty, and workers without a slot are nobody's")
	}
	given, err := a.reclaim(ctx, sqlStopSlot, func(*tx) any { return store.CleanText(slot) })
	if err != nil {
		return store.GivenBack{}, fmt.Errorf("reclaim the messages of slot %s: %w", slot, err)
	}
	return given, nil
}

const (
	sqlNextDue = `SELECT min((SELECT min(due_at) FROM delayed WHERE queue_id = q.id)) FROM queues q`
	sqlDue     = `
SELECT d.message_id, q.name FROM queues q CROSS JOIN delayed d INDEXED BY delayed_due ON d.queue_id = q.id
WHERE d.due_at <= ?1 LIMIT ?2 + 0`
	// A message has waited since it was due, not since it was moved.
	sqlPromote = `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT m.queue_id, m.priority, m.id, d.due_at
FROM json_each(?1) j CROSS JOIN delayed d ON d.message_id = j.value CROSS JOIN messages m ON m.id = d.message_id`
)

func (a *admin) Promote(ctx context.Context, limit int) (moved int64, next time.Duration, err error) {
	if limit <= 0 {
		return 0, 0, store.Invalidf("make delayed messages ready: limit %d is not positive", limit)
	}
	// Usually nothing is due, and a look tells.
	if next, err = a.nextDue(ctx); err == nil && next == 0 {
		if moved, err = a.promote(ctx, limit); err == nil {
			next, err = a.nextDue(ctx)
		}
	}
	if err != nil {
		return moved, 0, fmt.Errorf("make delayed messages ready: %w", err)
	}
	return moved, next, nil
}

// nextDue is the time until the next delayed message is due, negative when
// there is none that waits for a time.
func (a *admin) nextDue(ctx context.Context) (time.Duration, error) {
	var due sql.NullInt64
	if err := a.d.readRow(ctx, sqlNextDue, nil, &due); err != nil {
		return 0, err
	}
	if !due.Valid || due.Int64 == never {
		return -1, nil
	}
	return fromMicros(max(0, due.Int64-a.d.now())), nil
}

func (a *admin) promote(ctx context.Context, limit int) (moved int64, err error) {
	err = a.d.write(ctx, flushed, func(t *tx) error {
		var ids idList
		var id int64
		var name string
		err := t.rows(sqlDue, []any{t.now, limit}, scanInto(func() {
			ids.add(id)
			t.wake(name)
		}, &id, &name))
		if err != nil {
			return err
		}
		if ids.empty() {
			return errNothing
		}
		if moved, err = t.exec(sqlPromote, ids.json()); err != nil {
			return err
		}
		_, err = t.exec(sqlDeleteDelayed, ids.json())
		return err
	})
	return moved, err
}

const sqlExpired = `
SELECT a.message_id FROM queues q JOIN json_each('["done", "cancelled"]') s
    CROSS JOIN archive a INDEXED BY archive_state ON a.queue_id = q.id AND a.state = s.value
WHERE q.retention >= 0 AND a.finished_at < ?1 - q.retention
LIMIT ?2 + 0`

func (a *admin) PurgeExpired(ctx context.Context, limit int) (purged int64, err error) {
	if limit <= 0 {
		return 0, store.Invalidf("purge what is past its retention: limit %d is not positive", limit)
	}
	err = a.d.write(ctx, flushed, func(t *tx) (err error) {
		purged, err = t.deleteFound(sqlExpired, []any{t.now, limit}, t.deleteArchived)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("purge what is past its retention: %w", err)
	}
	return purged, nil
}

const (
	sqlLeader = `
SELECT l.worker_id, l.expires_at, coalesce(w.state, 'stopped')
FROM leader l LEFT JOIN workers w ON w.id = l.worker_id WHERE l.id = 1`
	sqlSetLeader = `
INSERT INTO leader (id, worker_id, expires_at) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET worker_id = excluded.worker_id, expires_at = excluded.expires_at`
)

func (a *admin) Lead(ctx context.Context, ttl time.Duration) (leads bool, err error) {
	err = a.d.write(ctx, unflushed, func(t *tx) error {
		state, _, err := stateOf(t, a.id)
		if errors.Is(err, store.ErrNotFound) || (err == nil && state != store.WorkerReady) {
			return errNothing // who does not work does not lead
		}
		if err != nil {
			return err
		}
		var leader, expires int64
		var leaderState store.WorkerState
		err = t.row(sqlLeader, nil, &leader, &expires, &leaderState)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil && leader != a.id && expires > t.now && leaderState == store.WorkerReady {
			return errNothing
		}
		leads = true
		_, err = t.exec(sqlSetLeader, a.id, t.now+micros(ttl))
		return err
	})
	if err != nil {
		return false, fmt.Errorf("take the lead of maintenance: %w", err)
	}
	return leads, nil
}
