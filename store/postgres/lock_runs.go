package postgres

// Rows of runs are locked in the order of their ids, in one statement, and
// before the rows that are locked after them: those of delayed, messages and
// archive. So do settles (sqlLockRuns), and whoever sends, resumes or cancels,
// with the one or two rows that he needs.
const (
	// sqlLockRunsOf locks the rows of the runs $1 and of those that started them.
	sqlLockRunsOf = `
select r.run_id from {{schema}}.runs r where r.run_id in (` + runsAndParents + `)
order by r.run_id for no key update`

	// sqlLockForgotten is sqlLockRunsOf before these are removed. It makes the
	// rows of the runs that have none, so that nobody can leave something for
	// them meanwhile. The next statement then sees all that was left for them,
	// and sqlForgetGone forgets it.
	sqlLockForgotten = `
insert into {{schema}}.runs as r (run_id, queue_id)
select w.id, w.queue_id from (` + forgotten + `) w order by w.id` + lockAlone

	// sqlForgottenKept are those of the messages $1 that sqlLockForgotten waits
	// for: somebody keeps their row locked, or that of the run that started them.
	sqlForgottenKept = `
with kept as materialized (
    select k.id from (select array_agg(w.id) as ids, array_agg(w.queue_id) as queues from (` + forgotten + `) w) a
    cross join lateral {{schema}}.runs_kept(a.ids, a.queues) k(id)
)
select k.id from kept k
union
select r.run_id from {{schema}}.runs r where r.run_id = any($1::bigint[]) and r.parent_id in (select k.id from kept k)`

	// forgotten is which rows those are.
	forgotten = `
    select p.id, p.queue_id from (
        select m.id, m.queue_id from {{schema}}.messages m where m.id = any($1::bigint[])
        union all
        select d.id, d.queue_id from {{schema}}.delayed d where d.id = any($1::bigint[])
        union all
        select a.id, a.queue_id from {{schema}}.archive a where a.id = any($1::bigint[])
    ) p where p.queue_id in (select q.id from {{schema}}.queues q where q.kind = 'workflow')
    union
    select k.run_id, k.queue_id from {{schema}}.runs k where k.run_id in (` + runsAndParents + `)`

	// sqlLockQueueRuns is sqlLockForgotten for all that a queue has.
	sqlLockQueueRuns = `
insert into {{schema}}.runs as r (run_id, queue_id)
select w.id, w.queue_id from (
    select p.id, p.queue_id from (
        select m.id, m.queue_id from {{schema}}.messages m where m.queue_id = $1
        union all
        select d.id, d.queue_id from {{schema}}.delayed d where d.queue_id = $1
        union all
        select a.id, a.queue_id from {{schema}}.archive a where a.queue_id = $1
    ) p where p.queue_id in (select q.id from {{schema}}.queues q where q.kind = 'workflow')
    union
    select k.run_id, k.queue_id from {{schema}}.runs k where k.queue_id = $1
    union
    select k.run_id, k.queue_id from {{schema}}.runs k where k.run_id in (
        select c.parent_id from {{schema}}.runs c where c.queue_id = $1 and c.parent_id is not null)
) w order by w.id` + lockAlone

	runsAndParents = `
    select unnest($1::bigint[])
    union
    select c.parent_id from {{schema}}.runs c where c.run_id = any($1::bigint[]) and c.parent_id is not null`

	// lockAlone locks the rows that are there, and leaves them as they are.
	lockAlone = `
on conflict (run_id) do update set news = r.news where false`

	// sqlForgetGone is sqlForget for those of the messages $1, and of the runs
	// that started them, that are nowhere. A run that started one may have been
	// removed while its row was waited for, which made the row again.
	sqlForgetGone = `
with gone as materialized (
    select i.id from (` + runsAndParents + `) i(id) where not exists (select from {{schema}}.messages m where m.id = i.id)
        and not exists (select from {{schema}}.delayed d where d.id = i.id) and not exists (select from {{schema}}.archive a where a.id = i.id)
),
steps as (delete from {{schema}}.steps where run_id = any(array(select id from gone))),
runs as (delete from {{schema}}.runs where run_id = any(array(select id from gone)) returning run_id),
signals as (delete from {{schema}}.signals where run_id = any(array(select run_id from runs))),
events as (delete from {{schema}}.events where run_id = any(array(select run_id from runs)))
select`
)
