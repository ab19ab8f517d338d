package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// workers is the table of workers.
type workers struct{ d *database }

const (
	sqlInsertWorker = `
INSERT INTO workers (name, kind, queue, state, slot, info, started_at, heartbeat_at)
VALUES (?1, ?2, ?3, 'ready', ?4, ?5, ?6, ?6)
RETURNING id`

	columnsWorker = `w.id, w.name, w.kind, w.queue, w.state, w.slot, w.info, w.started_at, w.heartbeat_at,
    (SELECT coalesce(sum(held), 0) FROM claims c WHERE c.worker_id = w.id), w.reclaimed`
	whereWorker = `
WHERE w.id > ?1 AND (?2 = '' OR w.queue = ?2) AND (?3 = '' OR w.kind = ?3) AND (?4 = '' OR w.state = ?4)`
	sqlGetWorker    = `SELECT ` + columnsWorker + ` FROM workers w WHERE w.id = ?1`
	sqlListWorkers  = `SELECT ` + columnsWorker + ` FROM workers w` + whereWorker + ` ORDER BY w.id LIMIT ?5 + 0`
	sqlCountWorkers = `SELECT count(*) FROM workers w` + whereWorker

	sqlWorkerState = `
SELECT state, (SELECT coalesce(sum(held), 0) FROM claims WHERE worker_id = ?1) FROM workers WHERE id = ?1`
	sqlSetState = `
UPDATE workers SET state = ?2, stopped_at = CASE ?2 WHEN 'stopped' THEN ?3 END WHERE id = ?1`
	sqlHeartbeat = `
UPDATE workers SET heartbeat_at = CASE state WHEN 'stopped' THEN heartbeat_at ELSE ?2 END
WHERE id IN (SELECT value FROM json_each(?1))
RETURNING id, state`
	sqlWorkerStates = `SELECT id, state FROM workers WHERE id IN (SELECT value FROM json_each(?1))`
	sqlSetInfo      = `UPDATE workers SET info = ?2 WHERE id = ?1`
	sqlDeleteWorker = `DELETE FROM workers WHERE id = ?1`
)

func jsonText(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

func scanWorker(row scanner, now int64) (store.WorkerRecord, error) {
	var w store.WorkerRecord
	var info []byte
	var started, heartbeat int64
	err := row.Scan(&w.ID, &w.Name, &w.Kind, &w.Queue, &w.State, &w.Slot, &info, &started, &heartbeat, &w.Leased, &w.Reclaimed)
	w.Info = info
	w.StartedAt, w.HeartbeatAt = time.UnixMicro(started).UTC(), time.UnixMicro(heartbeat).UTC()
	w.HeartbeatAge = fromMicros(max(0, now-heartbeat))
	return w, err
}

func (w workers) Insert(ctx context.Context, kind store.WorkerKind, queue string, opts store.WorkerOptions) (int64, error) {
	id, err := w.insert(ctx, kind, queue, opts)
	if err != nil {
		return 0, fmt.Errorf("register a worker of kind %s: %w", kind, err)
	}
	return id, nil
}

func (w workers) insert(ctx context.Context, kind store.WorkerKind, queue string, opts store.WorkerOptions) (id int64, err error) {
	switch {
	case kind != store.KindAdmin && kind != store.KindProducer && kind != store.KindConsumer:
		return 0, store.Invalidf("kind %q is unknown", kind)
	case kind != store.KindConsumer && queue != "":
		return 0, store.Invalidf("only a consumer has a queue")
	}
	if err := store.ValidateInfo(opts.Info); err != nil {
		return 0, err
	}
	err = w.d.write(ctx, flushed, func(t *tx) error {
		if kind == store.KindConsumer {
			if _, err := findQueue(t, queue); err != nil {
				return err
			}
		}
		return t.row(sqlInsertWorker, []any{store.CleanText(opts.Name), kind, queue, store.CleanText(opts.Slot), nullText(opts.Info), t.now}, &id)
	})
	return id, err
}

func (w workers) Get(ctx context.Context, id int64) (found store.WorkerRecord, err error) {
	err = w.d.readRows(ctx, sqlGetWorker, []any{id}, func(rows *sql.Rows) (err error) {
		found, err = scanWorker(rows, w.d.now())
		return err
	})
	if err == nil && found.ID == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.WorkerRecord{}, fmt.Errorf("get worker %d: %w", id, err)
	}
	return found, nil
}

func workerArgs(f store.WorkerFilter) []any { return []any{f.After, f.Queue, f.Kind, f.State} }

func (w workers) List(ctx context.Context, filter store.WorkerFilter) ([]store.WorkerRecord, error) {
	list := []store.WorkerRecord{}
	err := w.d.readRows(ctx, sqlListWorkers, append(workerArgs(filter), filter.LimitOrDefault()), func(rows *sql.Rows) error {
		r, err := scanWorker(rows, w.d.now())
		list = append(list, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return list, nil
}

func (w workers) Count(ctx context.Context, filter store.WorkerFilter) (n int64, err error) {
	filter.After = 0
	if err := w.d.readRow(ctx, sqlCountWorkers, workerArgs(filter), &n); err != nil {
		return 0, fmt.Errorf("count workers: %w", err)
	}
	return n, nil
}

// stateOf is a worker's state and how many messages it holds.
func stateOf(q querier, id int64) (state store.WorkerState, holds int64, err error) {
	err = q.row(sqlWorkerState, []any{id}, &state, &holds)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	return state, holds, err
}

func (w workers) Delete(ctx context.Context, id int64) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		state, _, err := stateOf(t, id)
		if err != nil {
			return err
		}
		if state != store.WorkerStopped {
			return &store.TransitionError{Worker: id, From: state, To: store.WorkerStopped}
		}
		_, err = t.exec(sqlDeleteWorker, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete worker %d: %w", id, err)
	}
	return nil
}

func (w workers) Transition(ctx context.Context, id int64, to store.WorkerState) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		from, holds, err := stateOf(t, id)
		if err != nil {
			return err
		}
		switch {
		case from == store.WorkerReady && to == store.WorkerSuspended:
		case from == store.WorkerSuspended && (to == store.WorkerReady || to == store.WorkerStopped):
		default:
			return &store.TransitionError{Worker: id, From: from, To: to}
		}
		if to == store.WorkerStopped && holds > 0 {
			return &store.HoldsMessagesError{Worker: id, Messages: holds}
		}
		t.wake("")
		_, err = t.exec(sqlSetState, id, to, t.now)
		return err
	})
	if err != nil {
		return fmt.Errorf("change worker %d to %s: %w", id, to, err)
	}
	return nil
}

func (w workers) Heartbeat(ctx context.Context, ids ...int64) (map[int64]store.WorkerState, error) {
	states := make(map[int64]store.WorkerState, len(ids))
	err := w.d.write(ctx, unflushed, func(t *tx) error {
		var id int64
		var state store.WorkerState
		return t.rows(sqlHeartbeat, []any{jsonIDs(ids), t.now}, scanInto(func() { states[id] = state }, &id, &state))
	})
	if err != nil {
		return nil, fmt.Errorf("heartbeat of %d workers: %w", len(ids), err)
	}
	return states, nil
}

func (w workers) States(ctx context.Context, ids ...int64) (map[int64]store.WorkerState, error) {
	states := make(map[int64]store.WorkerState, len(ids))
	var id int64
	var state store.WorkerState
	err := w.d.readRows(ctx, sqlWorkerStates, []any{jsonIDs(ids)}, scanInto(func() { states[id] = state }, &id, &state))
	if err != nil {
		return nil, fmt.Errorf("read the states of %d workers: %w", len(ids), err)
	}
	return states, nil
}

func (w workers) SetInfo(ctx context.Context, id int64, info json.RawMessage) error {
	err := store.ValidateInfo(info)
	if err == nil {
		err = w.d.write(ctx, unflushed, func(t *tx) error {
			n, err := t.exec(sqlSetInfo, id, nullText(info))
			if err == nil && n == 0 {
				err = store.ErrNotFound
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("publish the info of worker %d: %w", id, err)
	}
	return nil
}

// worker is what an admin, a producer and a consumer have in common.
type worker struct {
	d         *database
	id        int64
	ephemeral bool
}

func (d *database) register(ctx context.Context, kind store.WorkerKind, queue string, opts store.WorkerOptions) (worker, error) {
	id, err := d.Workers().Insert(ctx, kind, queue, opts)
	if err != nil {
		return worker{}, err
	}
	return worker{d: d, id: id, ephemeral: opts.Name == ""}, nil
}

func (w worker) ID() int64 { return w.id }

// ready fails with *store.NotReadyError; a row that is gone counts as stopped.
func (w worker) ready(t *tx) error {
	state, _, err := stateOf(t, w.id)
	if errors.Is(err, store.ErrNotFound) {
		state, err = store.WorkerStopped, nil
	}
	if err == nil && state != store.WorkerReady {
		err = &store.NotReadyError{Worker: w.id, State: state}
	}
	return err
}

func (w worker) Status(ctx context.Context) (store.WorkerState, error) {
	found, err := w.d.Workers().Get(ctx, w.id)
	return found.State, err
}

func (w worker) Suspend(ctx context.Context) error {
	return w.d.Workers().Transition(ctx, w.id, store.WorkerSuspended)
}

func (w worker) Resume(ctx context.Context) error {
	return w.d.Workers().Transition(ctx, w.id, store.WorkerReady)
}

func (w worker) Shutdown(ctx context.Context) error {
	return w.d.Workers().Transition(ctx, w.id, store.WorkerStopped)
}

func (w worker) Heartbeat(ctx context.Context) error {
	states, err := w.d.Workers().Heartbeat(ctx, w.id)
	if err != nil {
		return err
	}
	if _, found := states[w.id]; !found {
		return fmt.Errorf("heartbeat of worker %d: %w", w.id, store.ErrNotFound)
	}
	return nil
}

func (w worker) IsHealthy(ctx context.Context, maxAge time.Duration) (bool, error) {
	found, err := w.d.Workers().Get(ctx, w.id)
	if err != nil {
		return false, err
	}
	return found.State != store.WorkerStopped && found.HeartbeatAge < maxAge, nil
}

func (w worker) Close(ctx context.Context) error {
	if !w.ephemeral {
		return nil
	}
	err := w.d.write(ctx, flushed, func(t *tx) error {
		if _, err := t.giveBack(heldBy(w.id)); err != nil {
			return err
		}
		_, err := t.exec(sqlDeleteWorker, w.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove ephemeral worker %d: %w", w.id, err)
	}
	return nil
}
