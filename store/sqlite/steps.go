package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// A step that waits for its next try has it now.
	sqlAcquireStep = `
INSERT INTO steps (run_id, name, occurrence, state, tries, started_at) VALUES (?1, ?2, ?3, 'running', 1, ?4)
ON CONFLICT (run_id, name, occurrence) DO UPDATE SET
    tries = tries + (state = 'running' OR (state = 'waiting' AND kind = 'step')),
    state = CASE WHEN state = 'waiting' AND kind = 'step' THEN 'running' ELSE state END,
    due_at = CASE WHEN state = 'waiting' AND kind <> 'step' THEN due_at END
RETURNING ` + columnsStep
	sqlStepState  = `SELECT state FROM steps WHERE run_id = ?1 AND name = ?2 AND occurrence = ?3`
	sqlFinishStep = `
UPDATE steps SET state = ?4, output = ?5, error = ?6, finished_at = ?7 WHERE run_id = ?1 AND name = ?2 AND occurrence = ?3`
)

func (d *database) AcquireStep(ctx context.Context, lease store.Lease, key store.StepKey) (store.Step, error) {
	s := &step{d: d, lease: lease}
	err := store.ValidateStepKey(key)
	if err == nil {
		// Losing a running step costs nothing: it runs again, as it would.
		err = d.write(ctx, unflushed, func(t *tx) error {
			is, err := held(t, []store.Lease{lease})
			if err != nil {
				return err
			}
			if !is[0] {
				return store.ErrLeaseLost
			}
			if err := t.beginRun(lease.ID); err != nil {
				return err
			}
			return t.rows(sqlAcquireStep, []any{lease.ID, key.Name, key.Occurrence, t.now}, func(rows *sql.Rows) (err error) {
				s.record, err = scanStep(rows, t.now)
				return err
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("acquire step %s of run %d: %w", key.Text(), lease.ID, err)
	}
	return s, nil
}

// step is an acquired step.
type step struct {
	d      *database
	lease  store.Lease
	record store.StepRecord
}

func (s *step) Execute() bool            { return s.record.State == store.StepRunning }
func (s *step) Record() store.StepRecord { return s.record }

func (s *step) Complete(ctx context.Context, output json.RawMessage) error {
	if err := store.ValidateOutput(output); err != nil {
		return fmt.Errorf("complete step %s of run %d: output: %w", s.record.Text(), s.record.Run, err)
	}
	if err := s.finish(ctx, store.StepSucceeded, nullText(output), nil); err != nil {
		return fmt.Errorf("complete step %s of run %d: %w", s.record.Text(), s.record.Run, err)
	}
	return nil
}

func (s *step) Fail(ctx context.Context, reason string) error {
	if err := s.finish(ctx, store.StepFailed, nil, store.CleanError(reason)); err != nil {
		return fmt.Errorf("fail step %s of run %d: %w", s.record.Text(), s.record.Run, err)
	}
	return nil
}

func (s *step) finish(ctx context.Context, to store.StepState, output, reason any) error {
	return s.d.write(ctx, flushed, func(t *tx) error {
		is, err := held(t, []store.Lease{s.lease})
		if err != nil {
			return err
		}
		if !is[0] {
			return store.ErrLeaseLost
		}
		var state store.StepState
		err = t.row(sqlStepState, []any{s.record.Run, s.record.Name, s.record.Occurrence}, &state)
		if errors.Is(err, sql.ErrNoRows) {
			return store.ErrNotFound
		}
		if err != nil {
			return err
		}
		if state != store.StepRunning {
			return store.ErrTerminal
		}
		_, err = t.exec(sqlFinishStep, s.record.Run, s.record.Name, s.record.Occurrence, to, output, reason, t.now)
		return err
	})
}

const (
	columnsStep = `run_id, name, occurrence, kind, position, state, tries, output, error, due_at, topic, child_id, started_at, finished_at`

	sqlListSteps = `SELECT ` + columnsStep + ` FROM steps WHERE run_id = ?1 ORDER BY id`
)

// scanStep reads a row of columnsStep.
func scanStep(row scanner, now int64) (store.StepRecord, error) {
	var s store.StepRecord
	var output []byte
	var reason, topic sql.NullString
	var started int64
	var due, child, finished sql.NullInt64
	err := row.Scan(&s.Run, &s.Name, &s.Occurrence, &s.Kind, &s.Position, &s.State, &s.Tries, &output, &reason, &due, &topic, &child,
		&started, &finished)
	s.Output, s.Error, s.Topic, s.Child = output, reason.String, topic.String, child.Int64
	s.StartedAt, s.FinishedAt, s.DueAt = time.UnixMicro(started).UTC(), toTime(finished), toTime(due)
	if s.State == store.StepWaiting {
		if s.Remaining = -1; due.Valid {
			s.Remaining = fromMicros(due.Int64 - now)
		}
	}
	return s, err
}

// With each row a run, an occurrence, what stepResults packs, where name,
// output or error, and topic are in the texts, when it began, when it is due (0
// is never), and its child. A step is recorded once: what is finished stays, and
// of what waits only a further try changes anything but the result.
const sqlRecordSteps = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(run_id, occurrence, pack, name, result, topic, started_at, due_at, child_id) AS (
    SELECT CAST(substr(?2, i*180 + 1, 20) AS INTEGER), CAST(substr(?2, i*180 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*180 + 41, 20) AS INTEGER), CAST(substr(?2, i*180 + 61, 20) AS INTEGER),
        CAST(substr(?2, i*180 + 81, 20) AS INTEGER), CAST(substr(?2, i*180 + 101, 20) AS INTEGER),
        CAST(substr(?2, i*180 + 121, 20) AS INTEGER), CAST(substr(?2, i*180 + 141, 20) AS INTEGER),
        CAST(substr(?2, i*180 + 161, 20) AS INTEGER)
    FROM r),
g(run_id, occurrence, kind, state, position, tries, name, result, topic, started_at, due_at, child_id) AS (
    SELECT run_id, occurrence, (pack>>2)&7, pack&3, pack>>32, (pack>>8)&0xffffff,
        CAST(substr(?3, name>>31, name&0x7fffffff) AS TEXT),
        NULLIF(CAST(substr(?3, result>>31, result&0x7fffffff) AS TEXT), ''),
        NULLIF(CAST(substr(?3, topic>>31, topic&0x7fffffff) AS TEXT), ''), started_at, NULLIF(due_at, 0), NULLIF(child_id, 0)
    FROM f)
INSERT INTO steps (run_id, name, occurrence, kind, position, state, tries, output, error, due_at, topic, child_id, started_at, finished_at)
SELECT run_id, name, occurrence,
    CASE kind WHEN 0 THEN 'step' WHEN 1 THEN 'sleep' WHEN 2 THEN 'signal' WHEN 3 THEN 'send' WHEN 4 THEN 'child' ELSE 'event' END, position,
    CASE state WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' ELSE 'waiting' END, tries,
    CASE state WHEN 0 THEN result END, CASE state WHEN 0 THEN NULL ELSE result END,
    due_at, topic, child_id, started_at, CASE state WHEN 2 THEN NULL ELSE ?4 END
FROM g WHERE true
ON CONFLICT (run_id, name, occurrence) DO UPDATE SET
    kind = CASE steps.state WHEN 'running' THEN excluded.kind ELSE steps.kind END, position = excluded.position,
    state = excluded.state, tries = max(steps.tries, excluded.tries), output = excluded.output, error = excluded.error,
    due_at = excluded.due_at, topic = coalesce(excluded.topic, steps.topic), child_id = coalesce(steps.child_id, excluded.child_id),
    finished_at = excluded.finished_at
WHERE steps.state = 'running' OR (steps.state = 'waiting' AND (excluded.state <> 'waiting' OR excluded.tries > steps.tries))`

// How stepResults and sqlRecordSteps number kinds and states.
var (
	kindNumbers = map[store.StepKind]int64{
		"": 0, store.StepBody: 0, store.StepSleep: 1, store.StepSignal: 2, store.StepSend: 3, store.StepChild: 4, store.StepEvent: 5,
	}
	stateNumbers = map[store.StepState]int64{store.StepSucceeded: 0, store.StepFailed: 1, store.StepWaiting: 2}
)

// maxTries is the largest number of tries that is told from more.
const maxTries = 1<<24 - 1

// stepResults are steps to record with a settle.
type stepResults struct {
	rows records
	text texts
}

// add takes a step of a run; child is the run that it started.
func (r *stepResults) add(run int64, s *store.StepResult, child, now int64) {
	state, result, due := s.Ends(), []byte(s.Output), int64(0)
	if state != store.StepSucceeded {
		result = []byte(store.CleanError(s.Error))
	}
	if state == store.StepWaiting && s.Delay >= 0 {
		due = now + micros(s.Delay)
	}
	pack := int64(s.Position)<<32 | int64(min(max(s.Tries, 1), maxTries))<<8 | kindNumbers[s.Kind]<<2 | stateNumbers[state]
	r.rows.add(run, int64(s.Occurrence), pack, r.text.add([]byte(s.Name)), r.text.add(result), r.text.add([]byte(s.Topic)),
		now-micros(s.Took), due, child)
}

func (r *stepResults) write(t *tx) error {
	if r.rows.n == 0 {
		return nil
	}
	_, err := t.exec(sqlRecordSteps, r.rows.n, r.rows.buf, r.text.buf, t.now)
	return err
}
