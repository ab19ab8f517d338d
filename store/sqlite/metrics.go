package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// sampleLimit is how many rows of a state a sample counts at most: about 20 ms.
const sampleLimit = 200_000

const (
	// The head of each priority is its oldest; the priorities are found by
	// stepping from one to the next.
	sqlOldestReady = `
WITH RECURSIVE p(priority) AS (
    SELECT min(priority) FROM ready WHERE queue_id = ?1
    UNION ALL
    SELECT (SELECT min(priority) FROM ready WHERE queue_id = ?1 AND priority > p.priority) FROM p WHERE p.priority IS NOT NULL)
SELECT min((
    SELECT m.ready_at FROM ready m WHERE m.queue_id = ?1 AND m.priority = p.priority ORDER BY m.message_id LIMIT 1))
FROM p WHERE p.priority IS NOT NULL`

	// The first rows in an index's order: how many, from where to where, and
	// where the last row of all is. At the limit that gives an estimate.
	sqlSampleReady = `
SELECT count(*), min(message_id), max(message_id),
    (SELECT message_id FROM ready WHERE queue_id = ?1 ORDER BY priority DESC, message_id DESC LIMIT 1)
FROM (SELECT message_id FROM ready WHERE queue_id = ?1 ORDER BY priority, message_id LIMIT ?2 + 0)`
	sqlSampleDelayed = `
SELECT count(*), min(due_at), max(due_at),
    (SELECT max(due_at) FROM delayed WHERE queue_id = ?1 AND due_at < ` + neverText + `)
FROM (SELECT due_at FROM delayed WHERE queue_id = ?1 AND due_at < ` + neverText + ` ORDER BY due_at LIMIT ?2 + 0)`
	// Runs that wait without limit stand all in one place, which no estimate fits.
	sqlCountUntilWoken = `SELECT count(*) FROM delayed WHERE queue_id = ?1 AND due_at = ` + neverText + ``
	sqlSampleArchived  = `
SELECT count(*), min(finished_at), max(finished_at),
    (SELECT max(finished_at) FROM archive WHERE queue_id = ?1 AND state = ?3)
FROM (SELECT finished_at FROM archive WHERE queue_id = ?1 AND state = ?3 ORDER BY finished_at LIMIT ?2 + 0)`
)

// counter counts a queue's messages in one state.
type counter func(q querier, queue int64, state store.State) (n int64, estimated bool, err error)

func exact(q querier, queue int64, state store.State) (int64, bool, error) {
	n, err := countMessages(q, queue, state)
	return n, false, err
}

func sampled(q querier, queue int64, state store.State) (int64, bool, error) {
	query, args := sqlSampleArchived, []any{queue, sampleLimit, state}
	switch state {
	case store.Leased:
		return exact(q, queue, state)
	case store.Ready:
		query, args = sqlSampleReady, args[:2]
	case store.Delayed:
		query, args = sqlSampleDelayed, args[:2]
	}
	var n int64
	var first, reached, last sql.NullInt64
	if err := q.row(query, args, &n, &first, &reached, &last); err != nil {
		return 0, false, err
	}
	estimated := n == sampleLimit && last.Int64 > reached.Int64
	if estimated {
		// As if the rest were as dense as what was counted.
		n = int64(float64(n) * float64(last.Int64-first.Int64+1) / float64(reached.Int64-first.Int64+1))
	}
	if state != store.Delayed {
		return n, estimated, nil
	}
	var untilWoken int64
	err := q.row(sqlCountUntilWoken, []any{queue}, &untilWoken)
	return n + untilWoken, estimated, err
}

func queueMetrics(q querier, queue store.Queue, count counter, now int64) (store.QueueMetrics, error) {
	m := store.QueueMetrics{Queue: queue.Name}
	for _, c := range []struct {
		state store.State
		n     *int64
	}{
		{store.Ready, &m.Ready}, {store.Delayed, &m.Delayed}, {store.Leased, &m.Leased},
		{store.Done, &m.Done}, {store.Dead, &m.Dead}, {store.Cancelled, &m.Cancelled},
	} {
		n, estimated, err := count(q, queue.ID, c.state)
		if err != nil {
			return m, err
		}
		*c.n = n
		m.Estimated = m.Estimated || estimated
	}
	var oldest sql.NullInt64
	if err := q.row(sqlOldestReady, []any{queue.ID}, &oldest); err != nil {
		return m, err
	}
	if oldest.Valid {
		m.OldestReady = fromMicros(max(0, now-oldest.Int64))
	}
	return m, nil
}

func (d *database) metrics(ctx context.Context, count counter, names []string) (list []store.QueueMetrics, err error) {
	err = d.view(ctx, func(v view) error {
		list = []store.QueueMetrics{}
		var queues []store.Queue
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			found, err := filteredQueues(v, name)
			if err != nil {
				return err
			}
			queues = append(queues, found...)
		}
		for _, queue := range queues {
			m, err := queueMetrics(v, queue, count, d.now())
			if err != nil {
				return err
			}
			list = append(list, m)
		}
		return nil
	})
	return list, err
}

func (a *admin) QueueMetrics(ctx context.Context, queues ...string) ([]store.QueueMetrics, error) {
	list, err := a.d.metrics(ctx, exact, queues)
	if err != nil {
		return nil, fmt.Errorf("count the messages of queues: %w", err)
	}
	return list, nil
}

func (a *admin) SampleMetrics(ctx context.Context) ([]store.QueueMetrics, error) {
	list, err := a.d.metrics(ctx, sampled, nil)
	if err != nil {
		return nil, fmt.Errorf("sample the messages of queues: %w", err)
	}
	return list, nil
}

const sqlCountWorkerStates = `SELECT state, count(*) FROM workers GROUP BY state`

func (a *admin) SystemStats(ctx context.Context) (store.SystemStats, error) {
	s := store.SystemStats{Workers: make(map[store.WorkerState]int64)}
	queues, err := a.d.metrics(ctx, exact, nil)
	if err == nil {
		s.SchemaVersion, err = a.d.schemaVersion(ctx)
	}
	if err == nil {
		var state store.WorkerState
		var n int64
		err = a.d.readRows(ctx, sqlCountWorkerStates, nil, scanInto(func() { s.Workers[state] = n }, &state, &n))
	}
	if err == nil {
		var n int64
		err = a.d.readRows(ctx, sqlCountStranded, nil, scanInto(func() { s.Stranded = n }, &n))
	}
	if err == nil {
		var n int64
		err = a.d.readRows(ctx, sqlCountUnserved, nil, scanInto(func() { s.Unserved = n }, &n))
	}
	if err != nil {
		return store.SystemStats{}, fmt.Errorf("count everything: %w", err)
	}
	s.Queues = int64(len(queues))
	for _, q := range queues {
		s.Ready += q.Ready
		s.Delayed += q.Delayed
		s.Leased += q.Leased
		s.Done += q.Done
		s.Dead += q.Dead
		s.Cancelled += q.Cancelled
	}
	return s, nil
}

const (
	sqlCountStranded = `
SELECT count(*) FROM runs w JOIN delayed x ON x.message_id = w.run_id WHERE w.wait_kind = 'version'`
	sqlCountUnserved = `
SELECT count(*) FROM queues q JOIN ready x ON x.queue_id = q.id
WHERE q.kind = 'workflow'
    AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.kind = 'consumer' AND w.queue = q.name AND w.state <> 'stopped')`
)

const sqlWorkerStats = `
SELECT w.queue, count(*) FILTER (WHERE w.state = 'ready'), count(*) FILTER (WHERE w.state = 'suspended'),
    count(*) FILTER (WHERE w.state = 'stopped'), sum((SELECT coalesce(sum(held), 0) FROM claims c WHERE c.worker_id = w.id)),
    min(w.heartbeat_at) FILTER (WHERE w.state <> 'stopped')
FROM workers w
WHERE w.kind = 'consumer' AND (?1 = '' OR w.queue = ?1)
GROUP BY w.queue ORDER BY w.queue`

func (a *admin) WorkerStats(ctx context.Context, queue string) ([]store.WorkerStats, error) {
	list := []store.WorkerStats{}
	err := a.d.view(ctx, func(v view) error {
		if _, err := filteredQueues(v, queue); err != nil {
			return err
		}
		return v.rows(sqlWorkerStats, []any{queue}, func(rows *sql.Rows) error {
			var s store.WorkerStats
			var oldest sql.NullInt64
			err := rows.Scan(&s.Queue, &s.Ready, &s.Suspended, &s.Stopped, &s.Leased, &oldest)
			if oldest.Valid {
				s.OldestHeartbeatAge = fromMicros(max(0, a.d.now()-oldest.Int64))
			}
			list = append(list, s)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("count the workers of queues: %w", err)
	}
	return list, nil
}

const sqlAllWorkers = `SELECT ` + columnsWorker + ` FROM workers w ORDER BY w.id`

func (a *admin) WorkerHealth(ctx context.Context, maxAge time.Duration) (store.HealthReport, error) {
	var report store.HealthReport
	err := a.d.readRows(ctx, sqlAllWorkers, nil, func(rows *sql.Rows) error {
		w, err := scanWorker(rows, a.d.now())
		if err != nil {
			return err
		}
		switch {
		case w.State == store.WorkerStopped:
			report.Stopped++
		case w.HeartbeatAge >= maxAge:
			report.Stale++
			report.StaleWorkers = append(report.StaleWorkers, w)
		case w.State == store.WorkerSuspended:
			report.Suspended++
		default:
			report.Healthy++
		}
		return nil
	})
	if err != nil {
		return store.HealthReport{}, fmt.Errorf("check the workers' health: %w", err)
	}
	return report, nil
}
