package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlWorkerInsert = `
insert into {{schema}}.workers (name, kind, queue_id, state, slot, info, started_at, heartbeat_at)
select $2, $3, q.id, 'ready', $5, $6::json, {{now}}, {{now}}
from (select 1) one left join {{schema}}.queues q on q.name = $4
where $4 = '' or q.id is not null
returning id, coalesce(queue_id, 0), coalesce((select q.kind from {{schema}}.queues q where q.name = $4), '')`

	sqlWorkerState = `select state from {{schema}}.workers where id = $1`

	// sqlWorkerDeleteEphemeral removes the row of a worker unless it has claims,
	// which are found through it.
	sqlWorkerDeleteEphemeral = `
delete from {{schema}}.workers w where w.id = $1 and not exists (select from {{schema}}.claims c where c.worker_id = w.id)`
)

// worker is what an admin, a producer and a consumer have in common.
type worker struct {
	s         *Store
	id        int64
	queueID   int32 // 0 if it is no consumer
	queueKind store.QueueKind
	ephemeral bool
}

// register inserts a worker. Only a consumer names a queue.
func (s *Store) register(ctx context.Context, op string, kind store.WorkerKind, queue string, opts store.WorkerOptions) (worker, error) {
	if err := checkWorker(kind, queue, opts); err != nil {
		return worker{}, fmt.Errorf("%s: %w", op, err)
	}
	var info *string
	if len(opts.Info) > 0 {
		text := string(opts.Info)
		info = &text
	}
	w := worker{s: s, ephemeral: opts.Name == ""}
	args := []any{s.now(), opts.Name, kind, queue, opts.Slot, info}
	found, err := rows(ctx, s, op, sqlWorkerInsert, args, func(r pgx.CollectableRow) (worker, error) {
		err := r.Scan(&w.id, &w.queueID, &w.queueKind)
		return w, err
	})
	if err != nil {
		return worker{}, err
	}
	if len(found) == 0 {
		return worker{}, s.unknownQueue(ctx, op, queue, "")
	}
	return w, nil
}

func checkWorker(kind store.WorkerKind, queue string, opts store.WorkerOptions) error {
	switch {
	case kind != store.KindAdmin && kind != store.KindProducer && kind != store.KindConsumer:
		return store.Invalidf("worker kind %q is unknown", kind)
	case kind == store.KindConsumer && queue == "":
		return store.Invalidf("a consumer needs a queue")
	case kind != store.KindConsumer && queue != "":
		return store.Invalidf("only a consumer has a queue, not a worker of kind %s", kind)
	case store.CleanText(opts.Name) != opts.Name, store.CleanText(opts.Slot) != opts.Slot:
		return store.Invalidf("worker name %q or slot %q is not UTF-8 without NUL", opts.Name, opts.Slot)
	}
	return store.ValidateInfo(opts.Info)
}

func (w *worker) ID() int64 { return w.id }

func (w *worker) Status(ctx context.Context) (store.WorkerState, error) {
	var state store.WorkerState
	err := w.s.row(ctx, fmt.Sprintf("status of worker %d", w.id), sqlWorkerState, []any{w.id}, &state)
	return state, err
}

func (w *worker) Suspend(ctx context.Context) error {
	return w.s.Workers().Transition(ctx, w.id, store.WorkerSuspended)
}

func (w *worker) Resume(ctx context.Context) error {
	return w.s.Workers().Transition(ctx, w.id, store.WorkerReady)
}

func (w *worker) Shutdown(ctx context.Context) error {
	return w.s.Workers().Transition(ctx, w.id, store.WorkerStopped)
}

func (w *worker) Heartbeat(ctx context.Context) error {
	states, err := w.s.Workers().Heartbeat(ctx, w.id)
	if err != nil {
		return err
	}
	op := fmt.Sprintf("heartbeat of worker %d", w.id)
	switch states[w.id] {
	case "":
		return w.s.fail(ctx, op, store.ErrNotFound)
	case store.WorkerStopped:
		return w.s.fail(ctx, op, &store.NotReadyError{Worker: w.id, State: store.WorkerStopped})
	}
	return nil
}

func (w *worker) IsHealthy(ctx context.Context, maxAge time.Duration) (bool, error) {
	r, err := w.s.Workers().Get(ctx, w.id)
	if err != nil {
		return false, err
	}
	return r.State != store.WorkerStopped && r.HeartbeatAge < maxAge, nil
}

// Close ends the use of the worker; an ephemeral one's row goes.
func (w *worker) Close(ctx context.Context) error {
	if !w.ephemeral {
		return nil
	}
	op := fmt.Sprintf("close worker %d", w.id)
	_, left, err := w.s.release(ctx, op, w.id, w.queueID, true)
	if err != nil {
		return err
	}
	return left.err(op)
}

// checkReady returns a *NotReadyError unless the worker is ready.
func (s *Store) checkReady(ctx context.Context, op string, id int64) error {
	var state store.WorkerState
	if err := s.row(ctx, op, sqlWorkerState, []any{id}, &state); err != nil {
		return err
	}
	if state != store.WorkerReady {
		return s.fail(ctx, op, &store.NotReadyError{Worker: id, State: state})
	}
	return nil
}
