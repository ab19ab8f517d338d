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
	// stepColumns need the time.
	stepColumns = `s.run_id, s.kind, s.position, s.name, s.occurrence, s.state, s.tries, s.output, coalesce(s.error, ''),
    coalesce(s.topic, ''), coalesce(s.child_id, 0), s.due_at,
    coalesce((extract(epoch from s.due_at - {{now}}) * 1000000)::bigint, 0), s.started_at, s.finished_at`

	// begunOutside is what the steps of a run say of its beginning that
	// complete_step recorded, those whose version is not null. They are of one
	// version: a run that has one keeps it.
	begunOutside = `min(nullif(s.version, '')) as version, min(s.started_at) as begun_at`

	// sqlStepAcquire opens a step, or tries a running one again.
	sqlStepAcquire = heldRun + `,
step as (
    insert into {{schema}}.steps as s (run_id, name, occurrence, state, tries, started_at)
    select id, $5, $6, 'running', 1, {{now}} from held
    on conflict (run_id, name, occurrence) do update set tries = s.tries + 1, state = 'running', due_at = null
        where s.state = 'running' or s.state = 'waiting' and s.kind = 'step'
),
begun as (
    insert into {{schema}}.runs as r (run_id, queue_id, begun_at) select id, queue_id, {{now}} from held
    on conflict (run_id) do update set begun_at = excluded.begun_at where r.begun_at is null
)
select exists (select from held)`

	sqlStepGet = `select ` + stepColumns + ` from {{schema}}.steps s where s.run_id = $2 and s.name = $3 and s.occurrence = $4`

	sqlStepFinish = heldRun + `,
step as (
    update {{schema}}.steps s set state = $7, output = $8::text::json, error = $9, finished_at = {{now}}
    from held where s.run_id = held.id and s.name = $5 and s.occurrence = $6 and s.state = 'running'
    returning s.run_id
)
select exists (select from held), exists (select from step)`
)

const (
	// sqlStepsRecord records results of steps, once for each: one that has its
	// result stays as it is, one that waits goes on waiting unless it had
	// another try.
	sqlStepsRecord = stepsInto + `
    from unnest(` + stepArrays + `) with ordinality as i(` + stepFields + `, ord)
    order by i.ord` + stepsAgain

	stepArrays = `$2::bigint[], $3::text[], $4::int[], $5::text[], $6::bigint[], $7::text[], $8::int[], $9::bigint[],
        $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[]`
	stepFields = `run_id, kind, position, name, occurrence, state, tries, took_us, output, error, topic, child_id, delay_us`

	stepsInto = `
    insert into {{schema}}.steps as s (run_id, kind, position, name, occurrence, state, tries, output, error, topic, child_id,
        due_at, started_at, finished_at)
    select i.run_id, i.kind, i.position, i.name, i.occurrence, i.state, i.tries,
        nullif(i.output, '')::json, nullif(i.error, ''), nullif(i.topic, ''), nullif(i.child_id, 0),
        case when i.state = 'waiting' and i.delay_us >= 0 then {{now}} + i.delay_us * interval '1 microsecond' end,
        {{now}} - i.took_us * interval '1 microsecond', case when i.state <> 'waiting' then {{now}} end`

	stepsAgain = `
    on conflict (run_id, name, occurrence) do update
        set kind = excluded.kind, position = excluded.position, state = excluded.state, tries = greatest(s.tries, excluded.tries),
            output = excluded.output, error = excluded.error, topic = coalesce(excluded.topic, s.topic),
            child_id = coalesce(s.child_id, excluded.child_id), due_at = excluded.due_at, finished_at = excluded.finished_at
        where s.state = 'running' or s.state = 'waiting' and (excluded.state <> 'waiting' or excluded.tries > s.tries)`
)

// stepRows are step results to record.
type stepRows struct {
	at          map[stepOf]int // the rows by what they are of
	items       []int32
	runs        []int64
	kinds       []string
	positions   []int32
	names       []string
	occurrences []int64
	states      []string
	tries       []int32
	took        []int64
	outputs     []string
	errors      []string
	topics      []string
	children    []int64
	delays      []int64
}

// stepOf is a step as the holder of a lease knows it.
type stepOf struct {
	lease store.Lease
	key   store.StepKey
}

// add takes a result, of an item for people who keep count of them. It reports
// whether it counts: of two results of one step the first does, unless it waits.
func (r *stepRows) add(item int, lease store.Lease, s *store.StepResult) bool {
	of := stepOf{lease, s.StepKey}
	k, again := r.at[of]
	if again {
		waits := r.states[k] == string(store.StepWaiting)
		if !waits || s.Ends() == store.StepWaiting && int32(tries(s)) <= r.tries[k] {
			return false
		}
	} else {
		if r.at == nil {
			r.at = map[stepOf]int{}
		}
		k = len(r.runs)
		r.at[of] = k
		r.grow()
	}
	r.items[k], r.runs[k] = int32(item), lease.ID
	r.kinds[k], r.positions[k] = string(kindOf(s)), int32(s.Position)
	r.names[k], r.occurrences[k] = s.Name, int64(s.Occurrence)
	r.states[k], r.tries[k], r.took[k] = string(s.Ends()), int32(tries(s)), micros(s.Took)
	r.outputs[k], r.errors[k], r.topics[k] = string(s.Output), store.CleanError(s.Error), s.Topic
	r.delays[k] = micros(s.Delay)
	if s.Delay < 0 {
		r.delays[k] = -1
	}
	return true
}

// child notes which run the step that was added last starts.
func (r *stepRows) child(lease store.Lease, key store.StepKey, id int64) {
	r.children[r.at[stepOf{lease, key}]] = id
}

func (r *stepRows) grow() {
	r.items, r.runs = append(r.items, 0), append(r.runs, 0)
	r.kinds, r.positions = append(r.kinds, ""), append(r.positions, 0)
	r.names, r.occurrences = append(r.names, ""), append(r.occurrences, 0)
	r.states, r.tries, r.took = append(r.states, ""), append(r.tries, 0), append(r.took, 0)
	r.outputs, r.errors, r.topics = append(r.outputs, ""), append(r.errors, ""), append(r.topics, "")
	r.children, r.delays = append(r.children, 0), append(r.delays, 0)
}

func tries(s *store.StepResult) int { return max(s.Tries, 1) }

func kindOf(s *store.StepResult) store.StepKind {
	if s.Kind == "" {
		return store.StepBody
	}
	return s.Kind
}

// fields are the first parameters of sqlStepsRecord and sqlRunSteps.
func (r *stepRows) fields(now *time.Time) []any {
	return []any{now, r.runs, r.kinds, r.positions, r.names, r.occurrences, r.states, r.tries, r.took,
		r.outputs, r.errors, r.topics, r.children, r.delays}
}

func (r *stepRows) queue(b *batch, now *time.Time) {
	if len(r.runs) > 0 {
		b.add(sqlStepsRecord, r.fields(now)...)
	}
}

func scanStep(row pgx.CollectableRow) (store.StepRecord, error) { return scanStepAnd(row) }

// scanStepAnd scans stepColumns and what follows them.
func scanStepAnd(row pgx.CollectableRow, more ...any) (store.StepRecord, error) {
	var r store.StepRecord
	var output []byte
	var due, finished *time.Time
	var remaining int64
	err := row.Scan(append([]any{&r.Run, &r.Kind, &r.Position, &r.Name, &r.Occurrence, &r.State, &r.Tries, &output, &r.Error,
		&r.Topic, &r.Child, &due, &remaining, &r.StartedAt, &finished}, more...)...)
	r.Output, r.FinishedAt = output, orZero(finished)
	if r.State == store.StepWaiting {
		r.DueAt, r.Remaining = orZero(due), -1
		if due != nil {
			r.Remaining = duration(remaining)
		}
	}
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
	op := fmt.Sprintf("acquire step %s of run %d", key.Text(), lease.ID)
	if err := store.ValidateStepKey(key); err != nil {
		return nil, fmt.Errorf("acquire a step of run %d: %w", lease.ID, err)
	}
	var held bool
	var found []store.StepRecord
	b := s.batch()
	b.add(sqlShareClaim, lease.Worker, lease.Claim)
	b.add(sqlStepAcquire, s.now(), lease.Worker, lease.Claim, lease.ID, key.Name, key.Occurrence).
		QueryRow(func(r pgx.Row) error { return r.Scan(&held) })
	b.add(sqlStepGet, s.now(), lease.ID, key.Name, key.Occurrence).Query(func(r pgx.Rows) (err error) {
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
	op := fmt.Sprintf("complete step %s of run %d", p.record.Text(), p.record.Run)
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
	op := fmt.Sprintf("fail step %s of run %d", p.record.Text(), p.record.Run)
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
