package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlSettlePlan = `select ` + planHashed

	// sqlLockClaims waits for others who write these claims, which are in order.
	// The next statement's snapshot then sees what they did. It lets those pass
	// who only see to it that a claim stays, as complete_step does.
	//
	// Here and below each claim is looked up by itself. Left the choice, the
	// planner reads all of the worker's, and the dead ones with them, which
	// pile up while an old snapshot is open.
	sqlLockClaims = `
select c.claim from unnest($2::bigint[]) k(claim) cross join lateral (
    select c.claim from {{schema}}.claims c where c.worker_id = $1 and c.claim = k.claim limit 1 for no key update
) c`

	// heldItems are those of the items ($2, $3) whose claim is there and holds
	// them, by their position; $4 is the distinct claims.
	heldItems = `
with item as materialized (
    select i.claim, i.id, i.ord from unnest($2::bigint[], $3::bigint[]) with ordinality as i(claim, id, ord)
),
claimed as materialized (
    select c.claim, unnest(c.ids) as id from unnest($4::bigint[]) k(claim) cross join lateral (
        select c.claim, c.ids from {{schema}}.claims c where c.worker_id = $1 and c.claim = k.claim limit 1
    ) c
),
held as materialized (
    select i.id, i.ord from item i join claimed c on c.claim = i.claim and c.id = i.id
)`

	// sqlSettleDone archives those of the items ($3, $4) as done, with their
	// outputs $6, whose claim is there and holds them; $5 is the distinct
	// claims. It returns how many, and which if they are not all.
	sqlSettleDone = `
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
gone as (
    delete from {{schema}}.messages m where m.id = any(array(select id from held))
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
),
archived as (
    insert into {{schema}}.archive
        (id, enqueued_at, finished_at, worker_id, queue_id, state, attempts, priority, headers, errors, payload, output)
    select g.id, g.enqueued_at, {{now}}, $2, g.queue_id, 'done', g.attempts, g.priority, g.headers, g.errors, g.payload,
        nullif(h.output, '')::json
    from gone g join held h on h.id = g.id
)
select count(*), case when count(*) < cardinality($4::bigint[])
    then (select array_agg(h.ord) from held h where h.id in (select id from gone)) end
from gone`

	// sqlSettleDeleted removes those that are held, with what only runs have.
	sqlSettleDeleted = heldItems + `,
gone as (
    delete from {{schema}}.messages m where m.id = any(array(select id from held)) returning m.id
),
steps as (delete from {{schema}}.steps where run_id = any(array(select id from held))),
runs as (delete from {{schema}}.runs where run_id = any(array(select id from held)))
select count(*), case when count(*) < cardinality($3::bigint[])
    then (select array_agg(h.ord) from held h where h.id in (select id from gone)) end
from gone`

	sqlDropClaims = `
delete from {{schema}}.claims c where c.ctid = any(array(select d.ctid from unnest($2::bigint[]) k(claim) cross join lateral (
    select d.ctid from {{schema}}.claims d where d.worker_id = $1 and d.claim = k.claim limit 1
) d))`
)

// Settle records outcomes; see store.Consumer.
func (c *consumer) Settle(ctx context.Context, outcomes []store.Outcome) ([]store.Settled, error) {
	t := newSettlement(c.id, c.holdings, outcomes)
	op := fmt.Sprintf("settle %d messages of queue %q", len(outcomes), c.queue)
	return c.s.settle(ctx, op, t, c.queueKind == store.WorkflowQueue)
}

// settle records outcomes of one worker's leases; flow says that they are of
// runs.
func (s *Store) settle(ctx context.Context, op string, t *settlement, flow bool) ([]store.Settled, error) {
	if len(t.items) == 0 {
		return t.results, nil
	}
	var err error
	runs := flow || t.runs
	if runs && t.holdings != nil && t.holdings.holdsUp(t) {
		err = s.settleOthers(ctx, op, t, flow, nil)
	} else if err = s.settleItems(ctx, op, t, flow); runs && errors.Is(err, store.ErrLocked) {
		err = s.settleOthers(ctx, op, t, flow, err)
	}
	if err != nil {
		return nil, err
	}
	return t.results, nil
}

// settleItems writes the items, all or none.
func (s *Store) settleItems(ctx context.Context, op string, t *settlement, flow bool) error {
	switch {
	case flow && t.simple && t.lone():
		return s.settleLone(ctx, op, t)
	case flow && t.simple:
		return s.settleSimple(ctx, op, t)
	case !flow && t.plain != "":
		return s.settlePlain(ctx, op, t)
	default:
		return s.settleMixed(ctx, op, t, flow || t.runs)
	}
}

// settlement is one call of Settle.
type settlement struct {
	worker int64
	// holdings may be nil: then claims that have nothing left are found by asking.
	holdings *holdings
	outcomes []store.Outcome
	results  []store.Settled
	// items are the positions of the outcomes that are worth trying, claims
	// their distinct claims in order.
	items  []int
	claims []int64
	// plain is OutcomeDone or OutcomeDelete if all items are, and bring nothing
	// with them; else "".
	plain store.OutcomeKind
	// runs says that there are outcomes or parts of them that only runs have.
	runs bool
	// simple says that all items are OutcomeDone or OutcomeStep, and that they
	// concern no other run and need no decision.
	simple bool
}

// newSettlement answers what needs no database: what is badly formed, another
// worker's, or there twice.
func newSettlement(worker int64, h *holdings, outcomes []store.Outcome) *settlement {
	t := &settlement{
		worker: worker, holdings: h, outcomes: outcomes,
		results: make([]store.Settled, len(outcomes)),
		items:   make([]int, 0, len(outcomes)),
		claims:  make([]int64, 0, len(outcomes)),
		simple:  true,
	}
	plain := true
	seen := make(map[store.Lease]struct{}, len(outcomes))
	for i := range outcomes {
		o := &outcomes[i]
		if o.Worker != worker {
			t.results[i].Err = store.ErrLeaseLost
			continue
		}
		if err := store.ValidateOutcome(*o); err != nil {
			t.results[i].Err = err
			continue
		}
		if _, again := seen[o.Lease]; again {
			t.results[i].Err = store.ErrLeaseLost
			continue
		}
		if o.Kind != store.OutcomeStep {
			seen[o.Lease] = struct{}{}
		}
		t.items = append(t.items, i)
		t.claims = append(t.claims, o.Claim)
		plain = plain && o.Kind == outcomes[t.items[0]].Kind && len(o.Enqueue) == 0 && len(o.Steps) == 0
		t.runs = t.runs || ofRun(o)
		t.simple = t.simple && simple(o)
	}
	if plain && len(t.items) > 0 {
		switch kind := outcomes[t.items[0]].Kind; kind {
		case store.OutcomeDone, store.OutcomeDelete:
			t.plain = kind
		}
	}
	slices.Sort(t.claims)
	t.claims = slices.Compact(t.claims)
	return t
}

// leases are the leases of these items.
func (t *settlement) leases(items []int) []store.Lease {
	out := make([]store.Lease, len(items))
	for k, i := range items {
		out[k] = t.outcomes[i].Lease
	}
	return out
}

// settlePlain is the usual case in one round trip: everything is done.
func (s *Store) settlePlain(ctx context.Context, op string, t *settlement) error {
	leases := t.leases(t.items)
	b := s.batch()
	b.add(sqlSettlePlan)
	b.add(sqlLockClaims, t.worker, t.claims)
	add := t.addDone
	if t.plain == store.OutcomeDelete {
		add = t.addDeleted
	}
	plain := add(b, t.items)
	empty := t.addDropClaims(b, leases)
	if err := b.send(ctx, op); err != nil {
		return err
	}
	plain.record(t)
	if t.holdings != nil {
		t.holdings.settled(leases, empty)
	}
	return nil
}

// plainItems is one use of sqlSettleDone or sqlSettleDeleted.
type plainItems struct {
	items   []int
	state   store.State // afterwards
	count   int
	settled []int64 // their positions in items from 1; null if all were
}

func (t *settlement) addDone(b *batch, items []int) *plainItems {
	claims, ids := t.ofLeases(items)
	outputs := make([]string, len(items))
	for k, i := range items {
		outputs[k] = string(t.outcomes[i].Output)
	}
	p := &plainItems{items: items, state: store.Done}
	b.add(sqlSettleDone, b.s.now(), t.worker, claims, ids, t.claims, outputs).QueryRow(p.read)
	return p
}

func (t *settlement) addDeleted(b *batch, items []int) *plainItems {
	claims, ids := t.ofLeases(items)
	p := &plainItems{items: items}
	b.add(sqlSettleDeleted, t.worker, claims, ids, t.claims).QueryRow(p.read)
	return p
}

// ofLeases are the claims and ids of these items.
func (t *settlement) ofLeases(items []int) (claims, ids []int64) {
	claims, ids = make([]int64, len(items)), make([]int64, len(items))
	for k, i := range items {
		claims[k], ids[k] = t.outcomes[i].Claim, t.outcomes[i].ID
	}
	return claims, ids
}

func (p *plainItems) read(r pgx.Row) error { return r.Scan(&p.count, &p.settled) }

func (p *plainItems) record(t *settlement) {
	if p.count == len(p.items) {
		for _, i := range p.items {
			t.results[i].State = p.state
		}
		return
	}
	for _, i := range p.items {
		t.results[i].Err = store.ErrLeaseLost
	}
	for _, ord := range p.settled {
		t.results[p.items[ord-1]] = store.Settled{State: p.state}
	}
}
