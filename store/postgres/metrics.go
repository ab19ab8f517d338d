package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlQueueMetrics counts queues $2 exactly.
	sqlQueueMetrics = `
with leased as materialized (
    select m.id, m.queue_id from {{schema}}.messages m where m.id in
        (select unnest(c.ids) from {{schema}}.claims c)
),
waiting as (
    select m.queue_id, count(*) as n, min(m.ready_at) as oldest from {{schema}}.messages m
    where m.id not in (select id from leased) group by m.queue_id
)
select q.name, coalesce(w.n, 0), (select count(*) from {{schema}}.delayed d where d.queue_id = q.id),
    (select count(*) from leased l where l.queue_id = q.id),
    (select count(*) from {{schema}}.archive a where a.queue_id = q.id and a.state = 'done'),
    (select count(*) from {{schema}}.archive a where a.queue_id = q.id and a.state = 'dead'),
    (select count(*) from {{schema}}.archive a where a.queue_id = q.id and a.state = 'cancelled'),
    coalesce((extract(epoch from {{now}} - w.oldest) * 1000000)::bigint, 0)
from {{schema}}.queues q left join waiting w on w.queue_id = q.id
where q.name = any($2::text[]) order by q.id`

	// sqlSampleMetrics counts each queue up to $2 of a kind. What is beyond
	// is estimated by the planner.
	sqlSampleMetrics = `
with leased as materialized (
    select m.id, m.queue_id from {{schema}}.messages m where m.id in
        (select unnest(c.ids) from {{schema}}.claims c)
)
select q.id, q.name, m.n, d.n, (select count(*) from leased l where l.queue_id = q.id), f.done, f.dead, f.cancelled,
    coalesce((extract(epoch from {{now}} - m.oldest) * 1000000)::bigint, 0)
from {{schema}}.queues q
cross join lateral (
    select count(*) as n, min(x.ready_at) filter (where x.id not in (select id from leased)) as oldest from (
        select m.id, m.ready_at from {{schema}}.messages m where m.queue_id = q.id order by m.priority, m.id limit $2) x
) m
cross join lateral (
    select count(*) as n from (select from {{schema}}.delayed d where d.queue_id = q.id limit $2) x
) d
cross join lateral (
    select
        (select count(*) from (select from {{schema}}.archive a where a.queue_id = q.id and a.state = 'done' limit $2) x) as done,
        (select count(*) from (select from {{schema}}.archive a where a.queue_id = q.id and a.state = 'dead' limit $2) x) as dead,
        (select count(*) from (select from {{schema}}.archive a where a.queue_id = q.id and a.state = 'cancelled' limit $2) x) as cancelled
) f
order by q.id`

	// The estimates' queue is written into the text: the planner knows how
	// frequent a value is only when it sees it.
	sqlEstimateMessages = `explain (format json) select from {{schema}}.messages where queue_id = {{queue}}`
	sqlEstimateDelayed  = `explain (format json) select from {{schema}}.delayed where queue_id = {{queue}}`
	sqlEstimateArchive  = `explain (format json) select from {{schema}}.archive where queue_id = {{queue}} and state = '{{state}}'`

	sqlSystemStats = `
select (select count(*) from {{schema}}.queues), (select count(*) from {{schema}}.messages), (select count(*) from {{schema}}.delayed),
    (select count(*) from {{schema}}.messages m where m.id in (select unnest(c.ids) from {{schema}}.claims c)),
    (select count(*) from {{schema}}.archive a where a.state = 'done'),
    (select count(*) from {{schema}}.archive a where a.state = 'dead'),
    (select count(*) from {{schema}}.archive a where a.state = 'cancelled'),
    (select count(*) from {{schema}}.runs r join {{schema}}.delayed d on d.id = r.run_id where r.wait_kind = 'version'),
    (select count(*) from {{schema}}.messages m where m.queue_id in (
        select q.id from {{schema}}.queues q where q.kind = 'workflow'
            and not exists (select from {{schema}}.workers w where w.queue_id = q.id and w.state <> 'stopped')))`

	sqlWorkersByState = `select state, count(*) from {{schema}}.workers group by state`
)

// sampleLimit is up to how many of a kind SampleMetrics counts.
const sampleLimit = 10_000

// QueueMetrics counts each named queue exactly.
func (a *admin) QueueMetrics(ctx context.Context, queues ...string) ([]store.QueueMetrics, error) {
	const op = "queue metrics"
	names, err := rows(ctx, a.s, op, sqlQueueNames, nil, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for _, q := range queues {
		if !slices.Contains(names, q) {
			return nil, a.s.fail(ctx, op, &store.UnknownQueueError{Queue: q, Near: store.NearNames(q, names)})
		}
	}
	if len(queues) > 0 {
		names = queues
	}
	return rows(ctx, a.s, op, sqlQueueMetrics, []any{a.s.now(), names}, func(row pgx.CollectableRow) (store.QueueMetrics, error) {
		var m store.QueueMetrics
		var age int64
		err := row.Scan(&m.Queue, &m.Ready, &m.Delayed, &m.Leased, &m.Done, &m.Dead, &m.Cancelled, &age)
		m.OldestReady = max(duration(age), 0)
		return m, err
	})
}

// SampleMetrics counts each queue up to sampleLimit.
func (a *admin) SampleMetrics(ctx context.Context) ([]store.QueueMetrics, error) {
	const op = "sample queue metrics"
	type sample struct {
		id    int64
		there int64 // ready and leased
		store.QueueMetrics
	}
	samples, err := rows(ctx, a.s, op, sqlSampleMetrics, []any{a.s.now(), sampleLimit}, func(row pgx.CollectableRow) (sample, error) {
		var m sample
		var age int64
		err := row.Scan(&m.id, &m.Queue, &m.there, &m.Delayed, &m.Leased, &m.Done, &m.Dead, &m.Cancelled, &age)
		m.OldestReady = max(time.Duration(age)*time.Microsecond, 0)
		return m, err
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.QueueMetrics, len(samples))
	for i := range samples {
		m := &samples[i]
		for _, e := range []struct {
			n     *int64
			text  string
			state store.State
		}{
			{&m.there, sqlEstimateMessages, ""}, {&m.Delayed, sqlEstimateDelayed, ""},
			{&m.Done, sqlEstimateArchive, store.Done}, {&m.Dead, sqlEstimateArchive, store.Dead},
			{&m.Cancelled, sqlEstimateArchive, store.Cancelled},
		} {
			if *e.n < sampleLimit {
				continue
			}
			m.Estimated = true
			if *e.n, err = a.s.estimate(ctx, op, e.text, m.id, e.state); err != nil {
				return nil, err
			}
		}
		m.Ready = max(m.there-m.Leased, 0)
		out[i] = m.QueueMetrics
	}
	return out, nil
}

// estimate asks the planner; never below what was counted.
func (s *Store) estimate(ctx context.Context, op, text string, queueID int64, state store.State) (int64, error) {
	text = expandEstimate(s.sql(text), queueID, state)
	call, cancel := s.limited(ctx)
	defer cancel()
	var raw []byte
	// Each text is used once: it must not fill the statement cache.
	if err := s.pool.QueryRow(call, text, pgx.QueryExecModeExec).Scan(&raw); err != nil {
		return 0, s.fail(ctx, op, err)
	}
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(raw, &plans); err != nil || len(plans) == 0 {
		return 0, fmt.Errorf("%s: decode the plan %.200q: %w", op, raw, err)
	}
	return max(int64(plans[0].Plan.Rows), sampleLimit), nil
}

func expandEstimate(text string, queueID int64, state store.State) string {
	return strings.NewReplacer("{{queue}}", strconv.FormatInt(queueID, 10), "{{state}}", string(state)).Replace(text)
}

// SystemStats is the whole system in numbers.
func (a *admin) SystemStats(ctx context.Context) (store.SystemStats, error) {
	const op = "system stats"
	var st store.SystemStats
	var there int64
	err := a.s.row(ctx, op, sqlSystemStats, nil, &st.Queues, &there, &st.Delayed, &st.Leased, &st.Done, &st.Dead, &st.Cancelled, &st.Stranded,
		&st.Unserved)
	if err != nil {
		return st, err
	}
	st.Ready = there - st.Leased
	type count struct {
		State store.WorkerState
		N     int64
	}
	counts, err := rows(ctx, a.s, op, sqlWorkersByState, nil, pgx.RowToStructByPos[count])
	if err != nil {
		return st, err
	}
	st.Workers = map[store.WorkerState]int64{}
	for _, c := range counts {
		st.Workers[c.State] = c.N
	}
	st.SchemaVersion, err = a.s.installedVersion(ctx, op)
	return st, err
}
