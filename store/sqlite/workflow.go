package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlFindRun = `SELECT run_id, input_hash FROM runs WHERE queue_id = ?1 AND key = ?2`
	sqlAddRun  = `INSERT INTO runs (run_id, queue_id, key, input_hash, parent_id) VALUES (?1, ?2, ?3, ?4, NULLIF(?5, 0))`
)

func (d *database) CreateWorkflow(ctx context.Context, run store.NewRun) (id int64, created bool, err error) {
	if err = store.ValidateRun(run); err == nil {
		err = d.write(ctx, flushed, func(t *tx) error {
			queue, err := workflowQueue(t, run.Workflow)
			if err != nil {
				return err
			}
			id, created, err = t.createRun(queue, run, 0)
			return err
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("start workflow %q: %w", run.Workflow, err)
	}
	return id, created, nil
}

// workflowQueue finds the queue of a workflow.
func workflowQueue(q querier, name string) (store.Queue, error) {
	queue, err := queueOf(q, sqlGetQueue, name)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		err = unknownQueue(q, name, store.WorkflowQueue)
	case err == nil && queue.Kind != store.WorkflowQueue:
		err = store.NotWorkflow(name)
	}
	return queue, err
}

// keyedRun finds the run of this key; 0 is none.
func (t *tx) keyedRun(queue int64, run store.NewRun) (id int64, err error) {
	if run.Key == "" {
		return 0, nil
	}
	var first string
	err = t.row(sqlFindRun, []any{queue, run.Key}, &id, &first)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, nil
	case err == nil && first != inputHash(run):
		err = fmt.Errorf("key %q is run %d's: %w", run.Key, id, store.ErrKeyConflict)
	}
	return id, err
}

// inputHash tells inputs apart, but for white space.
func inputHash(run store.NewRun) string {
	var compact bytes.Buffer
	_ = json.Compact(&compact, run.Message().Payload) // validated before
	sum := sha256.Sum256(compact.Bytes())
	return hex.EncodeToString(sum[:])
}

// createRun starts a run unless there is one of its key. parent is 0 for a run
// that no other one started.
func (t *tx) createRun(queue store.Queue, run store.NewRun, parent int64) (id int64, created bool, err error) {
	if id, err = t.keyedRun(queue.ID, run); err != nil || id != 0 {
		return id, false, err
	}
	ids, err := t.insert([]store.NewMessage{run.Message()}, map[string]int64{queue.Name: queue.ID})
	if err != nil {
		return 0, false, err
	}
	if run.Key == "" && parent == 0 {
		return ids[0], true, nil
	}
	_, err = t.exec(sqlAddRun, ids[0], queue.ID, nullText([]byte(run.Key)), inputHash(run), parent)
	return ids[0], true, err
}

func (d *database) Workflow(id int64) store.Workflow { return workflow{d, id} }

// workflow is a handle on a run.
type workflow struct {
	d  *database
	id int64
}

func (w workflow) ID() int64 { return w.id }

// lost says why a run's lease is not held.
func lost(q querier, id int64) error {
	places, err := whereAre(q, []int64{id})
	switch {
	case err != nil:
		return err
	case places[0].state == "":
		return store.ErrNotFound
	case places[0].state.Archived():
		return store.ErrTerminal
	}
	return store.ErrLeaseLost
}

// sqlBeginRun keeps the first time.
const sqlBeginRun = `
INSERT INTO runs (run_id, queue_id, begun_at) SELECT id, queue_id, ?2 FROM messages WHERE id = ?1
ON CONFLICT (run_id) DO UPDATE SET begun_at = coalesce(begun_at, excluded.begun_at)`

func (t *tx) beginRun(id int64) error {
	_, err := t.exec(sqlBeginRun, id, t.now)
	return err
}

func (w workflow) Start(ctx context.Context, lease store.Lease) error {
	err := w.d.write(ctx, unflushed, func(t *tx) error {
		is, err := held(t, []store.Lease{lease})
		if err != nil {
			return err
		}
		if !is[0] || lease.ID != w.id {
			return lost(t, w.id)
		}
		if _, err := t.exec(sqlMarkStarted, jsonIDs([]int64{w.id})); err != nil {
			return err
		}
		return t.beginRun(w.id)
	})
	if err != nil {
		return fmt.Errorf("begin run %d: %w", w.id, err)
	}
	return nil
}

func (w workflow) Complete(ctx context.Context, lease store.Lease, output json.RawMessage) error {
	err := w.settle(ctx, store.Outcome{Lease: lease, Kind: store.OutcomeDone, Output: output})
	if err != nil {
		return fmt.Errorf("complete run %d: %w", w.id, err)
	}
	return nil
}

func (w workflow) Fail(ctx context.Context, lease store.Lease, reason string) error {
	err := w.settle(ctx, store.Outcome{Lease: lease, Kind: store.OutcomeDiscard, Error: reason})
	if err != nil {
		return fmt.Errorf("fail run %d: %w", w.id, err)
	}
	return nil
}

func (w workflow) settle(ctx context.Context, o store.Outcome) error {
	if o.ID == w.id {
		settled, err := w.d.settle(ctx, "", []store.Outcome{o})
		if err != nil {
			return err
		}
		if settled[0].State == store.Cancelled {
			return fmt.Errorf("it was cancelled: %w", store.ErrTerminal)
		}
		if !errors.Is(settled[0].Err, store.ErrLeaseLost) {
			return settled[0].Err
		}
	}
	return w.d.view(ctx, func(v view) error { return lost(v, w.id) })
}
