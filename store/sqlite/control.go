package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// liveRun finds a run that has not ended.
func liveRun(q querier, id int64) (runPlace, error) {
	places, err := runPlaces(q, sqlRunPlaces, []int64{id})
	switch {
	case err != nil:
		return runPlace{}, err
	case !places[0].found:
		return runPlace{}, store.ErrNotFound
	case !places[0].isRun():
		return runPlace{}, &store.NotRunError{ID: id}
	case places[0].state.Archived():
		return places[0], store.RunEnded(statusOf(places[0].state, false, false))
	}
	return places[0], nil
}

const (
	sqlOpenSignals  = `SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM signals WHERE run_id = ?1 AND taken_name IS NULL`
	sqlFindSignal   = `SELECT id FROM signals WHERE run_id = ?1 AND key = ?2`
	sqlInsertSignal = `INSERT INTO signals (run_id, topic, key, payload, sent_at) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING id`
)

func (w workflows) Send(ctx context.Context, s store.NewSignal) (id int64, created bool, err error) {
	if err = store.ValidateSignal(s); err == nil {
		err = w.d.write(ctx, flushed, func(t *tx) error {
			if _, err := liveRun(t, s.Run); err != nil {
				return err
			}
			if id, created, err = t.addSignal(s); err != nil || !created {
				return orNothing(err)
			}
			return t.addNews([]int64{s.Run})
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("send signal %q to run %d: %w", s.Topic, s.Run, err)
	}
	return id, created, nil
}

// orNothing ends a transaction that has nothing to write, if there is no error.
func orNothing(err error) error {
	if err == nil {
		return errNothing
	}
	return err
}

// signalsFull says whether a run has as many signals that no step has taken as it
// may have, with one more of so many bytes.
func signalsFull(q querier, run int64, size int) (bool, error) {
	var n, bytes int64
	err := q.row(sqlOpenSignals, []any{run}, &n, &bytes)
	return n >= store.MaxSignals || bytes+int64(size) > store.MaxSignalBytes, err
}

// addSignal stores a signal unless there is one of its key.
func (t *tx) addSignal(s store.NewSignal) (id int64, created bool, err error) {
	if s.Key != "" {
		var ids []int64
		if err := t.rows(sqlFindSignal, []any{s.Run, s.Key}, collect(&ids)); err != nil {
			return 0, false, err
		}
		if len(ids) > 0 {
			return ids[0], false, nil
		}
	}
	full, err := signalsFull(t, s.Run, len(s.Payload))
	if err != nil {
		return 0, false, err
	}
	if full {
		return 0, false, store.ErrSignalsFull
	}
	payload := "null"
	if len(s.Payload) > 0 {
		payload = string(s.Payload)
	}
	err = t.row(sqlInsertSignal, []any{s.Run, s.Topic, nullText([]byte(s.Key)), payload, t.now}, &id)
	return id, true, err
}

const (
	sqlFlagCancelling = `
INSERT INTO runs (run_id, queue_id, cancelling)
SELECT m.id, m.queue_id, 1 FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value WHERE true
ON CONFLICT (run_id) DO UPDATE SET cancelling = 1`
	sqlChildren = `SELECT w.run_id FROM json_each(?1) j CROSS JOIN runs w ON w.parent_id = j.value`
)

func (w workflows) Cancel(ctx context.Context, id int64, descend bool) (status store.RunStatus, err error) {
	err = w.d.write(ctx, flushed, func(t *tx) error {
		run, err := liveRun(t, id)
		if err != nil && run.state != store.Cancelled {
			return err
		}
		ids := []int64{id}
		if descend {
			if ids, err = t.descendants(id); err != nil {
				return err
			}
		}
		status = store.RunCancelled
		if run.state == store.Leased {
			status = store.RunCancelling
		}
		return t.cancel(ids)
	})
	if err != nil {
		return "", fmt.Errorf("cancel run %d: %w", id, err)
	}
	return status, nil
}

// descendants is a run, the runs that it started, and theirs.
func (t *tx) descendants(id int64) ([]int64, error) {
	all := []int64{id}
	for level := all; len(level) > 0; {
		var next []int64
		if err := t.rows(sqlChildren, []any{jsonIDs(level)}, collect(&next)); err != nil {
			return nil, err
		}
		all = append(all, next...)
		level = next
	}
	return all, nil
}

// cancel archives those of these runs that nobody has, and flags those that are
// leased.
func (t *tx) cancel(ids []int64) error {
	places, err := runPlaces(t, sqlRunPlaces, ids)
	if err != nil {
		return err
	}
	var leased, idle []int64
	for i, p := range places {
		switch {
		case !p.isRun() || p.state.Archived():
		case p.state == store.Leased:
			leased = append(leased, ids[i])
		default:
			idle = append(idle, ids[i])
		}
	}
	if len(leased) > 0 {
		if _, err := t.exec(sqlFlagCancelling, jsonIDs(leased)); err != nil {
			return err
		}
	}
	if len(idle) == 0 {
		return nil
	}
	return t.finish(store.Cancelled, "", idle)
}

const (
	// Until when it was to wait is noted as well.
	sqlFlagPaused = `
INSERT INTO runs (run_id, queue_id, paused, held_until)
SELECT id, queue_id, 1, (SELECT due_at FROM delayed WHERE message_id = ?1) FROM messages WHERE id = ?1
ON CONFLICT (run_id) DO UPDATE SET paused = 1, held_until = excluded.held_until`
	sqlSetAside = `
INSERT INTO delayed (message_id, queue_id, due_at) SELECT id, queue_id, ` + neverText + ` FROM messages WHERE id = ?1
ON CONFLICT (message_id) DO UPDATE SET due_at = excluded.due_at`
	// Whether a run can be resumed, and until when it waits then: one that did not
	// suspend itself waits for its start or its next attempt as it had to before.
	sqlResumable = `
SELECT w.paused OR coalesce(w.wait_kind = 'version', 0),
    CASE WHEN w.wait_kind IS NOT NULL OR d.due_at IS NULL THEN 0 WHEN d.due_at < ` + neverText + ` THEN d.due_at ELSE coalesce(w.held_until, 0) END
FROM runs w LEFT JOIN delayed d ON d.message_id = w.run_id WHERE w.run_id = ?1`
	sqlDelayUntil = `UPDATE delayed SET due_at = ?2 WHERE message_id = ?1`
	sqlUnpause    = `UPDATE runs SET paused = 0, held_until = NULL, news = news + 1 WHERE run_id = ?1`
)

func (w workflows) Pause(ctx context.Context, id int64) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		run, err := liveRun(t, id)
		switch {
		case err != nil:
			return err
		case run.cancelling:
			return store.Cancelling()
		case run.paused:
			return errNothing
		}
		if _, err := t.exec(sqlFlagPaused, id); err != nil {
			return err
		}
		if run.state == store.Leased {
			return nil
		}
		if _, err := t.exec(sqlSetAside, id); err != nil {
			return err
		}
		_, err = t.exec(sqlDeleteReady, jsonIDs([]int64{id}))
		return err
	})
	if err != nil {
		return fmt.Errorf("pause run %d: %w", id, err)
	}
	return nil
}

func (w workflows) Resume(ctx context.Context, id int64) error {
	err := w.d.write(ctx, flushed, func(t *tx) error {
		run, err := liveRun(t, id)
		if err != nil {
			return err
		}
		var resumable bool
		var until int64
		if err := t.rows(sqlResumable, []any{id}, scanInto(func() {}, &resumable, &until)); err != nil {
			return err
		}
		if !resumable {
			return errNothing
		}
		if _, err := t.exec(sqlUnpause, id); err != nil {
			return err
		}
		t.wake(run.queue)
		if until > t.now {
			_, err := t.exec(sqlDelayUntil, id, until)
			return err
		}
		return t.readyNow(jsonIDs([]int64{id}))
	})
	if err != nil {
		return fmt.Errorf("resume run %d: %w", id, err)
	}
	return nil
}

const (
	columnsSignal  = `sg.id, sg.run_id, sg.topic, sg.payload, sg.key, sg.sent_at, sg.taken_name IS NOT NULL`
	sqlListSignals = `SELECT ` + columnsSignal + ` FROM signals sg WHERE sg.run_id = ?1 ORDER BY sg.id`
	sqlListEvents  = `SELECT name, value, set_at FROM events WHERE run_id = ?1 ORDER BY name`
)

func scanSignal(row scanner) (store.Signal, error) {
	var s store.Signal
	var payload []byte
	var key sql.NullString
	var sent int64
	err := row.Scan(&s.ID, &s.Run, &s.Topic, &payload, &key, &sent, &s.Taken)
	s.Payload, s.Key, s.SentAt = payload, key.String, time.UnixMicro(sent).UTC()
	return s, err
}

func (w workflows) Signals(ctx context.Context, id int64) ([]store.Signal, error) {
	list := []store.Signal{}
	err := w.ofRun(ctx, id, sqlListSignals, func(rows *sql.Rows) error {
		s, err := scanSignal(rows)
		list = append(list, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the signals of run %d: %w", id, err)
	}
	return list, nil
}

func (w workflows) Events(ctx context.Context, id int64) ([]store.Event, error) {
	list := []store.Event{}
	err := w.ofRun(ctx, id, sqlListEvents, func(rows *sql.Rows) error {
		var e store.Event
		var value []byte
		var set int64
		err := rows.Scan(&e.Name, &value, &set)
		e.Value, e.SetAt = value, time.UnixMicro(set).UTC()
		list = append(list, e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the events of run %d: %w", id, err)
	}
	return list, nil
}

// ofRun reads what a run has of a table.
func (w workflows) ofRun(ctx context.Context, id int64, query string, scan func(*sql.Rows) error) error {
	return w.d.view(ctx, func(v view) error {
		if _, err := findRun(v, id); err != nil {
			return err
		}
		return v.rows(query, []any{id}, scan)
	})
}
