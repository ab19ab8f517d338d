package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlFindRun = `SELECT run_id, input_hash FROM runs WHERE queue_id = ?1 AND key = ?2`
	sqlAddRun  = `INSERT INTO runs (run_id, queue_id, key, input_hash) VALUES (?1, ?2, ?3, ?4)`
)

func (d *database) CreateWorkflow(ctx context.Context, run store.NewRun) (id int64, created bool, err error) {
	if len(run.Input) == 0 {
		run.Input = json.RawMessage("null")
	}
	msg := store.NewMessage{Queue: run.Workflow, Payload: run.Input, Delay: run.Delay, Headers: run.Headers}
	if err = store.ValidateNew(nil, msg); err == nil && store.CleanText(run.Key) != run.Key {
		err = fmt.Errorf("key %q is not UTF-8 without NUL: %w", run.Key, store.ErrInvalid)
	}
	if err == nil {
		err = d.write(ctx, flushed, func(t *tx) error {
			id, created, err = t.createRun(run.Key, msg)
			return err
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("start workflow %s: %w", run.Workflow, err)
	}
	return id, created, nil
}

func (t *tx) createRun(key string, msg store.NewMessage) (id int64, created bool, err error) {
	queue, err := findQueue(t, msg.Queue)
	if err != nil {
		return 0, false, err
	}
	if queue.Kind != store.WorkflowQueue {
		return 0, false, fmt.Errorf("queue %s holds jobs, not runs of a workflow: %w", msg.Queue, store.ErrInvalid)
	}
	sum := sha256.Sum256(msg.Payload)
	hash := hex.EncodeToString(sum[:])
	if key != "" {
		var first string
		err := t.row(sqlFindRun, []any{queue.ID, key}, &id, &first)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return 0, false, err
		case first != hash:
			return 0, false, fmt.Errorf("run %d has the key %q: %w", id, key, store.ErrKeyConflict)
		default:
			return id, false, nil
		}
	}
	ids, err := t.insert([]store.NewMessage{msg}, map[string]int64{msg.Queue: queue.ID})
	if err != nil {
		return 0, false, err
	}
	if key != "" {
		if _, err := t.exec(sqlAddRun, ids[0], queue.ID, key, hash); err != nil {
			return 0, false, err
		}
	}
	return ids[0], true, nil
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
INSERT INTO runs (run_id, queue_id, input_hash, begun_at) SELECT id, queue_id, '', ?2 FROM messages WHERE id = ?1
ON CONFLICT (run_id) DO UPDATE SET begun_at = coalesce(begun_at, excluded.begun_at)`

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
		_, err = t.exec(sqlBeginRun, w.id, t.now)
		return err
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
		if !errors.Is(settled[0].Err, store.ErrLeaseLost) {
			return settled[0].Err
		}
	}
	return w.d.view(ctx, func(v view) error { return lost(v, w.id) })
}

// workflows is the table of runs.
type workflows struct{ d *database }

func (w workflows) Insert(ctx context.Context, run store.NewRun) (int64, bool, error) {
	return w.d.CreateWorkflow(ctx, run)
}

const sqlRunRest = `
SELECT q.kind, r.key, r.begun_at, (SELECT count(*) FROM steps WHERE run_id = ?1)
FROM queues q LEFT JOIN runs r ON r.run_id = ?1
WHERE q.name = ?2`

// toRun adds what a run has beside its message; store.ErrNotFound for a message
// that is no run.
func toRun(q querier, m store.Message) (store.Run, error) {
	run := store.Run{Message: m}
	var kind store.QueueKind
	var key sql.NullString
	var begun sql.NullInt64
	if err := q.row(sqlRunRest, []any{m.ID, m.Queue}, &kind, &key, &begun, &run.Steps); err != nil {
		return run, err
	}
	if kind != store.WorkflowQueue {
		return run, fmt.Errorf("message %d is a job, not a run: %w", m.ID, store.ErrNotFound)
	}
	run.Key, run.BegunAt = key.String, toTime(begun)
	return run, nil
}

func findRun(q querier, id int64) (store.Run, error) {
	var m store.Message
	err := q.rows(sqlGetMessage, []any{id}, func(rows *sql.Rows) (err error) {
		m, err = scanMessage(rows)
		return err
	})
	if err != nil {
		return store.Run{}, err
	}
	if m.ID == 0 {
		return store.Run{}, store.ErrNotFound
	}
	return toRun(q, m)
}

func (w workflows) Get(ctx context.Context, id int64) (run store.Run, err error) {
	err = w.d.view(ctx, func(v view) (err error) {
		run, err = findRun(v, id)
		return err
	})
	if err != nil {
		return store.Run{}, fmt.Errorf("get run %d: %w", id, err)
	}
	return run, nil
}

var allStates = append(append([]store.State{}, liveStates...), archivedStates...)

// workflowQueues is the queue of the workflow that a filter names, or all
// workflows'.
func workflowQueues(q querier, name string) ([]store.Queue, error) {
	queues, err := filteredQueues(q, name)
	if err != nil {
		return nil, err
	}
	var list []store.Queue
	for _, queue := range queues {
		if queue.Kind == store.WorkflowQueue {
			list = append(list, queue)
		}
	}
	return list, nil
}

func (w workflows) List(ctx context.Context, filter store.RunFilter) ([]store.Run, error) {
	list, err := w.list(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return list, nil
}

func (w workflows) list(ctx context.Context, filter store.RunFilter) ([]store.Run, error) {
	states, err := statesOf(filter.State, allStates)
	if err != nil {
		return nil, err
	}
	list := []store.Run{}
	err = w.d.view(ctx, func(v view) error {
		queues, err := workflowQueues(v, filter.Workflow)
		if err != nil {
			return err
		}
		found, err := listMessages(v, queues, states, filter.Page)
		if err != nil {
			return err
		}
		for _, m := range found {
			run, err := toRun(v, m)
			if err != nil {
				return err
			}
			list = append(list, run)
		}
		return nil
	})
	return list, err
}

func (w workflows) Count(ctx context.Context, filter store.RunFilter) (total int64, err error) {
	states, err := statesOf(filter.State, allStates)
	if err == nil {
		err = w.d.view(ctx, func(v view) error {
			queues, err := workflowQueues(v, filter.Workflow)
			if err != nil {
				return err
			}
			total, err = countAll(v, queues, states)
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("count runs: %w", err)
	}
	return total, nil
}

func (w workflows) Delete(ctx context.Context, id int64) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		run, err := findRun(t, id)
		switch {
		case err != nil:
			return err
		case run.State == store.Leased:
			return store.ErrLeased
		case !run.State.Archived():
			return fmt.Errorf("it is %s; cancel it first: %w", run.State, store.ErrInvalid)
		}
		return t.deleteIDs([]int64{id}, allOfArchived)
	})
	if err != nil {
		return fmt.Errorf("delete run %d: %w", id, err)
	}
	return nil
}

const columnsStep = `run_id, name, occurrence, state, tries, output, error, started_at, finished_at`

const sqlListSteps = `SELECT ` + columnsStep + ` FROM steps WHERE run_id = ?1 ORDER BY id`

func scanStep(row scanner) (store.StepRecord, error) {
	var s store.StepRecord
	var output []byte
	var reason sql.NullString
	var started int64
	var finished sql.NullInt64
	err := row.Scan(&s.Run, &s.Name, &s.Occurrence, &s.State, &s.Tries, &output, &reason, &started, &finished)
	s.Output, s.Error = output, reason.String
	s.StartedAt, s.FinishedAt = time.UnixMicro(started).UTC(), toTime(finished)
	return s, err
}

func (w workflows) Steps(ctx context.Context, run int64) ([]store.StepRecord, error) {
	list := []store.StepRecord{}
	err := w.d.view(ctx, func(v view) error {
		if _, err := findRun(v, run); err != nil {
			return err
		}
		return v.rows(sqlListSteps, []any{run}, func(rows *sql.Rows) error {
			s, err := scanStep(rows)
			list = append(list, s)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list the steps of run %d: %w", run, err)
	}
	return list, nil
}
