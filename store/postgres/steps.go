package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	stepColumns = `s.run_id, s.name, s.occurrence, s.state, s.tries, s.output, coalesce(s.error, ''), s.started_at, s.finished_at`

	// sqlStepAcquire opens a step, or tries a running one again.
	sqlStepAcquire = heldRun + `,
step as (
    insert into {{schema}}.steps as s (run_id, name, occurrence, state, tries, started_at)
    select id, $5, $6, 'running', 1, {{now}} from held
    on conflict (run_id, name, occurrence) do update set tries = s.tries + 1 where s.state = 'running'
)
select exists (select from held)`

	sqlStepGet = `select ` + stepColumns + ` from {{schema}}.steps s where s.run_id = $1 and s.name = $2 and s.occurrence = $3`

	sqlStepFinish = heldRun + `,
step as (
    update {{schema}}.steps s set state = $7, output = $8::text::json, error = $9, finished_at = {{now}}
    from held where s.run_id = held.id and s.name = $5 and s.occurrence = $6 and s.state = 'running'
    returning s.run_id
)
select exists (select from held), exists (select from step)`
)

// sqlStepsRecord records results of steps, once for each.
const sqlStepsRecord = `
insert into {{schema}}.steps as s (run_id, name, occurrence, state, tries, output, error, started_at, finished_at)
select i.run_id, i.name, i.occurrence, case when i.error = '' then 'succeeded' else 'failed' end, 1,
    nullif(i.output, '')::json, nullif(i.error, ''), {{now}}, {{now}}
from unnest($2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[]) with ordinality
    as i(run_id, name, occurrence, output, error, ord)
order by i.ord
on conflict (run_id, name, occurrence) do update
    set state = excluded.state, output = excluded.output, error = excluded.error, finished_at = excluded.finished_at
    where s.state = 'running'`

// stepRows are step results to record.
type stepRows struct {
	runs        []int64
	names       []string
	occurrences []int
	outputs     []string
	errors      []string
}

// add takes a run's results; of two results of one step the first counts.
func (r *stepRows) add(run int64, steps []store.StepResult) {
	seen := make(map[store.StepKey]struct{}, len(steps))
	for _, s := range steps {
		if _, again := seen[s.StepKey]; again {
			continue
		}
		seen[s.StepKey] = struct{}{}
		r.runs = append(r.runs, run)
		r.names = append(r.names, s.Name)
		r.occurrences = append(r.occurrences, s.Occurrence)
		r.outputs = append(r.outputs, string(s.Output))
		r.errors = append(r.errors, store.CleanError(s.Error))
	}
}

func (r *stepRows) queue(b *batch, now *time.Time) {
	if len(r.runs) > 0 {
		b.add(sqlStepsRecord, now, r.runs, r.names, r.occurrences, r.outputs, r.errors)
	}
}

func scanStep(row pgx.CollectableRow) (store.StepRecord, error) {
	var r store.StepRecord
	var output []byte
	var finished *time.Time
	err := row.Scan(&r.Run, &r.Name, &r.Occurrence, &r.State, &r.Tries, &output, &r.Error, &r.StartedAt, &finished)
	r.Output, r.FinishedAt = output, orZero(finished)
	return r, err
}

// step is an acquired step.
type step struct {
	s      *Store
	lease  store.Lease
	record store.StepRecord
}

// AcquireStep opens a step of the run that lease holds.
func (s *Store) AcquireStep(ctx context.Context, lease store.Lease, key store.StepKey) (store.Step, error) {
	op := fmt.Sprintf("acquire step %s[%d] of run %d", key.Name, key.Occurrence, lease.ID)
	if err := store.ValidateStepKey(key); err != nil {
		return nil, fmt.Errorf("acquire a step of run %d: %w", lease.ID, err)
	}
	var held bool
	var found []store.StepRecord
	b := s.batch()
	b.add(sqlShareClaim, lease.Worker, lease.Claim)
	b.add(sqlStepAcquire, s.now(), lease.Worker, lease.Claim, lease.ID, key.Name, key.Occurrence).
		QueryRow(func(r pgx.Row) error { return r.Scan(&held) })
	b.add(sqlStepGet, lease.ID, key.Name, key.Occurrence).Query(func(r pgx.Rows) (err error) {
		found, err = pgx.CollectRows(r, scanStep)
		return err
	})
	if err := b.send(ctx, op); err != nil {
		return nil, err
	}
	if !held || len(found) == 0 {
		return nil, s.fail(ctx, op, store.ErrLeaseLost)
	}
	return &step{s, lease, found[0]}, nil
}

func (p *step) Execute() bool            { return p.record.State == store.StepRunning }
func (p *step) Record() store.StepRecord { return p.record }

func (p *step) Complete(ctx context.Context, output json.RawMessage) error {
	op := fmt.Sprintf("complete step %s[%d] of run %d", p.record.Name, p.record.Occurrence, p.record.Run)
	if err := store.ValidateOutput(output); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	var text *string
	if len(output) > 0 {
		o := string(output)
		text = &o
	}
	return p.finish(ctx, op, store.StepSucceeded, text, nil)
}

func (p *step) Fail(ctx context.Context, reason string) error {
	op := fmt.Sprintf("fail step %s[%d] of run %d", p.record.Name, p.record.Occurrence, p.record.Run)
	reason = store.CleanError(reason)
	return p.finish(ctx, op, store.StepFailed, nil, &reason)
}

func (p *step) finish(ctx context.Context, op string, state store.StepState, output, reason *string) error {
	var held, recorded bool
	b := p.s.batch()
	b.add(sqlShareClaim, p.lease.Worker, p.lease.Claim)
	b.add(sqlStepFinish, p.s.now(), p.lease.Worker, p.lease.Claim, p.lease.ID, p.record.Name, p.record.Occurrence, state, output, reason).
		QueryRow(func(r pgx.Row) error { return r.Scan(&held, &recorded) })
	if err := b.send(ctx, op); err != nil {
		return err
	}
	switch {
	case !held:
		return p.s.fail(ctx, op, store.ErrLeaseLost)
	case !recorded:
		return p.s.fail(ctx, op, store.ErrTerminal)
	}
	return nil
}
