package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlForgetFailed forgets the steps that have ended a run: in each branch that
	// its archive row names, those from a position on. A branch is a name up to its
	// last slash.
	sqlForgetFailed = `
DELETE FROM steps WHERE run_id = ?1 AND position >= (
    SELECT min(j.value ->> 'position') FROM archive a CROSS JOIN json_each(a.failed) j
    WHERE a.message_id = ?1
        AND coalesce(j.value ->> 'branch', '') = rtrim(rtrim(steps.name, replace(steps.name, '/', '')), '/')
)`
	// sqlGiveSignalsBack is for the signals whose step was forgotten.
	sqlGiveSignalsBack = `
UPDATE signals SET taken_name = NULL, taken_occurrence = NULL
WHERE run_id = ?1 AND taken_name IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM steps st WHERE st.run_id = ?1 AND st.name = signals.taken_name AND st.occurrence = signals.taken_occurrence)`
	sqlClearRun = `UPDATE runs SET cancelling = 0, paused = 0, wait_kind = NULL, wait_for = NULL WHERE run_id = ?1`
)

func (w workflows) Retry(ctx context.Context, id int64) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		run, err := findRun(t, id)
		switch {
		case err != nil:
			return err
		case run.State != store.Dead:
			return store.NotFailed(run.Status)
		}
		if err := t.each([]any{id}, sqlForgetFailed, sqlGiveSignalsBack, sqlClearRun); err != nil {
			return err
		}
		t.wake(run.Queue)
		return t.back(jsonIDs([]int64{id}))
	})
	if err != nil {
		return fmt.Errorf("retry run %d: %w", id, err)
	}
	return nil
}

const (
	sqlStepID = `SELECT id FROM steps WHERE run_id = ?1 AND name = ?2 AND occurrence = ?3`
	// What has its result; the rest is to be done again.
	sqlCopySteps = `
INSERT INTO steps (run_id, name, occurrence, kind, position, state, tries, output, error, topic, child_id, started_at, finished_at)
SELECT ?2, name, occurrence, kind, position, state, tries, output, error, topic, child_id, started_at, finished_at
FROM steps WHERE run_id = ?1 AND id < ?3 AND finished_at IS NOT NULL ORDER BY id`
	sqlCopyRun = `
INSERT INTO runs (run_id, queue_id, begun_at, version) SELECT ?2, queue_id, ?3, version FROM runs WHERE run_id = ?1`
	// Those that the copied steps had taken come along as taken, so that a retry of
	// the new run can give them back.
	sqlCopySignals = `
INSERT INTO signals (run_id, topic, key, payload, sent_at, taken_name, taken_occurrence)
SELECT ?2, sg.topic, sg.key, sg.payload, sg.sent_at, sg.taken_name, sg.taken_occurrence
FROM signals sg CROSS JOIN steps st ON st.run_id = ?2 AND st.name = sg.taken_name AND st.occurrence = sg.taken_occurrence
WHERE sg.run_id = ?1 ORDER BY sg.id`
	// Of several values under a name the last one stands.
	sqlCopyEvents = `
INSERT INTO events (run_id, name, value, set_at)
SELECT ?2, topic, coalesce(output, 'null'), finished_at FROM steps
WHERE run_id = ?1 AND id < ?3 AND kind = 'event' AND state = 'succeeded' ORDER BY id
ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value, set_at = excluded.set_at`
)

func (w workflows) Fork(ctx context.Context, id int64, from store.StepKey) (fork int64, err error) {
	err = w.d.write(ctx, flushed, func(t *tx) error {
		run, err := findRun(t, id)
		if err != nil {
			return err
		}
		var before []int64
		if from != (store.StepKey{}) {
			if err := t.rows(sqlStepID, []any{id, from.Name, from.Occurrence}, collect(&before)); err != nil {
				return err
			}
			if len(before) == 0 {
				return t.noStep(id, from)
			}
		}
		queue, err := findQueue(t, run.Queue)
		if err != nil {
			return err
		}
		fork, err = t.fork(run, queue.ID, before)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("fork run %d: %w", id, err)
	}
	return fork, nil
}

// noStep says that a run has no such step.
func (t *tx) noStep(run int64, key store.StepKey) error {
	var steps []store.StepRecord
	err := t.rows(sqlListSteps, []any{run}, func(rows *sql.Rows) error {
		s, err := scanStep(rows, t.now)
		steps = append(steps, s)
		return err
	})
	if err != nil {
		return err
	}
	return store.NoStep(key, steps)
}

// fork starts a run as another one was, with its steps before one of them.
func (t *tx) fork(run store.Run, queue int64, before []int64) (int64, error) {
	msg := store.NewMessage{Queue: run.Queue, Payload: run.Payload, Priority: run.Priority, Headers: run.Headers}
	ids, err := t.insert([]store.NewMessage{msg}, map[string]int64{run.Queue: queue})
	if err != nil || len(before) == 0 {
		return slices.Max(append(ids, 0)), err
	}
	copied, err := t.exec(sqlCopySteps, run.ID, ids[0], before[0])
	if err != nil || copied == 0 {
		return ids[0], err
	}
	if _, err := t.exec(sqlCopyRun, run.ID, ids[0], t.now); err != nil {
		return 0, err
	}
	if _, err := t.exec(sqlCopySignals, run.ID, ids[0]); err != nil {
		return 0, err
	}
	_, err = t.exec(sqlCopyEvents, run.ID, ids[0], before[0])
	return ids[0], err
}
