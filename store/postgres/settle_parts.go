package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlSignalsTake = `
update {{schema}}.signals g set taken_name = i.name, taken_occurrence = i.occurrence
from unnest($1::bigint[], $2::text[], $3::bigint[]) as i(id, name, occurrence)
where g.id = i.id and g.id = any($1::bigint[])`

	sqlSignalsSend = `
select s.woken from unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) as i(run, topic, payload, key)
cross join lateral {{schema}}.signal_run(i.run, i.topic, i.payload::json, i.key, {{now}}) s
where s.woken is not null`

	sqlEventsSet = `
insert into {{schema}}.events as e (run_id, set_at, name, value)
select i.run_id, {{now}}, i.name, i.value::json from unnest($2::bigint[], $3::text[], $4::text[]) as i(run_id, name, value)
order by i.run_id, i.name
on conflict (run_id, name) do update set value = excluded.value, set_at = excluded.set_at`

	// sqlChildrenStart stores runs $2 that the runs $8 start as steps. Their
	// queues' enqueue locks are held.
	sqlChildrenStart = `
with item as materialized (
    select i.id, q.id as queue_id, i.payload, i.delay_us, nullif(i.headers, '') as headers,
        i.parent, i.name, i.occurrence, nullif(i.key, '') as key, i.hash
    from unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[], $9::text[], $10::bigint[],
        $11::text[]) as i(id, workflow, payload, delay_us, headers, hash, parent, name, occurrence, key)
    join {{schema}}.queues q on q.name = i.workflow
),
run as (
    insert into {{schema}}.runs (run_id, queue_id, key, input_hash, parent_id, parent_name, parent_occurrence)
    select i.id, i.queue_id, i.key, case when i.key is not null then i.hash end, i.parent, i.name, i.occurrence from item i
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, payload)
    select id, {{now}}, {{now}}, queue_id, 0, 0, headers::jsonb, payload::json from item where delay_us = 0
)
insert into {{schema}}.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, headers, payload)
select id, {{now}}, {{now}} + delay_us * interval '1 microsecond', queue_id, 0, 0, headers::jsonb, payload::json
from item where delay_us > 0`

	// sqlSettleCancelled archives held runs $3 as cancelled.
	sqlSettleCancelled = `
with gone as (
    delete from {{schema}}.messages m where m.id = any($3::bigint[])
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
)
insert into {{schema}}.archive
    (id, enqueued_at, finished_at, worker_id, queue_id, state, attempts, priority, headers, errors, payload)
select g.id, g.enqueued_at, {{now}}, $2, g.queue_id, 'cancelled', g.attempts, g.priority, g.headers, g.errors, g.payload
from gone g`

	// sqlRunsWait says what runs wait for: null is a time that they did not ask
	// for themselves.
	sqlRunsWait = `
update {{schema}}.runs r set wait_kind = i.kind, wait_for = i.what
from unnest($1::bigint[], $2::text[], $3::text[]) as i(id, kind, what)
where r.run_id = i.id and r.run_id = any($1::bigint[])
    and (r.wait_kind, r.wait_for) is distinct from (i.kind, i.what)`
)

// takenSignals are signals that steps receive.
type takenSignals struct {
	ids         []int64
	names       []string
	occurrences []int64
}

func (t *takenSignals) add(s *store.StepResult) {
	t.ids = append(t.ids, s.Signal)
	t.names = append(t.names, s.Name)
	t.occurrences = append(t.occurrences, int64(s.Occurrence))
}

func (t *takenSignals) queue(b *batch) {
	if len(t.ids) > 0 {
		b.add(sqlSignalsTake, t.ids, t.names, t.occurrences)
	}
}

// sentSignals are signals that steps send.
type sentSignals struct {
	runs                   []int64
	topics, payloads, keys []string
}

func (t *sentSignals) add(s *store.NewSignal) {
	t.runs = append(t.runs, s.Run)
	t.topics = append(t.topics, s.Topic)
	t.payloads = append(t.payloads, orNull(s.Payload))
	t.keys = append(t.keys, s.Key)
}

// orNull is JSON, which is null where there is none.
func orNull(value json.RawMessage) string {
	if len(value) == 0 {
		return "null"
	}
	return string(value)
}

func (t *sentSignals) queue(b *batch, now *time.Time, woken *[]string) {
	if len(t.runs) == 0 {
		return
	}
	b.add(sqlSignalsSend, now, t.runs, t.topics, t.payloads, t.keys).Query(func(r pgx.Rows) (err error) {
		*woken, err = pgx.AppendRows(*woken, r, pgx.RowTo[string])
		return err
	})
}

// setEvents are events that steps publish.
type setEvents struct {
	at     map[eventAt]int
	runs   []int64
	names  []string
	values []string
}

// eventAt is an event's place.
type eventAt struct {
	run  int64
	name string
}

// add takes an event; of two under one name the last counts.
func (t *setEvents) add(run int64, s *store.StepResult) {
	at := eventAt{run, s.Topic}
	if k, again := t.at[at]; again {
		t.values[k] = orNull(s.Output)
		return
	}
	if t.at == nil {
		t.at = map[eventAt]int{}
	}
	t.at[at] = len(t.runs)
	t.runs, t.names, t.values = append(t.runs, run), append(t.names, s.Topic), append(t.values, orNull(s.Output))
}

func (t *setEvents) queue(b *batch, now *time.Time) {
	if len(t.runs) > 0 {
		b.add(sqlEventsSet, now, t.runs, t.names, t.values)
	}
}

// newChildren are runs that steps start.
type newChildren struct {
	msgs        []store.NewMessage
	ids         []int64
	hashes      [][]byte
	parents     []int64
	names       []string
	occurrences []int64
	keys        []string
}

func (t *newChildren) add(id, parent int64, s *store.StepResult) {
	msg := s.Child.Message()
	t.ids = append(t.ids, id)
	t.msgs = append(t.msgs, msg)
	t.hashes = append(t.hashes, inputHash(msg.Payload))
	t.parents = append(t.parents, parent)
	t.names = append(t.names, s.Name)
	t.occurrences = append(t.occurrences, int64(s.Occurrence))
	t.keys = append(t.keys, s.Child.Key)
}

// workflows are the queues that get children.
func (t *newChildren) workflows() []string {
	var out []string
	for _, m := range t.msgs {
		if !slices.Contains(out, m.Queue) {
			out = append(out, m.Queue)
		}
	}
	return out
}

func (t *newChildren) queue(b *batch, now *time.Time) error {
	if len(t.ids) == 0 {
		return nil
	}
	p, err := packMessages(t.msgs)
	if err != nil {
		return fmt.Errorf("start children: %w", err)
	}
	b.add(sqlChildrenStart, now, t.ids, p.queues, p.payloads, p.delays, p.headers, t.hashes, t.parents, t.names, t.occurrences, t.keys)
	return nil
}

// writeEnds queues what follows once the messages are where they belong:
// those of waits wait now.
func (p *runParts) writeEnds(b *batch, now *time.Time, worker int64, waits []int64) {
	if len(p.cancelled) > 0 {
		b.add(sqlSettleCancelled, now, worker, p.cancelled)
	}
	asked := make(map[int64]struct{}, len(p.waitIDs))
	for _, id := range p.waitIDs {
		asked[id] = struct{}{}
	}
	for _, id := range waits {
		if _, did := asked[id]; !did {
			p.waitIDs, p.waitKinds, p.waitFors = append(p.waitIDs, id), append(p.waitKinds, nil), append(p.waitFors, nil)
		}
	}
	if len(p.waitIDs) > 0 {
		b.add(sqlRunsWait, p.waitIDs, p.waitKinds, p.waitFors)
	}
	if len(p.ended) > 0 {
		b.addEndChildren(p.ended, &p.woken)
	}
}
