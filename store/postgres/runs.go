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
	runColumns = `, coalesce(r.key, ''), coalesce(r.begun_at, o.begun_at), (select count(*) from {{schema}}.steps s where s.run_id = p.id),
    coalesce(r.version, o.version, ''), coalesce(r.cancelling, false), coalesce(r.paused, false), coalesce(r.wait_kind, ''),
    coalesce(r.wait_for, ''), coalesce(r.parent_id, 0)`
	runJoins = messageJoins + `
left join {{schema}}.runs r on r.run_id = p.id
cross join lateral (select ` + begunOutside + ` from {{schema}}.steps s where s.run_id = p.id and s.version is not null) o`

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

	// runsOf are the runs of workflow $1 ('' is all) in one of the states $2,
	// those that are open with the flags $3.
	runsOf = `
with flow as materialized (
    select id from {{schema}}.queues where kind = 'workflow' and ($1 = '' or name = $1)
),
h as materialized (
    select c.worker_id, c.claim, unnest(c.ids) as id from {{schema}}.claims c where c.queue_id in (select id from flow)
)`

	// runWaits, runStands and runEnded choose among the rows of delayed, messages
	// and archive. The archive, which may be large, is not read at all for those
	// that have not ended.
	runWaits = `d.queue_id in (select id from flow) and 'delayed' = any($2::text[])
            and ` + runFlagged + `d.id), $3 in ('none', 'live')))`
	runStands = `m.queue_id in (select id from flow)
            and (h.id is null and 'ready' = any($2::text[]) or h.id is not null and 'leased' = any($2::text[]))
            and ` + runFlagged + `m.id), $3 in ('none', 'live')))`
	runEnded = `$2::text[] && '{done,dead,cancelled}'
            and a.queue_id in (select id from flow) and a.state::text = any($2::text[])`

	// runFlagged is unfinished: the run's id and two parentheses follow.
	runFlagged = `($3::text = '' or coalesce((select case
                when r.cancelling then $3 = 'cancelling' when r.paused then $3 in ('paused', 'live') else $3 in ('none', 'live') end
                from {{schema}}.runs r where r.run_id = `

	sqlRunList = runsOf + messageColumns + runColumns + `
from (
    select * from (
        (select ` + waitingShape + ` from {{schema}}.delayed d
        where d.id > $4 and ` + runWaits + `
        order by d.id limit $5)
        union all
        (select ` + lineShape + ` from {{schema}}.messages m left join h on h.id = m.id
        where m.id > $4 and ` + runStands + `
        order by m.id limit $5)
        union all
        (select ` + archiveShape + ` from {{schema}}.archive a
        where a.id > $4 and ` + runEnded + `
        order by a.id limit $5)
    ) u order by u.id limit $5
) p` + runJoins + `
order by p.id`

	sqlRunCount = runsOf + `
select
    (select count(*) from {{schema}}.delayed d where ` + runWaits + `)
    + (select count(*) from {{schema}}.messages m left join h on h.id = m.id where ` + runStands + `)
    + (select count(*) from {{schema}}.archive a where ` + runEnded + `)`

	sqlStepList = `select ` + stepColumns + ` from {{schema}}.steps s where s.run_id = $2 order by s.seq`
)

type workflows struct{ s *Store }

// Workflows is the table of runs.
func (s *Store) Workflows() store.Workflows { return workflows{s} }

// CreateWorkflow starts a run.
func (s *Store) CreateWorkflow(ctx context.Context, run store.NewRun) (int64, bool, error) {
	return s.Workflows().Insert(ctx, run)
}

func (t workflows) Insert(ctx context.Context, run store.NewRun) (int64, bool, error) {
	op := fmt.Sprintf("start workflow %q", run.Workflow)
	if err := store.ValidateRun(run); err != nil {
		return 0, false, fmt.Errorf("%s: %w", op, err)
	}
	msg := run.Message()
	p, err := packMessages([]store.NewMessage{msg})
	if err != nil {
		return 0, false, fmt.Errorf("%s: %w", op, err)
	}
	var headers *string
	if p.headers[0] != "" {
		headers = &p.headers[0]
	}
	hash := inputHash(msg.Payload)
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
		if err := t.s.checkWorkflow(ctx, op, run.Workflow); err != nil {
			return 0, false, err
		}
		// The run of this key was deleted between the statements.
	}
	return 0, false, t.s.fail(ctx, op, t.s.unavailable(fmt.Errorf("the key %q changes all the time", run.Key)))
}

// checkWorkflow says why a name is no workflow's; the empty one stands for all.
func (s *Store) checkWorkflow(ctx context.Context, op, name string) error {
	if name == "" {
		return nil
	}
	found, err := rows(ctx, s, op, sqlQueueGet, []any{name}, scanQueue)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return s.unknownQueue(ctx, op, name, store.WorkflowQueue)
	case found[0].Kind != store.WorkflowQueue:
		return s.fail(ctx, op, store.NotWorkflow(name))
	}
	return nil
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
	var cancelling, paused bool
	var wait store.RunWait
	var err error
	run.Message, err = scanMessageAnd(row, &run.Key, &begun, &run.Steps, &run.Version, &cancelling, &paused,
		&wait.Kind, &wait.For, &run.Parent)
	run.BegunAt = orZero(begun)
	run.Status = statusOf(run.State, cancelling, paused)
	run.Pausing = run.Status == store.RunRunning && paused
	if run.Status == store.RunWaiting {
		wait.Until = run.AvailableAt
		if wait.Kind == "" {
			wait.Kind = store.WaitStart
			if run.Attempts > 0 || run.Steps > 0 || begun != nil {
				wait.Kind = store.WaitRetry
			}
		}
		run.Wait = &wait
	}
	return run, err
}

func statusOf(state store.State, cancelling, paused bool) store.RunStatus {
	switch state {
	case store.Done:
		return store.RunSucceeded
	case store.Dead:
		return store.RunFailed
	case store.Cancelled:
		return store.RunCancelled
	}
	switch {
	case cancelling:
		return store.RunCancelling
	case state == store.Leased:
		return store.RunRunning
	case paused:
		return store.RunPaused
	case state == store.Delayed:
		return store.RunWaiting
	}
	return store.RunQueued
}

// chosen are the states and the flags of the runs that a filter chooses.
func chosen(f store.RunFilter) (states []string, flags string, err error) {
	all := []store.State{store.Delayed, store.Ready, store.Leased, store.Done, store.Dead, store.Cancelled}
	of := all
	switch f.Status {
	case "":
	case store.RunQueued:
		of, flags = []store.State{store.Ready}, flagsNone
	case store.RunWaiting:
		of, flags = []store.State{store.Delayed}, flagsNone
	case store.RunRunning:
		of, flags = []store.State{store.Leased}, flagsLive
	case store.RunPaused:
		of, flags = []store.State{store.Delayed, store.Ready}, flagsPaused
	case store.RunCancelling:
		of, flags = all[:3], flagsCancelling
	case store.RunSucceeded:
		of = []store.State{store.Done}
	case store.RunFailed:
		of = []store.State{store.Dead}
	case store.RunCancelled:
		of = []store.State{store.Cancelled}
	default:
		return nil, "", store.Invalidf("status %q is none that a run has", f.Status)
	}
	states = []string{}
	for _, state := range of {
		if (f.State == "" || f.State == state) && (!f.Open || !state.Archived()) {
			states = append(states, string(state))
		}
	}
	return states, flags, nil
}

// The flags by which sqlRunList chooses: neither of them, not cancelling,
// paused but not cancelling, cancelling.
const (
	flagsNone       = "none"
	flagsLive       = "live"
	flagsPaused     = "paused"
	flagsCancelling = "cancelling"
)

func (t workflows) Get(ctx context.Context, id int64) (store.Run, error) {
	op := fmt.Sprintf("get run %d", id)
	found, err := rows(ctx, t.s, op, sqlRunGet, []any{id}, scanRun)
	if err == nil && len(found) == 0 {
		if _, err = t.s.runPlace(ctx, op, id); err == nil { // it has come only now
			err = t.s.fail(ctx, op, store.ErrNotFound)
		}
	}
	if err != nil {
		return store.Run{}, err
	}
	return found[0], nil
}

func (t workflows) List(ctx context.Context, f store.RunFilter) ([]store.Run, error) {
	const op = "list runs"
	if err := t.s.checkWorkflow(ctx, op, f.Workflow); err != nil {
		return nil, err
	}
	states, flags, err := chosen(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return rows(ctx, t.s, op, sqlRunList, []any{f.Workflow, states, flags, f.After, f.LimitOrDefault()}, scanRun)
}

func (t workflows) Count(ctx context.Context, f store.RunFilter) (int64, error) {
	const op = "count runs"
	if err := t.s.checkWorkflow(ctx, op, f.Workflow); err != nil {
		return 0, err
	}
	states, flags, err := chosen(f)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", op, err)
	}
	var n int64
	err = t.s.row(ctx, op, sqlRunCount, []any{f.Workflow, states, flags}, &n)
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
		return t.s.fail(ctx, op, store.Invalidf("it is %s, not finished; cancel it first", run.State))
	}
	return t.s.Archive().Delete(ctx, id)
}

func (t workflows) Steps(ctx context.Context, run int64) ([]store.StepRecord, error) {
	op := fmt.Sprintf("steps of run %d", run)
	found, err := rows(ctx, t.s, op, sqlStepList, []any{t.s.now(), run}, scanStep)
	if err == nil && len(found) == 0 {
		_, err = t.s.runPlace(ctx, op, run)
	}
	return found, err
}
