package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlLockRuns locks the rows of all runs that the settlement concerns, in
	// one order for everybody, and makes those that are missing: of the items
	// ($3, $4) that are the first to record something, under the version $6 and
	// begun $8 microseconds ago, where that is not negative, and of those that
	// must be locked ($7); of the runs that started those of $9; and of the runs
	// $10 that a signal goes to. $5 is the distinct claims. What began with a step
	// of complete_step began then, and under that handler's version.
	sqlLockRuns = runsWanted + `
insert into {{schema}}.runs as r (run_id, queue_id, version, begun_at)
select distinct on (w.id) w.id, w.queue_id, w.version, w.begun_at from wanted w order by w.id, w.version
on conflict (run_id) do update set version = coalesce(r.version, excluded.version), begun_at = coalesce(r.begun_at, excluded.begun_at)
    where r.version is null and excluded.version is not null or r.begun_at is null and excluded.begun_at is not null`

	// runsWanted is which rows those are.
	runsWanted = `
with item as materialized (
    select i.claim, i.id, nullif(i.version, '') as version, i.must, i.took
    from unnest($3::bigint[], $4::bigint[], $6::text[], $7::bool[], $8::bigint[]) as i(claim, id, version, must, took)
),
claimed as materialized (
    select c.claim, unnest(c.ids) as id from unnest($5::bigint[]) k(claim) cross join lateral (
        select c.claim, c.ids from {{schema}}.claims c where c.worker_id = $2 and c.claim = k.claim limit 1
    ) c
),
held as materialized (
    select i.* from item i join claimed c on c.claim = i.claim and c.id = i.id
),
known as materialized (
    select r.* from (select id from held union select unnest($9::bigint[])) x(id) cross join lateral (
        select r.run_id, r.version, r.begun_at, r.parent_id from {{schema}}.runs r where r.run_id = x.id limit 1
    ) r
),
there as materialized (
    select m.* from (select id from held union select unnest($10::bigint[])) x(id) cross join lateral (
        select m.id, m.queue_id from {{schema}}.messages m where m.id between x.id and x.id order by m.id limit 1
    ) m
    union all
    select d.* from unnest($10::bigint[]) x(id) cross join lateral (
        select d.id, d.queue_id from {{schema}}.delayed d where d.id = x.id limit 1
    ) d
),
wanted as (
    select h.id, t.queue_id, coalesce(o.version, h.version) as version,
        coalesce(o.begun_at, case when h.took >= 0 then {{now}} - h.took * interval '1 microsecond' end) as begun_at
    from held h join there t on t.id = h.id left join known k on k.run_id = h.id cross join lateral (
        select ` + begunOutside + ` from {{schema}}.steps s where s.run_id = h.id and s.version is not null
    ) o
    where h.must or k.run_id is null or k.version is null and h.version is not null or k.begun_at is null and h.took >= 0
    union all
    select p.run_id, p.queue_id, null, null from (
        select distinct k.parent_id from known k where k.run_id = any($9::bigint[]) and k.parent_id is not null
    ) k cross join lateral (select p.run_id, p.queue_id from {{schema}}.runs p where p.run_id = k.parent_id limit 1) p
    union all
    select t.id, t.queue_id, null, null from there t
    where t.id = any($10::bigint[]) and t.queue_id in (select q.id from {{schema}}.queues q where q.kind = 'workflow')
)`

	// sqlRunSteps records steps ($2 to $14) of the items ($16, $17) of worker $15
	// that are held, each step of the item $19; $18 is the distinct claims. It
	// returns which items are held, and whether their runs must stop.
	sqlRunSteps = `
with item as materialized (
    select i.claim, i.id, i.ord from unnest($16::bigint[], $17::bigint[]) with ordinality as i(claim, id, ord)
),
claimed as materialized (
    select c.claim, unnest(c.ids) as id from unnest($18::bigint[]) k(claim) cross join lateral (
        select c.claim, c.ids from {{schema}}.claims c where c.worker_id = $15 and c.claim = k.claim limit 1
    ) c
),
found as materialized (
    select i.id, i.ord from item i join claimed c on c.claim = i.claim and c.id = i.id
),
held as materialized (
    select f.id, f.ord from found f
    cross join lateral (select m.id from {{schema}}.messages m where m.id between f.id and f.id order by m.id limit 1) m
),
recorded as (` + stepsInto + `
    from unnest($19::int[], ` + stepArrays + `) with ordinality as i(item, ` + stepFields + `, ord)
    join held h on h.ord = i.item
    order by i.ord` + stepsAgain + `
)
select h.ord, coalesce(r.cancelling, false), coalesce(r.paused, false) from held h left join lateral (
    select r.run_id, r.cancelling, r.paused from {{schema}}.runs r where r.run_id = h.id limit 1
) r on true`

	// sqlFlowPlan is for the statements before a run's end, each of which looks
	// every row up by itself: whatever the tables hold, one plan is right, and
	// making it anew each time costs more than a lone step's commit. A message is
	// asked for by a range and in order, which its primary key alone serves: the
	// line's index, which has the id as well, is as cheap while it is empty.
	sqlFlowPlan = `select ` + planHints + `, ` + runsSettleWait + `,
    set_config('enable_nestloop', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

	// sqlRunsDone is sqlSettleDone for runs: those that are being cancelled are
	// archived as cancelled, and returned last.
	sqlRunsDone = `
with item as materialized (
    select i.claim, i.id, i.output, i.ord
    from unnest($3::bigint[], $4::bigint[], $6::text[]) with ordinality as i(claim, id, output, ord)
),
claimed as materialized (
    select c.claim, unnest(c.ids) as id from unnest($5::bigint[]) k(claim) cross join lateral (
        select c.claim, c.ids from {{schema}}.claims c where c.worker_id = $2 and c.claim = k.claim limit 1
    ) c
),
held as materialized (
    select i.id, i.ord, i.output from item i join claimed c on c.claim = i.claim and c.id = i.id
),
stopped as materialized (
    select r.run_id from {{schema}}.runs r where r.run_id = any(array(select id from held)) and r.cancelling
),
gone as (
    delete from {{schema}}.messages m where m.id = any(array(select id from held))
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
),
archived as (
    insert into {{schema}}.archive
        (id, enqueued_at, finished_at, worker_id, queue_id, state, attempts, priority, headers, errors, payload, output)
    select g.id, g.enqueued_at, {{now}}, $2, g.queue_id,
        (case when s.run_id is null then 'done' else 'cancelled' end)::{{schema}}.final_state,
        g.attempts, g.priority, g.headers, g.errors, g.payload, case when s.run_id is null then nullif(h.output, '')::json end
    from gone g join held h on h.id = g.id left join stopped s on s.run_id = g.id
)
select count(*), case when count(*) < cardinality($4::bigint[])
        then (select array_agg(h.ord) from held h where h.id in (select id from gone)) end,
    (select array_agg(h.ord) from held h where h.id in (select run_id from stopped) and h.id in (select id from gone))
from gone`

	// sqlEndChildren tells the runs that started these of their ends.
	sqlEndChildren = `select e from {{schema}}.end_children($2, {{now}}) e`
)

// ofRun reports whether only a run may have such an outcome.
func ofRun(o *store.Outcome) bool {
	switch o.Kind {
	case store.OutcomeStep, store.OutcomeWait, store.OutcomeCancel:
		return true
	}
	return len(o.Steps) > 0
}

// simple reports whether an outcome of a run can be written without a look at
// anything but its lease.
func simple(o *store.Outcome) bool {
	return (o.Kind == store.OutcomeDone || o.Kind == store.OutcomeStep) && len(o.Enqueue) == 0 &&
		!slices.ContainsFunc(o.Steps, func(s store.StepResult) bool { return special(&s) })
}

// special reports whether a step does more than to be recorded.
func special(s *store.StepResult) bool {
	return s.Signal != 0 || s.Send != nil || s.Child != nil || s.Kind == store.StepEvent
}

// settleSimple is the usual case of runs in one round trip: steps, and runs
// that are done.
func (s *Store) settleSimple(ctx context.Context, op string, t *settlement) error {
	var with, done []int // the items that have steps, or are steps; those that are done
	for _, i := range t.items {
		o := &t.outcomes[i]
		if o.Kind == store.OutcomeDone {
			done = append(done, i)
		}
		if o.Kind == store.OutcomeStep || len(o.Steps) > 0 {
			with = append(with, i)
		}
	}
	steps := recording{t: t, items: with}
	end := ending{plainItems: plainItems{items: done, state: store.Done}}
	b := s.batch()
	b.add(sqlFlowPlan)
	b.add(sqlLockClaims, t.worker, t.claims)
	// Runs that only record one step more have their rows.
	if len(done) > 0 || !t.recorded(with) {
		_, ended := t.ofLeases(done)
		b.add(sqlLockRuns, t.lockArgs(s.now(), with, ended, []int64{})...)
	}
	if len(with) > 0 {
		steps.queue(b)
	}
	if len(done) > 0 {
		b.add(sqlPlanNow)
		end.queue(b, t)
	}
	leases := t.leases(done)
	empty := t.addDropClaims(b, leases)
	if err := b.send(ctx, op); err != nil {
		return err
	}
	steps.record()
	end.record(t)
	if t.holdings != nil {
		t.holdings.settled(leases, empty)
		steps.note()
	}
	s.notifier.add(end.woken...)
	return nil
}

// recorded reports whether the rows of these runs are known to have all that
// recording a step notes in them.
func (t *settlement) recorded(items []int) bool {
	return t.holdings != nil && !slices.ContainsFunc(items, func(i int) bool {
		o := &t.outcomes[i]
		return !t.holdings.recorded(o.Lease, noteOf(o))
	})
}

// addDropClaims drops claims that have nothing left after these leases.
func (t *settlement) addDropClaims(b *batch, leases []store.Lease) (empty []int64) {
	if t.holdings == nil {
		b.add(sqlDropEmptyClaims, t.worker, t.claims)
		return nil
	}
	if empty = t.holdings.emptied(leases); len(empty) > 0 {
		b.add(sqlDropClaims, t.worker, empty)
	}
	return empty
}

// lockArgs are the arguments of sqlLockRuns for items that record something or
// must be locked, runs that end, and runs that a signal goes to.
func (t *settlement) lockArgs(now *time.Time, with []int, ended, targets []int64) []any {
	claims, ids := t.ofLeases(with)
	versions, musts, took := make([]string, len(with)), make([]bool, len(with)), make([]int64, len(with))
	for k, i := range with {
		o := &t.outcomes[i]
		musts[k] = mustLock(o)
		took[k] = -1
		if len(o.Steps) > 0 {
			took[k] = micros(o.Steps[0].Took)
		}
		if len(o.Steps) > 0 || o.Wait != nil && o.Wait.Kind != store.WaitVersion {
			versions[k] = o.Version
		}
	}
	return []any{now, t.worker, claims, ids, t.claims, versions, musts, took, ended, targets}
}

// recording is one use of sqlRunSteps.
type recording struct {
	t     *settlement
	items []int
	rows  stepRows
	halts map[int]store.Halt // of the items that are held
}

func (r *recording) queue(b *batch) {
	for k, i := range r.items {
		o := &r.t.outcomes[i]
		for j := range o.Steps {
			r.rows.add(k+1, o.Lease, &o.Steps[j])
		}
	}
	claims, ids := r.t.ofLeases(r.items)
	args := append(r.rows.fields(b.s.now()), r.t.worker, claims, ids, r.t.claims, r.rows.items)
	r.halts = make(map[int]store.Halt, len(r.items))
	b.add(sqlRunSteps, args...).Query(func(rows pgx.Rows) error {
		var ord int
		var cancelling, paused bool
		_, err := pgx.ForEachRow(rows, []any{&ord, &cancelling, &paused}, func() error {
			r.halts[r.items[ord-1]] = haltOf(cancelling, paused)
			return nil
		})
		return err
	})
}

func haltOf(cancelling, paused bool) store.Halt {
	switch {
	case cancelling:
		return store.HaltCancel
	case paused:
		return store.HaltPause
	}
	return store.HaltNone
}

func (r *recording) record() {
	for _, i := range r.items {
		if r.t.outcomes[i].Kind != store.OutcomeStep {
			continue
		}
		if halt, held := r.halts[i]; held {
			r.t.results[i] = store.Settled{State: store.Leased, Halt: halt}
		} else {
			r.t.results[i].Err = store.ErrLeaseLost
		}
	}
}

// note keeps in mind what is recorded now of the leases.
func (r *recording) note() {
	for i := range r.halts {
		if o := &r.t.outcomes[i]; len(o.Steps) > 0 {
			r.t.holdings.record(o.Lease, noteOf(o))
		}
	}
}

// noteOf is what a run's row has once the outcome's steps are recorded.
func noteOf(o *store.Outcome) noted {
	if o.Version == "" {
		return notedRow
	}
	return notedVersion
}

// ending is one use of sqlRunsDone.
type ending struct {
	plainItems
	stopped []int64 // the positions of those that were being cancelled
	woken   []string
}

func (e *ending) queue(b *batch, t *settlement) {
	claims, ids := t.ofLeases(e.items)
	outputs := make([]string, len(e.items))
	for k, i := range e.items {
		outputs[k] = string(t.outcomes[i].Output)
	}
	b.add(sqlRunsDone, b.s.now(), t.worker, claims, ids, t.claims, outputs).
		QueryRow(func(r pgx.Row) error { return r.Scan(&e.count, &e.settled, &e.stopped) })
	b.addEndChildren(ids, &e.woken)
}

// addEndChildren queues sqlEndChildren; the queues of those that were woken go
// to woken.
func (b *batch) addEndChildren(ids []int64, woken *[]string) {
	b.add(sqlEndChildren, b.s.now(), ids).Query(func(r pgx.Rows) (err error) {
		*woken, err = pgx.AppendRows(*woken, r, pgx.RowTo[string])
		return err
	})
}

func (e *ending) record(t *settlement) {
	e.plainItems.record(t)
	for _, ord := range e.stopped {
		t.results[e.items[ord-1]].State = store.Cancelled
	}
}
