package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlRunCreate stores a run unless its key $3 is taken or the workflow is missing.
	sqlRunCreate = `
with new as materialized (
    select nextval('{{schema}}.message_ids') as id, q.id as queue_id
    from (select id from {{schema}}.queues where name = $2 and kind = 'workflow') q
),
keyed as (
    insert into {{schema}}.runs (run_id, queue_id, key, input_hash)
    select id, queue_id, $3, $4 from new where $3 <> ''
    on conflict (queue_id, key) where key is not null do nothing
    returning run_id
),
item as (
    select n.id, n.queue_id from new n where $3 = '' or exists (select from keyed)
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, payload)
    select id, {{now}}, {{now}}, queue_id, 0, 0, $5::text::jsonb, $6::text::json from item where $7::bigint = 0
),
waiting as (
    insert into {{schema}}.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, headers, payload)
    select id, {{now}}, {{now}} + $7 * interval '1 microsecond', queue_id, 0, 0, $5::text::jsonb, $6::text::json
    from item where $7 > 0
)
select id from item`

	sqlRunByKey = `
select r.run_id, r.input_hash from {{schema}}.runs r join {{schema}}.queues q on q.id = r.queue_id
where q.name = $1 and r.key = $2`

	// runColumns continue messageColumns, runJoins its joins.
	runColumns = `, coalesce(r.key, ''), r.begun_at, (select count(*) from {{schema}}.steps s where s.run_id = p.id)`
	runJoins   = messageJoins + `
left join {{schema}}.runs r on r.run_id = p.id`

	sqlRunGet = messageColumns + runColumns + `
from (
    select ` + waitingShape + ` from {{schema}}.delayed d where d.id = $1
    union all
    select ` + lineShape + ` from {{schema}}.messages m left join lateral (
        select m.id, c.worker_id, c.claim from {{schema}}.claims c where m.id = any(c.ids) order by c.leased_at desc limit 1
    ) h on true where m.id = $1
    union all
    select ` + archiveShape + ` from {{schema}}.archive a where a.id = $1
) p` + runJoins + `
where q.kind = 'workflow'`

	// runsOf are the runs of workflow $1 ('' is all) in state $2 ('' is all).
	runsOf = `
with flow as materialized (
    select id from {{schema}}.queues where kind = 'workflow' and ($1 = '' or name = $1)
),
h as materialized (
    select c.worker_id, c.claim, unnest(c.ids) as id from {{schema}}.claims c where c.queue_id in (select id from flow)
)`

	sqlRunList = runsOf + messageColumns + runColumns + `
from (
    select * from (
        (select ` + waitingShape + ` from {{schema}}.delayed d
        where d.id > $3 and d.queue_id in (select id from flow) and $2 in ('', 'delayed')
        order by d.id limit $4)
        union all
        (select ` + lineShape + ` from {{schema}}.messages m left join h on h.id = m.id
        where m.id > $3 and m.queue_id in (select id from flow)
            and ($2 = '' or ($2 = 'ready' and h.id is null) or ($2 = 'leased' and h.id is not null))
        order by m.id limit $4)
        union all
        (select ` + archiveShape + ` from {{schema}}.archive a
        where a.id > $3 and a.queue_id in (select id from flow) and $2 in ('', a.state::text)
        order by a.id limit $4)
    ) u order by u.id limit $4
) p` + runJoins + `
order by p.id`

	sqlRunCount = runsOf + `
select
    (select count(*) from {{schema}}.delayed d where d.queue_id in (select id from flow) and $2 in ('', 'delayed'))
    + (select count(*) from {{schema}}.messages m where m.queue_id in (select id from flow)
        and ($2 = '' or ($2 = 'ready' and m.id not in (select id from h)) or ($2 = 'leased' and m.id in (select id from h))))
    + (select count(*) from {{schema}}.archive a where a.queue_id in (select id from flow) and $2 in ('', a.state::text))`

	sqlStepList = `select ` + stepColumns + ` from {{schema}}.steps s where s.run_id = $1 order by s.seq`
)

type workflows struct{ s *Store }

// Workflows is the table of runs.
func (s *Store) Workflows() store.Workflows { return workflows{s} }

// CreateWorkflow starts a run.
func (s *Store) CreateWorkflow(ctx context.Context, run store.NewRun) (int64, bool, error) {
	return s.Workflows().Insert(ctx, run)
}

// maxRunKey is what fits into an index.
const maxRunKey = 1024

func (t workflows) Insert(ctx context.Context, run store.NewRun) (int64, bool, error) {
	op := fmt.Sprintf("start workflow %q", run.Workflow)
	msg := store.NewMessage{Queue: run.Workflow, Payload: run.Input, Delay: run.Delay, Headers: run.Headers}
	if err := store.ValidateNew(nil, msg); err != nil {
		return 0, false, fmt.Errorf("%s: %w", op, err)
	}
	if len(run.Key) > maxRunKey || store.CleanText(run.Key) != run.Key {
		return 0, false, fmt.Errorf("%s: key %.40q: at most %d bytes of UTF-8 without NUL: %w", op, run.Key, maxRunKey, store.ErrInvalid)
	}
	p, err := packMessages([]store.NewMessage{msg})
	if err != nil {
		return 0, false, fmt.Errorf("%s: %w", op, err)
	}
	var headers *string
	if p.headers[0] != "" {
		headers = &p.headers[0]
	}
	hash := inputHash(run.Input)
	for range removeTries {
		var made, there []int64
		var was []byte
		b := t.s.batch()
		b.add(sqlEnqueueLock, t.s.enqueueLock, lockKeys(p.distinct))
		b.add(sqlRunCreate, t.s.now(), run.Workflow, run.Key, hash, headers, p.payloads[0], p.delays[0]).
			Query(func(r pgx.Rows) (err error) {
				made, err = pgx.CollectRows(r, pgx.RowTo[int64])
				return err
			})
		b.add(sqlRunByKey, run.Workflow, run.Key).Query(func(r pgx.Rows) error {
			var id int64
			_, err := pgx.ForEachRow(r, []any{&id, &was}, func() error {
				there = append(there, id)
				return nil
			})
			return err
		})
		if err := b.send(ctx, op); err != nil {
			return 0, false, err
		}
		switch {
		case len(made) > 0:
			t.s.notifier.add(run.Workflow)
			return made[0], true, nil
		case len(there) > 0 && !bytes.Equal(was, hash):
			return 0, false, t.s.fail(ctx, op, fmt.Errorf("key %q is run %d's: %w", run.Key, there[0], store.ErrKeyConflict))
		case len(there) > 0:
			return there[0], false, nil
		}
		q, err := t.s.Queues().Get(ctx, run.Workflow)
		if err != nil {
			return 0, false, err
		}
		if q.Kind != store.WorkflowQueue {
			return 0, false, fmt.Errorf("%s: queue %q is for jobs, not for a workflow: %w", op, q.Name, store.ErrInvalid)
		}
		// The run of this key was deleted between the statements.
	}
	return 0, false, t.s.fail(ctx, op, t.s.unavailable(fmt.Errorf("the key %q changes all the time", run.Key)))
}

// inputHash tells inputs apart, but for white space.
func inputHash(input json.RawMessage) []byte {
	var compact bytes.Buffer
	_ = json.Compact(&compact, input) // validated before
	h := sha256.Sum256(compact.Bytes())
	return h[:]
}

func scanRun(row pgx.CollectableRow) (store.Run, error) {
	var run store.Run
	var begun *time.Time
	var err error
	run.Message, err = scanMessageAnd(row, &run.Key, &begun, &run.Steps)
	run.BegunAt = orZero(begun)
	return run, err
}

func (t workflows) Get(ctx context.Context, id int64) (store.Run, error) {
	op := fmt.Sprintf("get run %d", id)
	found, err := rows(ctx, t.s, op, sqlRunGet, []any{id}, scanRun)
	if err == nil && len(found) == 0 {
		err = t.s.fail(ctx, op, store.ErrNotFound)
	}
	if err != nil {
		return store.Run{}, err
	}
	return found[0], nil
}

func (t workflows) List(ctx context.Context, f store.RunFilter) ([]store.Run, error) {
	const op = "list runs"
	if err := t.s.checkQueue(ctx, op, f.Workflow); err != nil {
		return nil, err
	}
	return rows(ctx, t.s, op, sqlRunList, []any{f.Workflow, f.State, f.After, f.LimitOrDefault()}, scanRun)
}

func (t workflows) Count(ctx context.Context, f store.RunFilter) (int64, error) {
	const op = "count runs"
	if err := t.s.checkQueue(ctx, op, f.Workflow); err != nil {
		return 0, err
	}
	var n int64
	err := t.s.row(ctx, op, sqlRunCount, []any{f.Workflow, f.State}, &n)
	return n, err
}

func (t workflows) Delete(ctx context.Context, id int64) error {
	run, err := t.Get(ctx, id)
	if err != nil {
		return err
	}
	op := fmt.Sprintf("delete run %d", id)
	switch {
	case run.State == store.Leased:
		return t.s.fail(ctx, op, store.ErrLeased)
	case !run.State.Archived():
		return t.s.fail(ctx, op, fmt.Errorf("it is %s, not finished; cancel it first: %w", run.State, store.ErrInvalid))
	}
	return t.s.Archive().Delete(ctx, id)
}

func (t workflows) Steps(ctx context.Context, run int64) ([]store.StepRecord, error) {
	return rows(ctx, t.s, fmt.Sprintf("steps of run %d", run), sqlStepList, []any{run}, scanStep)
}
