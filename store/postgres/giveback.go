package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlTakeRunOut drops the queue's claims that ran out, but for the claims $4
	// of the workers $3. Those that somebody is settling or renewing right now
	// are left to him.
	sqlTakeRunOut = `
with t as materialized (
    select c.worker_id, c.claim
    from {{schema}}.workers w join {{schema}}.claims c on c.worker_id = w.id
    where w.queue_id = $2 and w.state <> 'stopped' and c.expires_at <= {{now}}
        and not exists (select from unnest($3::bigint[], $4::bigint[]) k(worker_id, claim) where k.worker_id = c.worker_id and k.claim = c.claim)
    order by c.worker_id, c.claim
    for update of c skip locked
)
delete from {{schema}}.claims c using t where c.worker_id = t.worker_id and c.claim = t.claim
returning c.worker_id, c.ids, coalesce(c.started, '{}')`

	// sqlAwaitClaims waits for all who have claims of workers locked.
	sqlAwaitClaims = `
select from {{schema}}.claims where worker_id = any($1::bigint[]) order by worker_id, claim for update`

	// sqlHoldClaims waits for those of us who settle or renew claims of workers, and
	// keeps them out. It lets those pass who only see to it that a claim stays, as
	// complete_step does, for as long as an application's transaction likes.
	sqlHoldClaims = `
select from {{schema}}.claims where worker_id = any($1::bigint[]) order by worker_id, claim for no key update`

	// sqlTakeWorkers drops claims of workers, which are held, but for the claims $3
	// of the workers $2, and those that a transaction keeps.
	sqlTakeWorkers = `
with t as materialized (
    select c.worker_id, c.claim from {{schema}}.claims c where c.worker_id = any($1::bigint[])
        and not exists (select from unnest($2::bigint[], $3::bigint[]) k(worker_id, claim) where k.worker_id = c.worker_id and k.claim = c.claim)
    order by c.worker_id, c.claim for update skip locked
)
delete from {{schema}}.claims c using t where c.worker_id = t.worker_id and c.claim = t.claim
returning c.worker_id, c.ids, coalesce(c.started, '{}')`

	// sqlTakeFree takes what nobody keeps out of those that are left, but for the
	// same claims. Of a step that is being recorded the message is kept as well.
	sqlTakeFree = `
with c as materialized (
    select c.worker_id, c.claim, c.ids, c.started from {{schema}}.claims c where c.worker_id = any($1::bigint[])
        and not exists (select from unnest($2::bigint[], $3::bigint[]) k(worker_id, claim) where k.worker_id = c.worker_id and k.claim = c.claim)
),
free as materialized (
    select m.id from {{schema}}.messages m where m.id = any(array(select unnest(c.ids) from c)) for update skip locked
),
shrunk as (
    update {{schema}}.claims u set ids = array(select unnest(c.ids) except select id from free),
        started = array(select unnest(c.started) except select id from free)
    from c where u.worker_id = c.worker_id and u.claim = c.claim
)
select c.worker_id, array(select unnest(c.ids) intersect select id from free), array(select unnest(c.started) intersect select id from free)
from c`

	// sqlDropEmpty drops claims of workers that hold nothing: of a step that was still
	// being recorded when the claims were taken, and not any more when the rest was.
	sqlDropEmpty = `
with t as materialized (
    select c.worker_id, c.claim from {{schema}}.claims c
    where c.worker_id = any($1::bigint[]) and not exists (select from {{schema}}.messages m where m.id = any(c.ids))
    order by c.worker_id, c.claim for update skip locked
)
delete from {{schema}}.claims c using t where c.worker_id = t.worker_id and c.claim = t.claim`

	// sqlLeave has the claims that are left of a worker cost no attempt later, and
	// says which they are and how many messages they hold.
	sqlLeave = `
update {{schema}}.claims c set started = null where c.worker_id = $1
returning c.claim, (select count(*) from {{schema}}.messages m where m.id = any(c.ids))`

	// sqlFailStarted counts an attempt as failed of the messages $2 that had
	// been started by the workers $3. Those at their last attempt die, or are
	// cancelled if they are runs that were to be.
	sqlFailStarted = `
with failed as materialized (
    select m.id, i.worker_id, m.attempts + 1 as attempts, q.max_attempts,
        exists (select from {{schema}}.runs r where r.run_id = m.id and r.cancelling) as cancelling,
        {{schema}}.add_error(m.errors, m.attempts + 1, {{now}}, $4, i.worker_id) as errors
    from unnest($2::bigint[], $3::bigint[]) as i(id, worker_id)
    join {{schema}}.messages m on m.id = i.id
    join {{schema}}.queues q on q.id = m.queue_id
),
dead as (
    delete from {{schema}}.messages m using failed f where m.id = f.id and f.attempts >= f.max_attempts
    returning m.id, m.enqueued_at, m.queue_id, m.priority, m.headers, m.payload, f.worker_id, f.attempts, f.errors, f.cancelling
),
archived as (
    insert into {{schema}}.archive
        (id, enqueued_at, finished_at, worker_id, queue_id, state, attempts, priority, headers, errors, payload)
    select d.id, d.enqueued_at, {{now}}, d.worker_id, d.queue_id,
        (case when d.cancelling then 'cancelled' else 'dead' end)::{{schema}}.final_state, d.attempts, d.priority, d.headers, d.errors, d.payload
    from dead d
),
kept as (
    update {{schema}}.messages m set attempts = f.attempts, errors = f.errors, ready_at = {{now}}
    from failed f where m.id = f.id and f.attempts < f.max_attempts
)
select count(*) filter (where not cancelling) from dead`

	// sqlLockParents locks the rows of the runs that started those of these that
	// die when an attempt has failed: only these runs hear of it.
	sqlLockParents = `
select p.run_id from {{schema}}.runs p where p.run_id in (
    select r.parent_id from {{schema}}.messages m join {{schema}}.queues q on q.id = m.queue_id join {{schema}}.runs r on r.run_id = m.id
    where m.id = any($1::bigint[]) and m.attempts + 1 >= q.max_attempts and r.parent_id is not null
) order by p.run_id for no key update`

	// sqlRunOutKept are the queue's claims that ran out which cannot be given
	// back: sqlLockParents would wait for a row that somebody keeps locked.
	sqlRunOutKept = claimsKeptOf + `c.queue_id = $2 and c.expires_at <= {{now}}` + claimsKept

	// sqlWorkersKept are such claims of workers.
	sqlWorkersKept = claimsKeptOf + `c.worker_id = any($1::bigint[])` + claimsKept

	claimsKeptOf = `
with dying as materialized (
    select c.worker_id, c.claim, p.run_id, p.queue_id
    from {{schema}}.claims c cross join lateral unnest(c.started) s(id)
    join {{schema}}.messages m on m.id = s.id join {{schema}}.queues q on q.id = m.queue_id
    join {{schema}}.runs r on r.run_id = m.id join {{schema}}.runs p on p.run_id = r.parent_id
    where m.attempts + 1 >= q.max_attempts and `
	claimsKept = `
),
kept as materialized (
    select k.id from (
        select array_agg(d.run_id) as ids, array_agg(d.queue_id) as queues from (select distinct d.run_id, d.queue_id from dying d) d
    ) a cross join lateral {{schema}}.runs_kept(a.ids, a.queues) k(id)
)
select distinct d.worker_id, d.claim from dying d where d.run_id in (select k.id from kept k)`

	sqlCountThere = `select count(*) from {{schema}}.messages where id = any($1::bigint[])`
)

// lockedWait is how long one try waits for a row that another transaction keeps,
// where it has, or may have, a queue's claim lock in hand.
const lockedWait = 100 * time.Millisecond

// Why an attempt failed that nobody settled.
const (
	reasonRanOut = "the lease ran out before the attempt was settled"
	reasonDied   = "its worker died"
)

// taken is what was taken out of claims, or with them.
type taken struct {
	ids            []int64
	started        []int64
	startedWorkers []int64
	woken          []string // queues of runs that hear of the end of these
}

func (t *taken) read(r pgx.Rows) error {
	var worker int64
	var ids, started []int64
	_, err := pgx.ForEachRow(r, []any{&worker, &ids, &started}, func() error {
		t.ids = append(t.ids, ids...)
		t.started = append(t.started, started...)
		for range started {
			t.startedWorkers = append(t.startedWorkers, worker)
		}
		return nil
	})
	return err
}

// claims are some workers' claims.
type claims struct{ workers, claims []int64 }

// keptClaims are the claims that a statement finds, which is sqlRunOutKept or
// sqlWorkersKept.
func (s *Store) keptClaims(ctx context.Context, op, text string, args ...any) (claims, error) {
	kept := claims{[]int64{}, []int64{}}
	err := s.look(ctx, op, func(b *batch) {
		b.add(sqlPromotePlan)
		b.add(text, args...).Query(func(r pgx.Rows) error {
			var worker, claim int64
			_, err := pgx.ForEachRow(r, []any{&worker, &claim}, func() error {
				kept.workers = append(kept.workers, worker)
				kept.claims = append(kept.claims, claim)
				return nil
			})
			return err
		})
	})
	return kept, err
}

// giveBack gives back the messages of the queue's claims that ran out. Where
// somebody keeps a row locked it gives back the others, and says so.
func (s *Store) giveBack(ctx context.Context, op string, queueID int32, queue string) (store.GivenBack, error) {
	n, locked := s.giveBackBut(ctx, op, queueID, queue, claims{[]int64{}, []int64{}})
	if !errors.Is(locked, store.ErrLocked) {
		return n, locked
	}
	kept, err := s.keptClaims(ctx, op, sqlRunOutKept, s.now(), queueID)
	if err != nil {
		return n, err
	}
	if len(kept.claims) == 0 {
		return n, locked // it was a lock of another kind, or is no more
	}
	if n, err = s.giveBackBut(ctx, op, queueID, queue, kept); err != nil {
		return n, err
	}
	return n, locked
}

// giveBackBut gives back all but these.
func (s *Store) giveBackBut(ctx context.Context, op string, queueID int32, queue string, but claims) (store.GivenBack, error) {
	var n store.GivenBack
	var t taken
	err := s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		now := s.now()
		b.add(sqlClaimLock, s.claimLock, queueID)
		b.add(sqlTakeRunOut, now, queueID, but.workers, but.claims).Query(t.read)
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		var err error
		n, err = s.failStarted(ctx, tx, now, &t, reasonRanOut)
		return err
	})
	if err != nil {
		return store.GivenBack{}, err
	}
	if n.Ready > 0 {
		s.notifier.add(queue)
	}
	s.notifier.add(t.woken...)
	return n, nil
}

// failStarted counts the attempts that had begun as failed, and all messages
// that are ready again. Queues to notify of go to t.woken.
func (s *Store) failStarted(ctx context.Context, tx pgx.Tx, now *time.Time, t *taken, reason string) (store.GivenBack, error) {
	var n store.GivenBack
	if len(t.ids) == 0 {
		return n, nil
	}
	b := s.batch()
	if len(t.started) > 0 {
		b.add(sqlLockLimit, milliseconds(lockedWait))
		b.add(sqlLockParents, t.started)
		b.add(sqlFailStarted, now, t.started, t.startedWorkers, reason).
			QueryRow(func(r pgx.Row) error { return r.Scan(&n.Dead) })
		b.addEndChildren(t.started, &t.woken)
	}
	b.add(sqlCountThere, t.ids).QueryRow(func(r pgx.Row) error { return r.Scan(&n.Ready) })
	return n, b.sendIn(ctx, tx)
}

// awaitClaims gives the transactions that keep claims of workers a moment to end,
// without a queue's claim lock in hand. It may fail: what follows leaves what is
// kept still then.
func (s *Store) awaitClaims(ctx context.Context, op string, workers []int64) {
	_ = s.look(ctx, op, func(b *batch) {
		// Not lock_timeout: it begins anew with each transaction that comes to keep one.
		b.add(sqlLimits, milliseconds(idleLimit), milliseconds(lockedWait))
		b.add(sqlAwaitClaims, workers)
	})
}

// addTake takes what workers hold, but for these claims and what is kept.
func (t *taken) addTake(b *batch, workers []int64, but claims) {
	b.add(sqlHoldClaims, workers)
	b.add(sqlTakeWorkers, workers, but.workers, but.claims).Query(t.read)
	b.add(sqlTakeFree, workers, but.workers, but.claims).Query(t.read)
	b.add(sqlDropEmpty, workers)
}

// left is what a worker holds still, because a transaction keeps its claims.
type left struct {
	claims   []int64
	messages int64
}

func (l *left) read(r pgx.Rows) error {
	var claim, messages int64
	_, err := pgx.ForEachRow(r, []any{&claim, &messages}, func() error {
		l.claims = append(l.claims, claim)
		l.messages += messages
		return nil
	})
	return err
}

// err says that something is left, if it is.
func (l *left) err(op string) error {
	if len(l.claims) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d messages stay leased, whose lease an open transaction holds, as one that called complete_step; pg_stat_activity shows it: %w",
		op, l.messages, store.ErrLocked)
}

// release gives back what a worker holds, without costing attempts, and returns
// how many, and what is left. With remove the worker's row goes too, unless
// something is left, which is found through it: that is reclaimed, as the worker
// has no heartbeats any more.
func (s *Store) release(ctx context.Context, op string, id int64, queueID int32, remove bool) (n int64, l left, err error) {
	if queueID != 0 {
		s.awaitClaims(ctx, op, []int64{id})
	}
	err = s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		var t taken
		if queueID != 0 {
			b.add(sqlClaimLock, s.claimLock, queueID)
			b.add(sqlLockLimit, milliseconds(lockedWait))
			t.addTake(b, []int64{id}, claims{[]int64{}, []int64{}})
			b.add(sqlLeave, id).Query(l.read)
		}
		if remove {
			b.add(sqlWorkerDeleteEphemeral, id)
		}
		if err := b.sendIn(ctx, tx); err != nil || len(t.ids) == 0 {
			return err
		}
		return tx.QueryRow(ctx, s.sql(sqlCountThere), t.ids).Scan(&n)
	})
	if err != nil {
		return 0, left{}, err
	}
	if n > 0 {
		s.notifier.add("")
	}
	return n, l, nil
}
