package postgres

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlLoadPlan = `select ` + planNested

	// Each run is looked up by itself, so that nothing is ever scanned.
	sqlLoadRuns = `
select r.run_id, coalesce(r.version, ''), r.news, r.cancelling, r.paused from unnest($1::bigint[]) i(id)
cross join lateral (select * from {{schema}}.runs r where r.run_id = i.id offset 0) r`

	sqlLoadSteps = `
select ` + stepColumns + `, coalesce(s.version, '') from unnest($2::bigint[]) i(id)
cross join lateral (select * from {{schema}}.steps s where s.run_id = i.id offset 0) s
where s.state <> 'running' order by s.run_id, s.seq`

	signalColumns = `g.id, g.run_id, g.topic, g.payload, coalesce(g.key, ''), g.sent_at, g.taken_name is not null`

	sqlLoadSignals = `
select ` + signalColumns + ` from unnest($1::bigint[]) i(id)
cross join lateral (select * from {{schema}}.signals g where g.run_id = i.id and g.taken_name is null offset 0) g
order by g.run_id, g.id`
)

// Load returns what leased runs carry on from.
func (t workflows) Load(ctx context.Context, ids ...int64) ([]store.RunState, error) {
	states := make([]store.RunState, len(ids))
	if len(ids) == 0 {
		return states, nil
	}
	at := make(map[int64]int, len(ids))
	distinct := make([]int64, 0, len(ids))
	for i, id := range ids {
		states[i].Run = id
		if _, again := at[id]; !again {
			at[id] = i
			distinct = append(distinct, id)
		}
	}
	b := t.s.batch()
	b.add(sqlLoadPlan)
	// What comes to a run after its news were counted is looked at, or seen by
	// the next wait.
	b.add(sqlLoadRuns, distinct).Query(func(r pgx.Rows) error {
		var s store.RunState
		var cancelling, paused bool
		_, err := pgx.ForEachRow(r, []any{&s.Run, &s.Version, &s.News, &cancelling, &paused}, func() error {
			s.Halt = haltOf(cancelling, paused)
			states[at[s.Run]] = s
			return nil
		})
		return err
	})
	b.add(sqlLoadSteps, t.s.now(), distinct).Query(func(r pgx.Rows) error {
		for r.Next() {
			var version string
			step, err := scanStepAnd(r, &version)
			if err != nil {
				return err
			}
			s := &states[at[step.Run]]
			s.Steps = append(s.Steps, step)
			s.Version = cmp.Or(s.Version, version)
		}
		return r.Err()
	})
	b.add(sqlLoadSignals, distinct).Query(func(r pgx.Rows) error {
		signals, err := pgx.CollectRows(r, scanSignal)
		for _, s := range signals {
			i := at[s.Run]
			states[i].Signals = append(states[i].Signals, s)
		}
		return err
	})
	if err := b.send(ctx, fmt.Sprintf("load %d runs", len(ids))); err != nil {
		return nil, err
	}
	for i, id := range ids {
		states[i] = states[at[id]]
	}
	return states, nil
}

func scanSignal(row pgx.CollectableRow) (store.Signal, error) {
	var s store.Signal
	var payload []byte
	err := row.Scan(&s.ID, &s.Run, &s.Topic, &payload, &s.Key, &s.SentAt, &s.Taken)
	s.Payload = payload
	return s, err
}
