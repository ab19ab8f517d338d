package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlBegin  = `begin`
	sqlCommit = `commit`

	// sqlHeld says which items are held, and what is needed to decide about
	// them; sqlHeldRuns also what is known of them as runs.
	sqlHeld = heldItems + `,
message as (
    select m.id, m.attempts, m.queue_id from {{schema}}.messages m where m.id = any(array(select id from held))
)
select h.ord, m.attempts, q.max_attempts, q.name
from held h join message m on m.id = h.id join {{schema}}.queues q on q.id = m.queue_id`

	sqlQueueKinds = `select name, kind from {{schema}}.queues`

	// sqlSettleDead archives held messages $3 as dead, with their errors $4, and
	// where their failures begin $5.
	sqlSettleDead = `
with item as materialized (
    select i.id, i.error, i.failed from unnest($3::bigint[], $4::text[], $5::text[]) as i(id, error, failed)
),
gone as (
    delete from {{schema}}.messages m where m.id = any($3::bigint[])
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
)
insert into {{schema}}.archive
    (id, enqueued_at, finished_at, worker_id, queue_id, state, attempts, priority, headers, errors, payload, failed)
select g.id, g.enqueued_at, {{now}}, $2, g.queue_id, 'dead', g.attempts + 1, g.priority, g.headers,
    {{schema}}.add_error(g.errors, g.attempts + 1, {{now}}, i.error, $2), g.payload, i.failed::json
from gone g join item i on i.id = g.id`

	// sqlSettleWait moves held messages $3 to those that wait, for $4, which is
	// without limit where it is negative. Those with an error $5, which may be
	// empty but not null, have failed.
	sqlSettleWait = `
with item as materialized (
    select i.id, i.delay_us, i.error from unnest($3::bigint[], $4::bigint[], $5::text[]) as i(id, delay_us, error)
),
gone as (
    delete from {{schema}}.messages m where m.id = any($3::bigint[])
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
)
insert into {{schema}}.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, headers, errors, payload)
select g.id, g.enqueued_at,
    case when i.delay_us < 0 then 'infinity' else {{now}} + i.delay_us * interval '1 microsecond' end, g.queue_id,
    g.attempts + (i.error is not null)::int, g.priority, g.headers,
    case when i.error is null then g.errors
        else {{schema}}.add_error(g.errors, g.attempts + 1, {{now}}, i.error, $2) end, g.payload
from gone g join item i on i.id = g.id`

	// sqlSettleAgain makes held messages $3 that have failed ready at once.
	sqlSettleAgain = `
update {{schema}}.messages m set attempts = m.attempts + 1, ready_at = {{now}},
    errors = {{schema}}.add_error(m.errors, m.attempts + 1, {{now}}, i.error, $2)
from unnest($3::bigint[], $4::text[]) as i(id, error) where m.id = i.id`

	// sqlLockMessages is for held runs that are ready again. Who deletes a message
	// waits for a transaction that records a step of it; so the lease of such a run
	// never ends, and a claim that holds nothing is kept by nobody.
	sqlLockMessages = `select from {{schema}}.messages m where m.id = any($1::bigint[]) for update`

	sqlSettleDelete = `delete from {{schema}}.messages m where m.id = any($1::bigint[])`

	// sqlForget removes what only runs have.
	sqlForget = `
with steps as (delete from {{schema}}.steps where run_id = any($1::bigint[])),` + forgetRuns + `
select`

	// forgetRuns is for messages $1. Only what has a row in runs has signals and
	// events.
	forgetRuns = `
runs as (delete from {{schema}}.runs where run_id = any($1::bigint[]) returning run_id),
signals as (delete from {{schema}}.signals where run_id = any(array(select run_id from runs))),
events as (delete from {{schema}}.events where run_id = any(array(select run_id from runs)))`

	// sqlShrinkClaims takes messages that may come back out of their claims, so
	// that an old lease does not hold them again.
	sqlShrinkClaims = `
update {{schema}}.claims c set
    ids = array(select i from unnest(c.ids) i where i not in (select unnest($3::bigint[]))),
    started = array(select i from unnest(c.started) i where i not in (select unnest($3::bigint[])))
where c.ctid = any(array(select d.ctid from unnest($2::bigint[]) k(claim) cross join lateral (
    select d.ctid from {{schema}}.claims d where d.worker_id = $1 and d.claim = k.claim limit 1
) d))`

	// sqlDropEmptyClaims drops claims none of whose messages are left.
	sqlDropEmptyClaims = `
delete from {{schema}}.claims c where c.ctid = any(array(select d.ctid from unnest($2::bigint[]) k(claim) cross join lateral (
    select d.ctid from {{schema}}.claims d where d.worker_id = $1 and d.claim = k.claim limit 1
) d))
    and not exists (select from {{schema}}.messages m where m.id = any(c.ids))`
)

// mixed sorts a settlement's items by what is to be done with them.
type mixed struct {
	*settlement
	s    *Store
	runs *runParts // nil where there are only jobs
	left []int     // the items whose lease is over
	back []int64   // messages that are ready again

	done []int
	dead deaths
	// wait and again are retries and snoozes, and runs that wait.
	wait   waits
	again  failures
	remove []int64
	// gone are the messages that may come back, of the claims goneFrom.
	gone     []int64
	goneFrom []int64
	enqueue  []store.NewMessage
	queues   []string // to notify of
}

type failures struct {
	ids    []int64
	errors []string
}

func (f *failures) add(id int64, text string) {
	f.ids = append(f.ids, id)
	f.errors = append(f.errors, store.CleanError(text))
}

// deaths are messages that are dead now, and where the failures of runs begin.
type deaths struct {
	failures
	failed [][]store.Place
}

func (d *deaths) add(o *store.Outcome) {
	d.failures.add(o.ID, o.Error)
	d.failed = append(d.failed, o.Failed)
}

// places are d.failed as JSON; null is none.
func (d *deaths) places() ([]*string, error) {
	out := make([]*string, len(d.failed))
	for i, places := range d.failed {
		if len(places) == 0 {
			continue
		}
		raw, err := json.Marshal(places)
		if err != nil {
			return nil, fmt.Errorf("encode where run %d has failed: %w", d.ids[i], err)
		}
		text := string(raw)
		out[i] = &text
	}
	return out, nil
}

type waits struct {
	ids    []int64
	delays []int64
	errors []*string
}

func (w *waits) add(id int64, delay int64, text *string) {
	w.ids = append(w.ids, id)
	w.delays = append(w.delays, delay)
	w.errors = append(w.errors, text)
}

// held is what is known of an item's message, and of its run.
type held struct {
	attempts, maxAttempts int
	queue                 string
	run                   runFlags
}

// settleMixed settles outcomes of every kind in one transaction of two round
// trips: the first locks and looks, the second writes. flow says that they are
// of runs.
func (s *Store) settleMixed(ctx context.Context, op string, t *settlement, flow bool) error {
	call, cancel := s.limited(ctx)
	defer cancel()
	conn, err := s.pool.Acquire(call)
	if err != nil {
		return s.fail(ctx, op, err)
	}
	defer conn.Release() // closes it if the transaction is still open
	m := &mixed{settlement: t, s: s}
	if flow {
		m.runs = newRunParts(t)
	}
	found, there, err := m.look(call, conn)
	if err != nil {
		return s.fail(ctx, op, err)
	}
	results := slices.Clone(t.results)
	for k, i := range t.items {
		h, ok := found[k]
		if !ok {
			results[i].Err = store.ErrLeaseLost
			if t.outcomes[i].Kind != store.OutcomeStep {
				m.left = append(m.left, i)
			}
			continue
		}
		if h.run.bereft {
			m.runs.bereft = append(m.runs.bereft, h.run.parent)
		}
		results[i] = m.decide(i, h, there)
	}
	m.decideWaits(results)
	empty, err := m.write(call, conn)
	if err != nil {
		return s.fail(ctx, op, err)
	}
	t.results = results
	if t.holdings != nil {
		t.holdings.settled(t.leases(m.left), empty)
		if len(m.back) > 0 {
			t.holdings.returned.Store(true)
		}
	}
	s.notifier.add(m.queues...)
	return nil
}

// look locks what the settlement needs, and returns what it found of the items
// by their position, and all queues if there are follow-ups.
func (m *mixed) look(ctx context.Context, conn *pgxpool.Conn) (map[int]held, map[string]store.QueueKind, error) {
	queues := m.targets()
	found := make(map[int]held, len(m.items))
	there := map[string]store.QueueKind{}
	b := m.s.batch()
	b.add(sqlBegin)
	b.add(sqlLimits, m.s.limits()...)
	b.add(sqlSettlePlan)
	if len(queues) > 0 {
		b.add(sqlEnqueueLock, m.s.enqueueLock, lockKeys(queues))
		b.add(sqlQueueKinds).Query(func(r pgx.Rows) error {
			var name string
			var kind store.QueueKind
			_, err := pgx.ForEachRow(r, []any{&name, &kind}, func() error {
				there[name] = kind
				return nil
			})
			return err
		})
	}
	b.add(sqlLockClaims, m.worker, m.claims)
	if m.runs != nil {
		m.lookAtRuns(b, found)
	} else {
		claims, ids := m.ofLeases(m.items)
		b.add(sqlHeld, m.worker, claims, ids, m.claims).Query(func(r pgx.Rows) error {
			var ord int
			var h held
			_, err := pgx.ForEachRow(r, []any{&ord, &h.attempts, &h.maxAttempts, &h.queue}, func() error {
				found[ord-1] = h
				return nil
			})
			return err
		})
	}
	return found, there, conn.SendBatch(ctx, &b.b).Close()
}

// targets are the queues that messages go to, sorted.
func (m *mixed) targets() []string {
	var queues []string
	for _, i := range m.items {
		for _, n := range m.outcomes[i].Enqueue {
			queues = append(queues, n.Queue)
		}
	}
	if m.runs != nil {
		queues = append(queues, m.runs.workflows...)
	}
	slices.Sort(queues)
	return slices.Compact(queues)
}

// unknownTarget is the error for a queue that is not there.
func unknownTarget(name string, kind store.QueueKind, there map[string]store.QueueKind) error {
	return &store.UnknownQueueError{Queue: name, Kind: kind, Near: store.NearNames(name, slices.Collect(maps.Keys(there)))}
}

// decide sorts in one held item.
func (m *mixed) decide(i int, h held, there map[string]store.QueueKind) store.Settled {
	o := &m.outcomes[i]
	kind := o.Kind
	if h.run.cancelling && kind != store.OutcomeStep && kind != store.OutcomeRelease {
		kind = store.OutcomeCancel
	}
	if kind != store.OutcomeCancel {
		for _, n := range o.Enqueue {
			if _, known := there[n.Queue]; !known {
				return store.Settled{Err: fmt.Errorf("follow-up message: %w", unknownTarget(n.Queue, store.JobQueue, there))}
			}
		}
	}
	if m.runs != nil {
		if err := m.runs.check(i, h, there); err != nil {
			return store.Settled{Err: err}
		}
		m.recordSteps(i, h)
	}
	if kind != store.OutcomeCancel {
		m.enqueue = append(m.enqueue, o.Enqueue...)
	}
	if kind == store.OutcomeStep {
		return store.Settled{State: store.Leased, Halt: haltOf(h.run.cancelling, h.run.paused)}
	}
	m.left = append(m.left, i)
	if kind == store.OutcomeWait {
		m.runs.waiting = append(m.runs.waiting, waitingRun{i, h})
		return store.Settled{} // see decideWaits
	}
	state := m.place(i, kind, h)
	m.placed(i, state, h)
	return store.Settled{State: state}
}

// placed notes what follows from a message's new state.
func (m *mixed) placed(i int, state store.State, h held) {
	o := &m.outcomes[i]
	if m.runs != nil && h.run.parent != 0 && state != store.Delayed && state != store.Ready {
		m.runs.end(o.ID, h.run.parent)
	}
	switch state {
	case store.Done, store.Cancelled, "":
		return
	}
	m.gone = append(m.gone, o.ID)
	m.goneFrom = append(m.goneFrom, o.Claim)
	if state == store.Ready {
		m.back = append(m.back, o.ID)
	}
	if state != store.Dead && !slices.Contains(m.queues, h.queue) {
		m.queues = append(m.queues, h.queue)
	}
}

// place sorts in an outcome by its kind and returns the message's new state.
func (m *mixed) place(i int, kind store.OutcomeKind, h held) store.State {
	o := &m.outcomes[i]
	delay := micros(o.Delay)
	switch kind {
	case store.OutcomeDone:
		m.done = append(m.done, i)
		return store.Done
	case store.OutcomeDiscard:
		m.dead.add(o)
		return store.Dead
	case store.OutcomeRetry:
		if h.attempts+1 >= h.maxAttempts {
			m.dead.add(o)
			return store.Dead
		}
		if delay > 0 {
			text := store.CleanError(o.Error)
			m.wait.add(o.ID, delay, &text)
			return store.Delayed
		}
		m.again.add(o.ID, o.Error)
		return store.Ready
	case store.OutcomeSnooze:
		if delay > 0 {
			m.wait.add(o.ID, delay, nil)
			return store.Delayed
		}
		return store.Ready
	case store.OutcomeDelete:
		m.remove = append(m.remove, o.ID)
		return ""
	case store.OutcomeCancel:
		m.runs.cancelled = append(m.runs.cancelled, o.ID)
		return store.Cancelled
	default: // OutcomeRelease
		return store.Ready
	}
}
