package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// archive is the table of finished messages.
type archive struct{ d *database }

const (
	// Where messages are that somebody wants to move or delete.
	sqlWhereIs = `
SELECT j.key, m.attempts, m.errors, ` + columnState + `
FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value` + fromPlaces + `
ORDER BY j.key`

	sqlArchive = `
INSERT INTO archive (message_id, queue_id, state, finished_at)
SELECT m.id, m.queue_id, ?2, ?3 FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value`
)

// place is where a message is.
type place struct {
	state    store.State // "" is nowhere
	attempts int
	errors   []byte
}

// movable is the error of a message that cannot be moved or deleted.
func (p place) movable() error {
	switch {
	case p.state == "":
		return store.ErrNotFound
	case p.state == store.Leased:
		return store.ErrLeased
	case p.state.Archived():
		return store.ErrTerminal
	}
	return nil
}

// whereAre finds messages, in the order of their ids.
func whereAre(q querier, ids []int64) ([]place, error) {
	places := make([]place, len(ids))
	err := q.rows(sqlWhereIs, []any{jsonIDs(ids)}, func(rows *sql.Rows) error {
		var i int
		var p place
		if err := rows.Scan(&i, &p.attempts, &p.errors, &p.state); err != nil {
			return err
		}
		places[i] = p
		return nil
	})
	return places, err
}

// finish archives ready and delayed messages, with the reason as an error.
func (d *database) finish(ctx context.Context, state store.State, reason string, ids []int64) ([]error, error) {
	errs := make([]error, len(ids))
	if len(ids) == 0 {
		return errs, nil
	}
	err := d.write(ctx, flushed, func(t *tx) error {
		places, err := whereAre(t, ids)
		if err != nil {
			return err
		}
		var moved []int64
		for i, p := range places {
			if errs[i] = p.movable(); errs[i] != nil {
				continue
			}
			if slices.Contains(ids[:i], ids[i]) {
				errs[i] = store.ErrTerminal // since a moment ago
				continue
			}
			moved = append(moved, ids[i])
		}
		if len(moved) == 0 {
			return errNothing
		}
		return t.finish(state, reason, moved)
	})
	return errs, err
}

// finish archives messages that are ready or delayed, with the reason, unless it
// is empty, as an error.
func (t *tx) finish(state store.State, reason string, ids []int64) error {
	if reason != "" {
		if err := t.noteReason(reason, ids); err != nil {
			return err
		}
	}
	list := jsonIDs(ids)
	if _, err := t.exec(sqlArchive, list, state, t.now); err != nil {
		return err
	}
	if err := t.each([]any{list}, sqlDeleteReady, sqlDeleteDelayed); err != nil {
		return err
	}
	return t.runsEnded(ids)
}

func (t *tx) noteReason(reason string, ids []int64) error {
	places, err := whereAre(t, ids)
	if err != nil {
		return err
	}
	var failed failures
	for i, p := range places {
		list, err := appendError(p.errors, store.AttemptError{
			Attempt: p.attempts, At: time.UnixMicro(t.now).UTC(), Error: store.CleanError(reason),
		})
		if err != nil {
			return fmt.Errorf("errors of message %d: %w", ids[i], err)
		}
		failed.add(ids[i], p.attempts, list)
	}
	return failed.write(t)
}

func (a archive) Insert(ctx context.Context, reason string, ids ...int64) ([]error, error) {
	errs, err := a.d.finish(ctx, store.Cancelled, reason, ids)
	if err != nil {
		return nil, fmt.Errorf("cancel %d messages: %w", len(ids), err)
	}
	return errs, nil
}

const sqlGetArchived = sqlGetMessage + ` AND a.message_id IS NOT NULL`

func (a archive) Get(ctx context.Context, id int64) (store.Message, error) {
	msg, err := a.d.oneMessage(ctx, sqlGetArchived, id)
	if err != nil {
		return store.Message{}, fmt.Errorf("get archived message %d: %w", id, err)
	}
	return msg, nil
}

func (a archive) List(ctx context.Context, filter store.MessageFilter) ([]store.Message, error) {
	list, err := a.d.list(ctx, filter, archivedStates)
	if err != nil {
		return nil, fmt.Errorf("list archived messages: %w", err)
	}
	return list, nil
}

func (a archive) Count(ctx context.Context, filter store.MessageFilter) (int64, error) {
	n, err := a.d.count(ctx, filter, archivedStates)
	if err != nil {
		return 0, fmt.Errorf("count archived messages: %w", err)
	}
	return n, nil
}

func (a archive) Delete(ctx context.Context, id int64) error {
	err := a.d.write(ctx, flushed, func(t *tx) error {
		n, err := t.exec(sqlDeleteArchived, jsonIDs([]int64{id}))
		if err != nil {
			return err
		}
		if n == 0 {
			return store.ErrNotFound
		}
		return t.deleteMessages([]int64{id})
	})
	if err != nil {
		return fmt.Errorf("delete archived message %d: %w", id, err)
	}
	return nil
}

const sqlPurgeArchivedIDs = `
SELECT message_id FROM archive
WHERE queue_id = ?1 AND state IN (SELECT value FROM json_each(?2)) AND finished_at < ?3
LIMIT ?4 + 0`

func (a archive) Purge(ctx context.Context, queue string, olderThan time.Duration, states ...store.State) (int64, error) {
	purged, err := a.purge(ctx, queue, olderThan, states)
	if err != nil {
		return purged, fmt.Errorf("purge the archive of queue %s: %w", queue, err)
	}
	return purged, nil
}

func (a archive) purge(ctx context.Context, queue string, olderThan time.Duration, states []store.State) (int64, error) {
	if olderThan < 0 {
		return 0, store.Invalidf("age %s is negative", olderThan)
	}
	if len(states) == 0 {
		states = archivedStates
	}
	for _, s := range states {
		if _, err := statesOf(s, archivedStates); err != nil {
			return 0, err
		}
	}
	list, err := jsonText(states)
	if err != nil {
		return 0, err
	}
	before := a.d.now() - micros(olderThan)
	if olderThan == 0 {
		before++ // all that has finished by now
	}
	return a.d.inBatches(ctx, purgeBatch, func(t *tx, limit int) (int64, error) {
		q, err := findQueue(t, queue)
		if err != nil {
			return 0, err
		}
		return t.deleteFound(sqlPurgeArchivedIDs, []any{q.ID, list, before, limit}, t.deleteArchived)
	})
}

const (
	sqlDeadLetters = `
SELECT j.key, a.state, q.name
FROM json_each(?1) j CROSS JOIN archive a ON a.message_id = j.value CROSS JOIN queues q ON q.id = a.queue_id`
	sqlForgiveAttempts = `UPDATE messages SET attempts = 0 WHERE id IN (SELECT value FROM json_each(?1))`
	sqlReplay          = `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT m.queue_id, m.priority, m.id, ?2 FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value`
)

func (a archive) Replay(ctx context.Context, ids ...int64) ([]error, error) {
	errs, err := a.d.replay(ctx, ids, nil)
	if err != nil {
		return nil, fmt.Errorf("replay %d dead letters: %w", len(ids), err)
	}
	return errs, nil
}

// replay puts dead letters back as ready. check runs first in the transaction.
func (d *database) replay(ctx context.Context, ids []int64, check func(*tx) error) ([]error, error) {
	errs := make([]error, len(ids))
	if len(ids) == 0 {
		return errs, nil
	}
	err := d.write(ctx, flushed, func(t *tx) error {
		if check != nil {
			if err := check(t); err != nil {
				return err
			}
		}
		for i := range errs {
			errs[i] = store.ErrNotFound
		}
		var back idList
		var i int
		var state store.State
		var name string
		err := t.rows(sqlDeadLetters, []any{jsonIDs(ids)}, scanInto(func() {
			switch {
			case state != store.Dead:
				errs[i] = store.ErrTerminal
			case !slices.Contains(ids[:i], ids[i]): // a second time it is in the archive no more
				errs[i] = nil
				back.add(ids[i])
				t.wake(name)
			}
		}, &i, &state, &name))
		if err != nil {
			return err
		}
		if back.empty() {
			return errNothing
		}
		return t.back(back.json())
	})
	return errs, err
}

// back puts dead letters, a list of ids in JSON, back as ready.
func (t *tx) back(ids string) error {
	if _, err := t.exec(sqlReplay, ids, t.now); err != nil {
		return err
	}
	return t.each([]any{ids}, sqlForgiveAttempts, sqlDeleteArchived)
}
