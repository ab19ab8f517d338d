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
	// workerRecords is workers as records; a consumer's Leased counts what its
	// claims hold and is not finished.
	workerRecords = `
select w.id, w.name, w.kind, coalesce(q.name, ''), w.state, w.slot, w.info, w.started_at, w.heartbeat_at,
    (extract(epoch from {{now}} - w.heartbeat_at) * 1000000)::bigint,
    (select count(*) from {{schema}}.messages m where m.id in
        (select unnest(c.ids) from {{schema}}.claims c where c.worker_id = w.id)),
    w.reclaimed
from {{schema}}.workers w left join {{schema}}.queues q on q.id = w.queue_id`

	workerFilter = `
    where ($2 = '' or q.name = $2) and ($3 = '' or w.kind = $3) and ($4 = '' or w.state = $4)`

	sqlWorkerGet   = workerRecords + ` where w.id = $2`
	sqlWorkerList  = workerRecords + workerFilter + ` and w.id > $5 order by w.id limit $6`
	sqlWorkerCount = `
select count(*) from {{schema}}.workers w left join {{schema}}.queues q on q.id = w.queue_id
    where ($1 = '' or q.name = $1) and ($2 = '' or w.kind = $2) and ($3 = '' or w.state = $3)`

	sqlWorkerDelete = `
with w as materialized (select id, state from {{schema}}.workers where id = $1 for update),
gone as (delete from {{schema}}.workers d using w where d.id = w.id and w.state = 'stopped')
select state from w`

	sqlWorkerPlace = `select kind, coalesce(queue_id, 0) from {{schema}}.workers where id = $1`

	// sqlWorkerMove changes a state if the present one is among $4.
	sqlWorkerMove = `
with w as materialized (select id, state from {{schema}}.workers where id = $2 for update),
moved as (
    update {{schema}}.workers u set state = $3, stopped_at = case when $3 = 'stopped' then {{now}} end
    from w where u.id = w.id and w.state = any($4::text[])
    returning u.id
)
select w.state, exists (select from moved) from w`

	// sqlWorkerStop is the shutdown of a consumer: not while it holds messages.
	// Its queue's claim lock is held.
	sqlWorkerStop = `
with w as materialized (
    select w.id, w.state, (
        select count(*) from {{schema}}.messages m where m.id in
            (select unnest(c.ids) from {{schema}}.claims c where c.worker_id = w.id)) as holds
    from {{schema}}.workers w where w.id = $2 for update of w
),
moved as (
    update {{schema}}.workers u set state = 'stopped', stopped_at = {{now}}
    from w where u.id = w.id and w.state = 'suspended' and w.holds = 0
    returning u.id
),
dropped as (delete from {{schema}}.claims c using moved where c.worker_id = moved.id)
select w.state, w.holds, exists (select from moved) from w`

	// sqlHeartbeat need not be flushed: a lost one is made up for by the next.
	sqlHeartbeat = `
with w as materialized (
    select id, state, set_config('synchronous_commit', 'off', true)
    from {{schema}}.workers where id = any($2::bigint[]) order by id for update
),
beat as (update {{schema}}.workers u set heartbeat_at = {{now}} from w where u.id = w.id and w.state <> 'stopped')
select id, state from w`

	sqlWorkerStates  = `select id, state from {{schema}}.workers where id = any($1::bigint[])`
	sqlWorkerSetInfo = `update {{schema}}.workers set info = $2::json where id = $1`
)

type workers struct{ s *Store }

// Workers is the table of workers.
func (s *Store) Workers() store.Workers { return workers{s} }

func (t workers) Insert(ctx context.Context, kind store.WorkerKind, queue string, opts store.WorkerOptions) (int64, error) {
	w, err := t.s.register(ctx, fmt.Sprintf("register worker %q", opts.Name), kind, queue, opts)
	return w.id, err
}

func scanWorker(row pgx.CollectableRow) (store.WorkerRecord, error) {
	var w store.WorkerRecord
	var info []byte
	var age int64
	err := row.Scan(&w.ID, &w.Name, &w.Kind, &w.Queue, &w.State, &w.Slot, &info, &w.StartedAt, &w.HeartbeatAt,
		&age, &w.Leased, &w.Reclaimed)
	w.Info = json.RawMessage(info)
	w.HeartbeatAge = max(duration(age), 0)
	return w, err
}

func (t workers) Get(ctx context.Context, id int64) (store.WorkerRecord, error) {
	op := fmt.Sprintf("get worker %d", id)
	found, err := rows(ctx, t.s, op, sqlWorkerGet, []any{t.s.now(), id}, scanWorker)
	if err == nil && len(found) == 0 {
		err = t.s.fail(ctx, op, store.ErrNotFound)
	}
	if err != nil {
		return store.WorkerRecord{}, err
	}
	return found[0], nil
}

func (t workers) List(ctx context.Context, f store.WorkerFilter) ([]store.WorkerRecord, error) {
	return rows(ctx, t.s, "list workers", sqlWorkerList, []any{t.s.now(), f.Queue, f.Kind, f.State, f.After, f.LimitOrDefault()}, scanWorker)
}

func (t workers) Count(ctx context.Context, f store.WorkerFilter) (int64, error) {
	var n int64
	err := t.s.row(ctx, "count workers", sqlWorkerCount, []any{f.Queue, f.Kind, f.State}, &n)
	return n, err
}

func (t workers) Delete(ctx context.Context, id int64) error {
	op := fmt.Sprintf("delete worker %d", id)
	var state store.WorkerState
	if err := t.s.row(ctx, op, sqlWorkerDelete, []any{id}, &state); err != nil {
		return err
	}
	if state != store.WorkerStopped {
		return fmt.Errorf("%s: only a stopped worker can be deleted, and it is %s: %w", op, state,
			&store.TransitionError{Worker: id, From: state, To: store.WorkerStopped})
	}
	return nil
}

// from are the states from which each state can be reached.
var from = map[store.WorkerState][]string{
	store.WorkerReady:     {string(store.WorkerSuspended)},
	store.WorkerSuspended: {string(store.WorkerReady)},
	store.WorkerStopped:   {string(store.WorkerSuspended)},
}

func (t workers) Transition(ctx context.Context, id int64, to store.WorkerState) error {
	op := fmt.Sprintf("make worker %d %s", id, to)
	if from[to] == nil {
		return store.Invalidf("%s: unknown state", op)
	}
	if to == store.WorkerStopped {
		var kind store.WorkerKind
		var queueID int32
		if err := t.s.row(ctx, op, sqlWorkerPlace, []any{id}, &kind, &queueID); err != nil {
			return err
		}
		if kind == store.KindConsumer {
			return t.stopConsumer(ctx, op, id, queueID)
		}
	}
	var state store.WorkerState
	var moved bool
	if err := t.s.row(ctx, op, sqlWorkerMove, []any{t.s.now(), id, to, from[to]}, &state, &moved); err != nil {
		return err
	}
	if !moved {
		return t.s.fail(ctx, op, &store.TransitionError{Worker: id, From: state, To: to})
	}
	t.s.notifier.add("")
	return nil
}

// stopConsumer shuts a consumer down. What it had leased too long ago is its
// own until somebody takes it back.
func (t workers) stopConsumer(ctx context.Context, op string, id int64, queueID int32) error {
	var state store.WorkerState
	var holds int64
	var moved bool
	b := t.s.batch()
	b.add(sqlClaimLock, t.s.claimLock, queueID)
	b.add(sqlWorkerStop, t.s.now(), id).QueryRow(func(r pgx.Row) error { return r.Scan(&state, &holds, &moved) })
	if err := b.send(ctx, op); err != nil {
		return err
	}
	switch {
	case moved:
		t.s.notifier.add("")
		return nil
	case state == store.WorkerSuspended:
		return t.s.fail(ctx, op, &store.HoldsMessagesError{Worker: id, Messages: holds})
	default:
		return t.s.fail(ctx, op, &store.TransitionError{Worker: id, From: state, To: store.WorkerStopped})
	}
}

func (t workers) Heartbeat(ctx context.Context, ids ...int64) (map[int64]store.WorkerState, error) {
	states, err := t.states(ctx, "heartbeat", sqlHeartbeat, t.s.now(), ids)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		t.s.noted(id, states[id])
	}
	return states, nil
}

// noted takes the state of a worker that may be a consumer of this store. One
// that was stopped, or is gone, holds nothing and never will again.
func (s *Store) noted(id int64, state store.WorkerState) {
	if state == "" || state == store.WorkerStopped {
		s.holding.Delete(id)
	}
}

func (t workers) States(ctx context.Context, ids ...int64) (map[int64]store.WorkerState, error) {
	return t.states(ctx, "worker states", sqlWorkerStates, ids)
}

func (t workers) states(ctx context.Context, op, text string, args ...any) (map[int64]store.WorkerState, error) {
	type pair struct {
		ID    int64
		State store.WorkerState
	}
	found, err := rows(ctx, t.s, op, text, args, pgx.RowToStructByPos[pair])
	if err != nil {
		return nil, err
	}
	states := make(map[int64]store.WorkerState, len(found))
	for p := range slices.Values(found) {
		states[p.ID] = p.State
	}
	return states, nil
}

func (t workers) SetInfo(ctx context.Context, id int64, info json.RawMessage) error {
	op := fmt.Sprintf("set info of worker %d", id)
	if err := store.ValidateInfo(info); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	var text *string
	if len(info) > 0 {
		t := string(info)
		text = &t
	}
	n, err := t.s.exec(ctx, op, sqlWorkerSetInfo, id, text)
	if err == nil && n == 0 {
		return t.s.fail(ctx, op, store.ErrNotFound)
	}
	return err
}

// checkQueue returns *UnknownQueueError for a queue that does not exist; an
// empty name is no queue.
func (s *Store) checkQueue(ctx context.Context, op, name string) error {
	if name == "" {
		return nil
	}
	found, err := rows(ctx, s, op, sqlQueueGet, []any{name}, scanQueue)
	if err == nil && len(found) == 0 {
		return s.unknownQueue(ctx, op, name, "")
	}
	return err
}
