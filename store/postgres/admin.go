package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlWorkerStats = `
select q.name, count(*) filter (where w.state = 'ready'), count(*) filter (where w.state = 'suspended'),
    count(*) filter (where w.state = 'stopped'),
    (select count(*) from {{schema}}.messages m where m.id in
        (select unnest(c.ids) from {{schema}}.claims c where c.queue_id = q.id)),
    coalesce(max((extract(epoch from {{now}} - w.heartbeat_at) * 1000000)::bigint) filter (where w.state <> 'stopped'), 0)
from {{schema}}.workers w join {{schema}}.queues q on q.id = w.queue_id
where $2 = '' or q.name = $2
group by q.id, q.name order by q.id`

	sqlWorkerHealth = `
select count(*) filter (where state = 'ready' and not stale), count(*) filter (where state <> 'stopped' and stale),
    count(*) filter (where state = 'suspended'), count(*) filter (where state = 'stopped')
from (select state, heartbeat_at <= {{now}} - $2 * interval '1 microsecond' as stale from {{schema}}.workers) w`

	sqlStaleWorkers = workerRecords + `
where w.state <> 'stopped' and w.heartbeat_at <= {{now}} - $2 * interval '1 microsecond' order by w.id`

	sqlWorkersPurge = `
delete from {{schema}}.workers where state = 'stopped' and stopped_at <= {{now}} - $2 * interval '1 microsecond'`

	sqlWorkerMessages = `
with h as materialized (
    select c.worker_id, c.claim, unnest(c.ids) as id from {{schema}}.claims c where c.worker_id = $1
)` + messageColumns + `
from (
    select ` + lineShape + ` from h join {{schema}}.messages m on m.id = h.id
    where m.id > $2 order by m.id limit $3
) p` + messageJoins + `
order by p.id`
)

// admin manages queues and workers and keeps the house clean.
type admin struct {
	worker
	due due
}

var _ store.Admin = (*admin)(nil)

// Admin registers an admin.
func (s *Store) Admin(ctx context.Context, opts store.WorkerOptions) (store.Admin, error) {
	w, err := s.register(ctx, "register an admin", store.KindAdmin, "", opts)
	if err != nil {
		return nil, err
	}
	return &admin{worker: w}, nil
}

func (a *admin) Install(ctx context.Context) error { return a.s.Install(ctx) }
func (a *admin) Verify(ctx context.Context) error  { return a.s.Verify(ctx) }

func (a *admin) CreateQueue(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	return a.s.Queues().Insert(ctx, name, policy)
}

func (a *admin) GetQueue(ctx context.Context, name string) (store.Queue, error) {
	return a.s.Queues().Get(ctx, name)
}

func (a *admin) DeleteQueue(ctx context.Context, name string, force bool) error {
	return a.s.Queues().Delete(ctx, name, force)
}

func (a *admin) PurgeQueue(ctx context.Context, name string) (int64, error) {
	return a.s.Queues().Purge(ctx, name)
}

func (a *admin) WorkerStats(ctx context.Context, queue string) ([]store.WorkerStats, error) {
	const op = "worker stats"
	if err := a.s.checkQueue(ctx, op, queue); err != nil {
		return nil, err
	}
	return rows(ctx, a.s, op, sqlWorkerStats, []any{a.s.now(), queue}, func(row pgx.CollectableRow) (store.WorkerStats, error) {
		var w store.WorkerStats
		var age int64
		err := row.Scan(&w.Queue, &w.Ready, &w.Suspended, &w.Stopped, &w.Leased, &age)
		w.OldestHeartbeatAge = max(duration(age), 0)
		return w, err
	})
}

func (a *admin) WorkerHealth(ctx context.Context, maxAge time.Duration) (store.HealthReport, error) {
	const op = "worker health"
	var r store.HealthReport
	args := []any{a.s.now(), micros(maxAge)}
	if err := a.s.row(ctx, op, sqlWorkerHealth, args, &r.Healthy, &r.Stale, &r.Suspended, &r.Stopped); err != nil {
		return r, err
	}
	var err error
	r.StaleWorkers, err = rows(ctx, a.s, op, sqlStaleWorkers, args, scanWorker)
	return r, err
}

func (a *admin) ListWorkers(ctx context.Context, f store.WorkerFilter) ([]store.WorkerRecord, error) {
	return a.s.Workers().List(ctx, f)
}

func (a *admin) DeleteWorker(ctx context.Context, id int64) error {
	return a.s.Workers().Delete(ctx, id)
}

func (a *admin) PurgeWorkers(ctx context.Context, olderThan time.Duration) (int64, error) {
	return a.s.exec(ctx, "purge workers", sqlWorkersPurge, a.s.now(), micros(olderThan))
}

func (a *admin) WorkerMessages(ctx context.Context, id int64, page store.Page) ([]store.Message, error) {
	op := fmt.Sprintf("messages of worker %d", id)
	if err := a.s.checkWorker(ctx, op, id); err != nil {
		return nil, err
	}
	return rows(ctx, a.s, op, sqlWorkerMessages, []any{id, page.After, page.LimitOrDefault()}, scanMessage)
}

// checkWorker returns ErrNotFound unless the worker exists.
func (s *Store) checkWorker(ctx context.Context, op string, id int64) error {
	var state store.WorkerState
	return s.row(ctx, op, sqlWorkerState, []any{id}, &state)
}

func (a *admin) ReleaseWorker(ctx context.Context, id int64) (int64, error) {
	op := fmt.Sprintf("release the messages of worker %d", id)
	var kind store.WorkerKind
	var queueID int32
	if err := a.s.row(ctx, op, sqlWorkerPlace, []any{id}, &kind, &queueID); err != nil {
		return 0, err
	}
	n, left, err := a.s.release(ctx, op, id, queueID, false)
	if err != nil {
		return 0, err
	}
	return n, left.err(op)
}

func (a *admin) DeadLetter(ctx context.Context, reason string, ids ...int64) ([]error, error) {
	return a.s.remove(ctx, "dead-letter messages", removal{store.Dead, reason}, ids)
}
