package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlStaleIDs = `
select id, coalesce(queue_id, 0) from {{schema}}.workers
where state <> 'stopped' and heartbeat_at <= {{now}} - $2 * interval '1 microsecond' order by id`

	sqlSlotIDs = `
select id, coalesce(queue_id, 0) from {{schema}}.workers where state <> 'stopped' and slot = $1 order by id`

	// sqlLockDead locks those of the workers $2 that are still without a heartbeat
	// for $3; null asks nothing of their heartbeats.
	sqlLockDead = `
select id from {{schema}}.workers where id = any($2::bigint[]) and state <> 'stopped'
    and ($3::bigint is null or heartbeat_at <= {{now}} - $3 * interval '1 microsecond')
order by id for update`

	// sqlStopDead stops those of the workers $2 that have no claim left.
	sqlStopDead = `
update {{schema}}.workers w set state = 'stopped', stopped_at = {{now}}, reclaimed = true
where w.id = any($2::bigint[]) and not exists (select from {{schema}}.claims c where c.worker_id = w.id)`

	sqlRunOutQueues = `
select q.id, q.name from {{schema}}.queues q where q.id in (select c.queue_id from {{schema}}.claims c where c.expires_at <= {{now}})
order by q.id`

	sqlPromotePlan = `select ` + planNested

	// sqlPromote makes messages ready that are due and were not long before $3,
	// where none is left but dead rows. Two of it share the work.
	sqlPromote = `
with due as (
    delete from {{schema}}.delayed d where d.id in (
        select id from {{schema}}.delayed
        where due_at <= {{now}} and due_at > coalesce($3::timestamptz, '-infinity') - interval '5 s'
        order by due_at limit $2 for update skip locked)
    returning d.id, d.enqueued_at, d.due_at, d.queue_id, d.attempts, d.priority, d.headers, d.errors, d.payload
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
    select id, enqueued_at, due_at, queue_id, attempts, priority, headers, errors, payload from due
    returning queue_id
)
select {{now}}, count(*), coalesce(array_agg(distinct q.name), '{}')
from ready r join {{schema}}.queues q on q.id = r.queue_id`

	// sqlNextDue passes over those that wait until they are woken.
	sqlNextDue = `
select case when min(due_at) is null then -1
    else greatest(0, ceil(extract(epoch from min(due_at) - {{now}}) * 1000000))::bigint end
from {{schema}}.delayed where due_at > coalesce($2::timestamptz, '-infinity') - interval '5 s' and due_at < 'infinity'`

	// sqlLead makes worker $2, if it is ready, the leader unless another one's
	// time has not run out.
	sqlLead = `
insert into {{schema}}.leader as l (id, worker_id, expires_at)
select 1, a.id, {{now}} + $3 * interval '1 microsecond' from {{schema}}.workers a where a.id = $2 and a.state = 'ready'
on conflict (id) do update set worker_id = excluded.worker_id, expires_at = excluded.expires_at
    where l.worker_id = excluded.worker_id or l.expires_at <= {{now}}
        or not exists (select from {{schema}}.workers w where w.id = l.worker_id and w.state = 'ready')`
)

// sqlLockLimit bounds how long each statement that follows in the transaction
// waits for a lock.
const sqlLockLimit = `select set_config('lock_timeout', $1, true)`

// reclaimWait is how long a reclaim waits for the row of a worker, or a settlement
// of its leases, with its queue's claim lock in hand, before it leaves its queue to
// the next one.
const reclaimWait = 2 * time.Second

// Reclaim declares workers without a heartbeat stopped.
func (a *admin) Reclaim(ctx context.Context, maxAge time.Duration) (store.GivenBack, error) {
	us := micros(maxAge)
	return a.reclaim(ctx, "reclaim dead workers", sqlStaleIDs, []any{a.s.now(), us}, &us)
}

// ReclaimSlot does so for the workers of a slot.
func (a *admin) ReclaimSlot(ctx context.Context, slot string) (store.GivenBack, error) {
	if slot == "" {
		return store.GivenBack{}, store.Invalidf("reclaim slot: the slot is empty, which is nobody's")
	}
	return a.reclaim(ctx, "reclaim slot "+slot, sqlSlotIDs, []any{slot}, nil)
}

func (a *admin) reclaim(ctx context.Context, op, text string, args []any, maxAge *int64) (store.GivenBack, error) {
	var total store.GivenBack
	byQueue := map[int32][]int64{}
	type found struct {
		ID    int64
		Queue int32
	}
	dead, err := rows(ctx, a.s, op, text, args, pgx.RowToStructByPos[found])
	if err != nil {
		return total, err
	}
	for _, d := range dead {
		if d.ID != a.id {
			byQueue[d.Queue] = append(byQueue[d.Queue], d.ID)
		}
	}
	var locked error
	for queueID, ids := range byQueue {
		n, err := a.s.reclaimFree(ctx, op, queueID, ids, maxAge)
		total.Workers += n.Workers
		total.Ready += n.Ready
		total.Dead += n.Dead
		if errors.Is(err, store.ErrLocked) {
			locked = err // the other queues' workers need not wait for these
		} else if err != nil {
			return total, err
		}
	}
	if total.Workers+total.Ready > 0 {
		a.s.notifier.add("")
	}
	return total, locked
}

// reclaimFree reclaims workers of one queue; 0 is those that have none. It leaves
// the leases for which it needs a row that somebody keeps locked, and says so. A
// worker with such a lease is not stopped, so that the next reclaim finds it, and
// the lease goes back by itself when it runs out.
func (s *Store) reclaimFree(ctx context.Context, op string, queueID int32, ids []int64, maxAge *int64) (store.GivenBack, error) {
	if queueID != 0 {
		s.awaitClaims(ctx, op, ids)
	}
	n, left, err := s.reclaimBut(ctx, op, queueID, ids, maxAge, claims{[]int64{}, []int64{}})
	if errors.Is(err, store.ErrLocked) {
		kept, lookErr := s.keptClaims(ctx, op, sqlWorkersKept, ids)
		if lookErr != nil {
			return n, lookErr
		}
		if len(kept.claims) == 0 {
			return n, err // it was a lock of another kind, or is no more
		}
		n, left, err = s.reclaimBut(ctx, op, queueID, ids, maxAge, kept)
	}
	if err == nil && left > 0 {
		err = fmt.Errorf("%s: %d workers are left with leases that an open transaction holds up, as one that called send_signal or complete_step; pg_stat_activity shows it: %w",
			op, left, store.ErrLocked)
	}
	return n, err
}

// reclaimBut does so but for these claims, and says how many workers are left.
func (s *Store) reclaimBut(ctx context.Context, op string, queueID int32, ids []int64, maxAge *int64, but claims) (store.GivenBack, int64, error) {
	var n store.GivenBack
	var dead []int64
	var stopped int64
	err := s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		now := s.now()
		if queueID != 0 {
			b.add(sqlClaimLock, s.claimLock, queueID)
		}
		// Who waits for the claim lock must not wait for who holds a row.
		b.add(sqlLockLimit, milliseconds(reclaimWait))
		b.add(sqlLockDead, now, ids, maxAge).Query(func(r pgx.Rows) (err error) {
			dead, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
		if err := b.sendIn(ctx, tx); err != nil || len(dead) == 0 {
			return err
		}
		var t taken
		b = s.batch()
		t.addTake(b, dead, but)
		b.add(sqlStopDead, now, dead).Exec(func(tag pgconn.CommandTag) error {
			stopped = tag.RowsAffected()
			return nil
		})
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		var err error
		n, err = s.failStarted(ctx, tx, now, &t, reasonDied)
		return err
	})
	if err != nil {
		return store.GivenBack{}, 0, err
	}
	n.Workers = stopped
	return n, int64(len(dead)) - stopped, nil
}

// GiveBack gives back the messages of leases that ran out, on every queue.
func (a *admin) GiveBack(ctx context.Context) (store.GivenBack, error) {
	const op = "give back leases that ran out"
	var total store.GivenBack
	type queue struct {
		ID   int32
		Name string
	}
	queues, err := rows(ctx, a.s, op, sqlRunOutQueues, []any{a.s.now()}, pgx.RowToStructByPos[queue])
	if err != nil {
		return total, err
	}
	var locked error
	for _, q := range queues {
		n, err := a.s.giveBack(ctx, op, q.ID, q.Name)
		total.Ready += n.Ready
		total.Dead += n.Dead
		if errors.Is(err, store.ErrLocked) {
			locked = err // the other queues' leases need not wait for these
		} else if err != nil {
			return total, err
		}
	}
	return total, locked
}

// due remembers until when the delayed messages have been made ready, so that
// the next look need not pass over their dead rows, which pile up while an old
// snapshot is open. It is a hint: a message may commit after its time has come.
// So a look goes some seconds back, and to the beginning at intervals.
type due struct {
	sync.Mutex
	until time.Time // by the database's clock
	full  time.Time
}

// dueFull is how often all delayed messages are looked at.
const dueFull = 5 * time.Second

// from is where to begin; nil is the beginning.
func (d *due) from() *time.Time {
	if time.Since(d.full) >= dueFull {
		d.until, d.full = time.Time{}, time.Now()
	}
	if d.until.IsZero() {
		return nil
	}
	return &d.until
}

// promoted takes note of a look; all says that nothing due was left.
func (d *due) promoted(now time.Time, all bool) {
	if all {
		d.until = now
	}
}

// Promote makes delayed messages that are due ready.
func (a *admin) Promote(ctx context.Context, limit int) (int64, time.Duration, error) {
	const op = "make delayed messages ready"
	var moved, next int64
	var queues []string
	var now time.Time
	a.due.Lock()
	defer a.due.Unlock()
	from := a.due.from()
	b := a.s.batch()
	b.add(sqlPromotePlan)
	b.add(sqlPromote, a.s.now(), limit, from).QueryRow(func(r pgx.Row) error { return r.Scan(&now, &moved, &queues) })
	b.add(sqlNextDue, a.s.now(), from).QueryRow(func(r pgx.Row) error { return r.Scan(&next) })
	if err := b.send(ctx, op); err != nil {
		return 0, 0, err
	}
	a.due.promoted(now, moved < int64(limit))
	a.s.notifier.add(queues...)
	if next < 0 {
		return moved, -1, nil
	}
	return moved, duration(next), nil
}

// PurgeExpired removes archived messages that are past their retention. Dead
// letters stay.
func (a *admin) PurgeExpired(ctx context.Context, limit int) (int64, error) {
	n, err := a.s.purgeArchived(ctx, "purge expired messages", sqlArchiveExpired, a.s.now(), limit)
	if n > 0 && errors.Is(err, store.ErrLocked) {
		return n, nil // the rest are found again
	}
	return n, err
}

// Lead makes this worker the leader.
func (a *admin) Lead(ctx context.Context, ttl time.Duration) (bool, error) {
	n, err := a.s.exec(ctx, "lead", sqlLead, a.s.now(), a.id, micros(ttl))
	return n > 0, err
}
