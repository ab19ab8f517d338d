package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

// A message is read as one shape wherever it stands: waitingShape, lineShape
// and archiveShape bring their table's columns into the order of scanMessage,
// and messageColumns names them.
const (
	messageColumns = `
select p.id, q.name, p.state, p.priority, p.attempts, p.headers, p.payload, p.errors, p.enqueued_at, p.due_at,
    p.worker_id, p.id = any(c.started), c.leased_at, c.expires_at, c.progress -> p.id::text, p.output, p.finished_at`

	// messageJoins adds what is not the message's own.
	messageJoins = `
join {{schema}}.queues q on q.id = p.queue_id
left join {{schema}}.claims c on c.worker_id = p.worker_id and c.claim = p.claim`

	waitingShape = `d.id, d.queue_id, 'delayed' as state, d.priority, d.attempts, d.headers, d.payload, d.errors,
    d.enqueued_at, nullif(d.due_at, 'infinity') as due_at, null::bigint as worker_id, null::bigint as claim, null::json as output, null::timestamptz as finished_at`
	lineShape = `m.id, m.queue_id, case when h.id is null then 'ready' else 'leased' end as state, m.priority, m.attempts,
    m.headers, m.payload, m.errors, m.enqueued_at, null::timestamptz as due_at, h.worker_id, h.claim,
    null::json as output, null::timestamptz as finished_at`
	archiveShape = `a.id, a.queue_id, a.state::text as state, a.priority, a.attempts, a.headers, a.payload, a.errors,
    a.enqueued_at, null::timestamptz as due_at, a.worker_id, null::bigint as claim, a.output, a.finished_at`

	sqlMessageGet = messageColumns + `
from (
    select ` + waitingShape + ` from {{schema}}.delayed d where d.id = $1
    union all
    select ` + lineShape + ` from {{schema}}.messages m left join lateral (
        select m.id, c.worker_id, c.claim from {{schema}}.claims c where m.id = any(c.ids) order by c.leased_at desc limit 1
    ) h on true where m.id = $1
    union all
    select ` + archiveShape + ` from {{schema}}.archive a where a.id = $1
) p` + messageJoins

	// sqlMessageList lists a queue $1 (0 is all) by state $2 ('' is all).
	sqlMessageList = `
with h as materialized (
    select c.worker_id, c.claim, unnest(c.ids) as id from {{schema}}.claims c where $1::int = 0 or c.queue_id = $1
)` + messageColumns + `
from (
    select * from (
        (select ` + waitingShape + ` from {{schema}}.delayed d
        where d.id > $3 and ($1 = 0 or d.queue_id = $1) and $2 in ('', 'delayed')
        order by d.id limit $4)
        union all
        (select ` + lineShape + ` from {{schema}}.messages m left join h on h.id = m.id
        where m.id > $3 and ($1 = 0 or m.queue_id = $1)
            and ($2 = '' or ($2 = 'ready' and h.id is null) or ($2 = 'leased' and h.id is not null))
        order by m.id limit $4)
    ) u order by u.id limit $4
) p` + messageJoins + `
order by p.id`

	// sqlMessageCount counts what sqlMessageList lists.
	sqlMessageCount = `
select
    (select count(*) from {{schema}}.delayed d where ($1::int = 0 or d.queue_id = $1) and $2 in ('', 'delayed'))
    + case $2
        when '' then (select count(*) from {{schema}}.messages m where $1 = 0 or m.queue_id = $1)
        when 'ready' then (select count(*) from {{schema}}.messages m where ($1 = 0 or m.queue_id = $1)
            and m.id not in (select unnest(c.ids) from {{schema}}.claims c))
        when 'leased' then (select count(*) from {{schema}}.messages m where ($1 = 0 or m.queue_id = $1)
            and m.id in (select unnest(c.ids) from {{schema}}.claims c))
        else 0 end`
)

type messages struct{ s *Store }

// Messages is the table of messages that are not finished.
func (s *Store) Messages() store.Messages { return messages{s} }

func (t messages) Insert(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	return t.s.enqueue(ctx, enqueueing{batch: len(msgs) > 1}, msgs)
}

func (t messages) Get(ctx context.Context, id int64) (store.Message, error) {
	return t.s.message(ctx, fmt.Sprintf("get message %d", id), id)
}

func (s *Store) message(ctx context.Context, op string, id int64) (store.Message, error) {
	found, err := rows(ctx, s, op, sqlMessageGet, []any{id}, scanMessage)
	if err == nil && len(found) == 0 {
		err = s.fail(ctx, op, store.ErrNotFound)
	}
	if err != nil {
		return store.Message{}, err
	}
	return found[0], nil
}

func (t messages) List(ctx context.Context, f store.MessageFilter) ([]store.Message, error) {
	const op = "list messages"
	queueID, err := t.s.queueID(ctx, op, f.Queue)
	if err != nil {
		return nil, err
	}
	return rows(ctx, t.s, op, sqlMessageList, []any{queueID, f.State, f.After, f.LimitOrDefault()}, scanMessage)
}

func (t messages) Count(ctx context.Context, f store.MessageFilter) (int64, error) {
	const op = "count messages"
	queueID, err := t.s.queueID(ctx, op, f.Queue)
	if err != nil {
		return 0, err
	}
	var n int64
	err = t.s.row(ctx, op, sqlMessageCount, []any{queueID, f.State}, &n)
	return n, err
}

func (t messages) Delete(ctx context.Context, id int64) error {
	op := fmt.Sprintf("delete message %d", id)
	errs, err := t.s.remove(ctx, op, removal{}, []int64{id})
	if err != nil {
		return err
	}
	return t.s.fail(ctx, op, errs[0])
}

// queueID is the id of a queue that must exist; 0 for no name.
func (s *Store) queueID(ctx context.Context, op, name string) (int64, error) {
	if name == "" {
		return 0, nil
	}
	found, err := rows(ctx, s, op, sqlQueueGet, []any{name}, scanQueue)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, s.unknownQueue(ctx, op, name, "")
	}
	return found[0].ID, nil
}

func scanMessage(row pgx.CollectableRow) (store.Message, error) { return scanMessageAnd(row) }

// scanMessageAnd scans messageColumns and what follows them.
func scanMessageAnd(row pgx.CollectableRow, more ...any) (store.Message, error) {
	var (
		m                                            store.Message
		headers, payload, failures, progress, output []byte
		due, leased, expires, finished               *time.Time
		worker                                       *int64
		started                                      *bool
	)
	err := row.Scan(append([]any{&m.ID, &m.Queue, &m.State, &m.Priority, &m.Attempts, &headers, &payload, &failures, &m.EnqueuedAt, &due,
		&worker, &started, &leased, &expires, &progress, &output, &finished}, more...)...)
	if err != nil {
		return m, err
	}
	m.Headers, m.Payload, m.Output = store.ParseHeaders(headers), payload, output
	for _, part := range []struct {
		raw  []byte
		into any
	}{{failures, &m.Errors}, {progress, &m.Progress}} {
		if part.raw == nil {
			continue
		}
		if err := json.Unmarshal(part.raw, part.into); err != nil {
			return m, fmt.Errorf("decode message %d: %w", m.ID, err)
		}
	}
	m.AvailableAt, m.LeasedAt, m.LeaseExpiresAt, m.FinishedAt = orZero(due), orZero(leased), orZero(expires), orZero(finished)
	m.Worker = orZero(worker)
	if m.State == store.Leased {
		m.Attempt = m.Attempts + 1
		m.Started = orZero(started)
	}
	return m, nil
}

// orZero is *p, or the zero value where the database holds null.
func orZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
