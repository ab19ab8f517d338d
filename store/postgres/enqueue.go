package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlEnqueueLock keeps the queues from being deleted meanwhile.
	sqlEnqueueLock = `select pg_advisory_xact_lock_shared($1, k) from unnest($2::int[]) k`

	// sqlEnqueue stores all messages or none: none when a queue is missing or
	// the producer $7 is not ready. Ids follow the order of the messages.
	sqlEnqueue = `
with gate as materialized (
    select (select count(*) from {{schema}}.queues where name = any($8::text[])) = cardinality($8::text[])
        and ($7::bigint is null or exists (select from {{schema}}.workers where id = $7 and state = 'ready')) as open
),
item as materialized (
    select nextval('{{schema}}.message_ids') as id, i.* from (
        select q.id as queue_id, i.payload, i.priority, i.delay_us, nullif(i.headers, '') as headers
        from unnest($2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::text[])
            with ordinality as i(queue, payload, priority, delay_us, headers, ord)
        join {{schema}}.queues q on q.name = i.queue
        where (select open from gate)
        order by i.ord
    ) i
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, payload)
    select id, {{now}}, {{now}}, queue_id, 0, priority, headers::jsonb, payload::json from item where delay_us = 0
),
waiting as (
    insert into {{schema}}.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, headers, payload)
    select id, {{now}}, {{now}} + delay_us * interval '1 microsecond', queue_id, 0, priority, headers::jsonb, payload::json
    from item where delay_us > 0
)
select id from item order by id`
)

// newMessages is messages as parameters of sqlEnqueue.
type newMessages struct {
	queues     []string
	payloads   []string
	priorities []int16
	delays     []int64
	headers    []string
	distinct   []string // queues, sorted
}

func packMessages(msgs []store.NewMessage) (*newMessages, error) {
	n := len(msgs)
	p := &newMessages{
		queues: make([]string, n), payloads: make([]string, n), priorities: make([]int16, n),
		delays: make([]int64, n), headers: make([]string, n),
	}
	for i, m := range msgs {
		p.queues[i] = m.Queue
		p.payloads[i] = string(m.Payload)
		p.priorities[i] = int16(m.Priority)
		p.delays[i] = micros(m.Delay)
		if i == 0 || m.Queue != msgs[i-1].Queue {
			p.distinct = append(p.distinct, m.Queue)
		}
		if len(m.Headers) > 0 {
			raw, err := json.Marshal(m.Headers)
			if err != nil {
				return nil, fmt.Errorf("encode headers: %w", err)
			}
			p.headers[i] = string(raw)
		}
	}
	slices.Sort(p.distinct)
	p.distinct = slices.Compact(p.distinct)
	return p, nil
}

// lockKeys are the queues' enqueue locks in the order of locking.
func lockKeys(queues []string) []int32 {
	keys := make([]int32, len(queues))
	for i, q := range queues {
		keys[i] = enqueueKey(q)
	}
	slices.Sort(keys)
	return keys
}

// add queues the statement that stores the messages; their ids go to ids.
func (p *newMessages) add(b *batch, producer *int64, ids *[]int64) {
	b.add(sqlEnqueue, b.s.now(), p.queues, p.payloads, p.priorities, p.delays, p.headers, producer, p.distinct).
		Query(func(r pgx.Rows) (err error) {
			*ids, err = pgx.AppendRows((*ids)[:0], r, pgx.RowTo[int64])
			return err
		})
}

// enqueueing is how messages are enqueued.
type enqueueing struct {
	validator *store.Validator // nil is store.DefaultValidator
	producer  *int64           // must be ready; nil is nobody
	// batch says that one bad message is a *store.BatchError.
	batch bool
	// admit asks for leave to store n valid messages; nil is no need to ask.
	admit func(n int) error
}

// enqueue validates and stores messages.
func (s *Store) enqueue(ctx context.Context, how enqueueing, msgs []store.NewMessage) ([]int64, error) {
	op := fmt.Sprintf("enqueue %d messages", len(msgs))
	if len(msgs) == 0 {
		return nil, nil
	}
	if len(msgs) == 1 {
		op = fmt.Sprintf("enqueue on queue %q", msgs[0].Queue)
	}
	for i, m := range msgs {
		if err := store.ValidateNew(how.validator, m); err != nil {
			return nil, fmt.Errorf("%s: %w", op, how.ofBatch(i, err))
		}
	}
	if how.admit != nil {
		if err := how.admit(len(msgs)); err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
	}
	p, err := packMessages(msgs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	var ids []int64
	b := s.batch()
	b.add(sqlEnqueueLock, s.enqueueLock, lockKeys(p.distinct))
	p.add(b, how.producer, &ids)
	if err := b.send(ctx, op); err != nil {
		return nil, err
	}
	if len(ids) != len(msgs) {
		return nil, s.whyNotEnqueued(ctx, op, how, msgs)
	}
	s.notifier.add(p.distinct...)
	return ids, nil
}

// ofBatch says which message of a batch err is about.
func (how enqueueing) ofBatch(i int, err error) error {
	if !how.batch {
		return err
	}
	return &store.BatchError{Index: i, Err: err}
}

// whyNotEnqueued finds out what closed the gate.
func (s *Store) whyNotEnqueued(ctx context.Context, op string, how enqueueing, msgs []store.NewMessage) error {
	if how.producer != nil {
		if err := s.checkReady(ctx, op, *how.producer); err != nil {
			return err
		}
	}
	names, err := rows(ctx, s, op, sqlQueueNames, nil, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for i, m := range msgs {
		if !slices.Contains(names, m.Queue) {
			missing := &store.UnknownQueueError{Queue: m.Queue, Near: store.NearNames(m.Queue, names)}
			return s.fail(ctx, op, how.ofBatch(i, missing))
		}
	}
	// It was closed a moment ago and is open now.
	return s.fail(ctx, op, s.unavailable(fmt.Errorf("a queue or the producer changed meanwhile; try again")))
}
