package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlLockRun = `select run_id from {{schema}}.runs where run_id = $1 for no key update`

	// sqlRunRetry puts a failed run back without the steps that have ended it: in
	// each branch that its archive row names, those from a position on. A branch is
	// a name up to its last slash. Their signals can be taken again. Its queue's
	// enqueue lock is held.
	sqlRunRetry = `
with back as (
    delete from {{schema}}.archive a where a.id = $2 and a.state = 'dead'
    returning a.id, a.enqueued_at, a.queue_id, a.priority, a.headers, a.errors, a.payload, a.failed
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
    select b.id, b.enqueued_at, {{now}}, b.queue_id, 0, b.priority, b.headers, b.errors, b.payload from back b
),
forgotten as (
    delete from {{schema}}.steps s using (
        select coalesce(f.branch, '') as branch, min(f.position) as position
        from back b cross join json_to_recordset(b.failed) as f(branch text, position int) group by 1
    ) f where s.run_id = $2 and s.position >= f.position
        and rtrim(rtrim(s.name, replace(s.name, '/', '')), '/') = f.branch
    returning s.name, s.occurrence
),
given_back as (
    update {{schema}}.signals g set taken_name = null, taken_occurrence = null from forgotten f
    where g.run_id = $2 and g.taken_name = f.name and g.taken_occurrence = f.occurrence
),
run as (
    update {{schema}}.runs r set cancelling = false, paused = false, wait_kind = null, wait_for = null
    where r.run_id = any(array(select id from back))
)
select id from back`

	// sqlRunFork starts a run with the input of run $2 and its results before
	// the step ($3, $4); '' is before all. None without that step. The signals that
	// these steps had taken come along as taken, so that a retry of the new run can
	// give them back. The queue's enqueue lock is held.
	sqlRunFork = `
with source as materialized (
    select d.queue_id, d.priority, d.headers, d.payload from {{schema}}.delayed d where d.id = $2
    union all
    select m.queue_id, m.priority, m.headers, m.payload from {{schema}}.messages m where m.id = $2
    union all
    select a.queue_id, a.priority, a.headers, a.payload from {{schema}}.archive a where a.id = $2
    limit 1
),
stop as materialized (
    select s.seq from {{schema}}.steps s where s.run_id = $2 and s.name = $3 and s.occurrence = $4
),
new as materialized (
    select nextval('{{schema}}.message_ids') as id, s.* from source s where $3 = '' or exists (select from stop)
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, payload)
    select n.id, {{now}}, {{now}}, n.queue_id, 0, n.priority, n.headers, n.payload from new n
),
old as materialized (
    select s.* from {{schema}}.steps s
    where s.run_id = $2 and s.seq < (select seq from stop) and s.state in ('succeeded', 'failed')
),
run as (
    insert into {{schema}}.runs (run_id, queue_id, version, begun_at)
    select n.id, n.queue_id, coalesce(r.version, (select min(nullif(o.version, '')) from old o)), {{now}} from new n left join {{schema}}.runs r on r.run_id = $2
    where exists (select from old)
),
event as (
    insert into {{schema}}.events (run_id, set_at, name, value)
    select distinct on (o.topic) n.id, o.finished_at, o.topic, coalesce(o.output, 'null') from new n, old o
    where o.kind = 'event' and o.state = 'succeeded' order by o.topic, o.seq desc
),
signal as (
    insert into {{schema}}.signals (run_id, sent_at, topic, key, payload, taken_name, taken_occurrence)
    select n.id, g.sent_at, g.topic, g.key, g.payload, g.taken_name, g.taken_occurrence
    from new n, {{schema}}.signals g join old o on o.name = g.taken_name and o.occurrence = g.taken_occurrence
    where g.run_id = $2 order by g.id
),
kept as (
    insert into {{schema}}.steps (run_id, kind, position, name, occurrence, state, tries, output, error, topic, child_id, started_at, finished_at)
    select n.id, o.kind, o.position, o.name, o.occurrence, o.state, o.tries, o.output, o.error, o.topic, o.child_id, o.started_at, o.finished_at
    from new n, old o order by o.seq
)
select id from new`
)

// Retry carries a failed run on.
func (t workflows) Retry(ctx context.Context, id int64) error {
	op := fmt.Sprintf("retry run %d", id)
	p, err := t.s.runPlace(ctx, op, id)
	if err != nil {
		return err
	}
	var back []int64
	if p.state == store.Dead {
		if err := t.s.steer(ctx, op, func() error {
			b := t.s.batch()
			b.add(sqlLockLimit, milliseconds(lockedWait))
			b.add(sqlEnqueueLock, t.s.enqueueLock, lockKeys([]string{p.queue}))
			b.add(sqlLockRun, id)
			b.add(sqlRunRetry, t.s.now(), id).Query(func(r pgx.Rows) (err error) {
				back, err = pgx.CollectRows(r, pgx.RowTo[int64])
				return err
			})
			return b.send(ctx, op)
		}); err != nil {
			return err
		}
	}
	if len(back) == 0 {
		return t.s.fail(ctx, op, store.NotFailed(p.status()))
	}
	t.s.notifier.add(p.queue)
	return nil
}

// Fork starts a run from the recorded steps of another one.
func (t workflows) Fork(ctx context.Context, id int64, from store.StepKey) (int64, error) {
	op := fmt.Sprintf("fork run %d", id)
	if from.Name != "" {
		if err := store.ValidateStepKey(from); err != nil {
			return 0, fmt.Errorf("%s: %w", op, err)
		}
	}
	p, err := t.s.runPlace(ctx, op, id)
	if err != nil {
		return 0, err
	}
	var made []int64
	b := t.s.batch()
	b.add(sqlEnqueueLock, t.s.enqueueLock, lockKeys([]string{p.queue}))
	b.add(sqlRunFork, t.s.now(), id, from.Name, from.Occurrence).Query(func(r pgx.Rows) (err error) {
		made, err = pgx.CollectRows(r, pgx.RowTo[int64])
		return err
	})
	if err := b.send(ctx, op); err != nil {
		return 0, err
	}
	if len(made) > 0 {
		t.s.notifier.add(p.queue)
		return made[0], nil
	}
	steps, err := t.Steps(ctx, id)
	if err != nil {
		return 0, err
	}
	return 0, t.s.fail(ctx, op, store.NoStep(from, steps))
}
