package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// admin manages queues and workers. What keeps the house clean is in
// maintenance.go, what counts in metrics.go.
type admin struct{ worker }

func (d *database) Admin(ctx context.Context, opts store.WorkerOptions) (store.Admin, error) {
	w, err := d.register(ctx, store.KindAdmin, "", opts)
	if err != nil {
		return nil, err
	}
	return &admin{w}, nil
}

func (a *admin) Install(ctx context.Context) error { return a.d.Install(ctx) }
func (a *admin) Verify(ctx context.Context) error  { return a.d.Verify(ctx) }

func (a *admin) CreateQueue(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	return a.d.Queues().Insert(ctx, name, policy)
}

func (a *admin) GetQueue(ctx context.Context, name string) (store.Queue, error) {
	return a.d.Queues().Get(ctx, name)
}

func (a *admin) DeleteQueue(ctx context.Context, name string, force bool) error {
	return a.d.Queues().Delete(ctx, name, force)
}

func (a *admin) PurgeQueue(ctx context.Context, name string) (int64, error) {
	return a.d.Queues().Purge(ctx, name)
}

func (a *admin) ListWorkers(ctx context.Context, filter store.WorkerFilter) ([]store.WorkerRecord, error) {
	return a.d.Workers().List(ctx, filter)
}

func (a *admin) DeleteWorker(ctx context.Context, id int64) error {
	return a.d.Workers().Delete(ctx, id)
}

const sqlPurgeWorkers = `DELETE FROM workers WHERE state = 'stopped' AND stopped_at < ?1`

func (a *admin) PurgeWorkers(ctx context.Context, olderThan time.Duration) (purged int64, err error) {
	err = a.d.write(ctx, flushed, func(t *tx) (err error) {
		before := t.now - micros(olderThan)
		if olderThan == 0 {
			before++ // all that have stopped by now
		}
		purged, err = t.exec(sqlPurgeWorkers, before)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("purge workers that stopped %s ago: %w", olderThan, err)
	}
	return purged, nil
}

const sqlWorkerMessages = `
SELECT ` + columnsMessage + fromMessage + ` WHERE m.id IN (
    SELECT message_id FROM leases WHERE worker_id = ?1 AND message_id > ?2 ORDER BY message_id LIMIT ?3 + 0)
ORDER BY m.id`

func (a *admin) WorkerMessages(ctx context.Context, id int64, page store.Page) ([]store.Message, error) {
	list := []store.Message{}
	err := a.d.view(ctx, func(v view) error {
		if _, _, err := stateOf(v, id); err != nil {
			return err
		}
		return v.rows(sqlWorkerMessages, []any{id, page.After, page.LimitOrDefault()}, func(rows *sql.Rows) error {
			m, err := scanMessage(rows)
			list = append(list, m)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list what worker %d holds: %w", id, err)
	}
	return list, nil
}

func (a *admin) ReleaseWorker(ctx context.Context, id int64) (int64, error) {
	_, err := a.d.Workers().Get(ctx, id)
	if err != nil {
		return 0, err
	}
	n, err := a.d.releaseAll(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("release all that worker %d holds: %w", id, err)
	}
	return n, nil
}

func (a *admin) DeadLetter(ctx context.Context, reason string, ids ...int64) ([]error, error) {
	errs, err := a.d.finish(ctx, store.Dead, reason, ids)
	if err != nil {
		return nil, fmt.Errorf("move %d messages to the dead letters: %w", len(ids), err)
	}
	return errs, nil
}
