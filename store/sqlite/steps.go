package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlAcquireStep = `
INSERT INTO steps (run_id, name, occurrence, state, tries, started_at) VALUES (?1, ?2, ?3, 'running', 1, ?4)
ON CONFLICT (run_id, name, occurrence) DO UPDATE SET tries = tries + (state = 'running')
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
			return t.rows(sqlAcquireStep, []any{lease.ID, key.Name, key.Occurrence, t.now}, func(rows *sql.Rows) (err error) {
				s.record, err = scanStep(rows)
				return err
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("acquire step %s[%d] of run %d: %w", key.Name, key.Occurrence, lease.ID, err)
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
		return fmt.Errorf("complete step %s[%d] of run %d: output: %w", s.record.Name, s.record.Occurrence, s.record.Run, err)
	}
	if err := s.finish(ctx, store.StepSucceeded, nullText(output), nil); err != nil {
		return fmt.Errorf("complete step %s[%d] of run %d: %w", s.record.Name, s.record.Occurrence, s.record.Run, err)
	}
	return nil
}

func (s *step) Fail(ctx context.Context, reason string) error {
	if err := s.finish(ctx, store.StepFailed, nil, store.CleanError(reason)); err != nil {
		return fmt.Errorf("fail step %s[%d] of run %d: %w", s.record.Name, s.record.Occurrence, s.record.Run, err)
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

// With each row a run, an occurrence, whether it failed, and where name and
// output or error are in the texts. A step is recorded once: what is finished stays.
const sqlRecordSteps = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(run_id, occurrence, failed, name, result) AS (
    SELECT CAST(substr(?2, i*100 + 1, 20) AS INTEGER), CAST(substr(?2, i*100 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 41, 20) AS INTEGER), CAST(substr(?2, i*100 + 61, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 81, 20) AS INTEGER)
    FROM r),
g(run_id, occurrence, failed, name, result) AS (
    SELECT run_id, occurrence, failed, CAST(substr(?3, name>>31, name&0x7fffffff) AS TEXT),
        NULLIF(CAST(substr(?3, result>>31, result&0x7fffffff) AS TEXT), '')
    FROM f)
INSERT INTO steps (run_id, name, occurrence, state, tries, output, error, started_at, finished_at)
SELECT run_id, name, occurrence, CASE failed WHEN 0 THEN 'succeeded' ELSE 'failed' END, 1,
    CASE failed WHEN 0 THEN result END, CASE failed WHEN 0 THEN NULL ELSE result END, ?4, ?4
FROM g WHERE true
ON CONFLICT (run_id, name, occurrence) DO UPDATE SET state = excluded.state, output = excluded.output,
    error = excluded.error, finished_at = excluded.finished_at
WHERE steps.state = 'running'`

// stepResults are steps to record with a settle.
type stepResults struct {
	rows records
	text texts
}

func (r *stepResults) add(run int64, steps []store.StepResult) {
	for _, s := range steps {
		failed, result := int64(0), []byte(s.Output)
		if s.Error != "" {
			failed, result = 1, []byte(store.CleanError(s.Error))
		}
		r.rows.add(run, int64(s.Occurrence), failed, r.text.add([]byte(s.Name)), r.text.add(result))
	}
}

func (r *stepResults) write(t *tx) error {
	if r.rows.n == 0 {
		return nil
	}
	_, err := t.exec(sqlRecordSteps, r.rows.n, r.rows.buf, r.text.buf, t.now)
	return err
}
