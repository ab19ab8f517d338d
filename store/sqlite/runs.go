package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

// workflows is the table of runs.
type workflows struct{ d *database }

func (w workflows) Insert(ctx context.Context, run store.NewRun) (int64, bool, error) {
	return w.d.CreateWorkflow(ctx, run)
}

const sqlRunRest = `
SELECT q.kind, w.key, w.begun_at, w.version, w.parent_id, coalesce(w.cancelling, 0), coalesce(w.paused, 0), w.wait_kind, w.wait_for,
    (SELECT count(*) FROM steps WHERE run_id = ?1)
FROM queues q LEFT JOIN runs w ON w.run_id = ?1
WHERE q.name = ?2`

// toRun adds what a run has beside its message; store.ErrNotFound for a message
// that is no run.
func toRun(q querier, m store.Message) (store.Run, error) {
	run := store.Run{Message: m}
	var kind store.QueueKind
	var key, version, waitKind, waitFor sql.NullString
	var begun, parent sql.NullInt64
	var cancelling, paused bool
	err := q.row(sqlRunRest, []any{m.ID, m.Queue}, &kind, &key, &begun, &version, &parent, &cancelling, &paused, &waitKind, &waitFor,
		&run.Steps)
	if err != nil {
		return run, err
	}
	if kind != store.WorkflowQueue {
		return run, &store.NotRunError{ID: m.ID}
	}
	run.Key, run.BegunAt, run.Version, run.Parent = key.String, toTime(begun), version.String, parent.Int64
	run.Status = statusOf(m.State, cancelling, paused)
	run.Pausing = run.Status == store.RunRunning && paused
	if run.Status == store.RunWaiting {
		run.Wait = &store.RunWait{Kind: store.WaitKind(waitKind.String), For: waitFor.String, Until: m.AvailableAt}
		if !waitKind.Valid {
			run.Wait.Kind = notBySelf(m)
		}
	}
	return run, nil
}

// notBySelf is what a run waits for that did not suspend itself.
func notBySelf(m store.Message) store.WaitKind {
	if m.Attempts > 0 {
		return store.WaitRetry
	}
	return store.WaitStart
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
	if name != "" {
		queue, err := workflowQueue(q, name)
		return []store.Queue{queue}, err
	}
	queues, err := filteredQueues(q, "")
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
	chosen, err := choose(filter)
	if err != nil {
		return nil, err
	}
	list := []store.Run{}
	err = w.d.view(ctx, func(v view) error {
		queues, err := workflowQueues(v, filter.Workflow)
		if err != nil {
			return err
		}
		found, err := chosen.list(v, queues, filter.Page)
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
	chosen, err := choose(filter)
	if err == nil {
		err = w.d.view(ctx, func(v view) error {
			queues, err := workflowQueues(v, filter.Workflow)
			if err != nil {
				return err
			}
			total, err = chosen.count(v, queues)
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
			return store.Invalidf("it is %s; cancel it first", run.State)
		}
		return t.deleteArchived([]int64{id})
	})
	if err != nil {
		return fmt.Errorf("delete run %d: %w", id, err)
	}
	return nil
}

func (w workflows) Steps(ctx context.Context, run int64) ([]store.StepRecord, error) {
	list := []store.StepRecord{}
	err := w.d.view(ctx, func(v view) error {
		if _, err := findRun(v, run); err != nil {
			return err
		}
		return v.rows(sqlListSteps, []any{run}, func(rows *sql.Rows) error {
			s, err := scanStep(rows, w.d.now())
			list = append(list, s)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list the steps of run %d: %w", run, err)
	}
	return list, nil
}
