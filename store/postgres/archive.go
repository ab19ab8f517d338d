package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlArchiveGet = messageColumns + `
from (select ` + archiveShape + ` from {{schema}}.archive a where a.id = $1) p` + messageJoins

	// sqlArchiveList lists a queue $1 (0 is all) by states $2.
	sqlArchiveList = messageColumns + `
from (
    select ` + archiveShape + ` from {{schema}}.archive a
    where a.id > $3 and ($1::int = 0 or a.queue_id = $1) and a.state = any($2::text[]::{{schema}}.final_state[])
    order by a.id limit $4
) p` + messageJoins + `
order by p.id`

	sqlArchiveCount = `
select count(*) from {{schema}}.archive a
where ($1::int = 0 or a.queue_id = $1) and a.state = any($2::text[]::{{schema}}.final_state[])`

	sqlArchiveDelete = `delete from {{schema}}.archive where id = any($1::bigint[])`

	// sqlArchiveOld is at most $5 of a queue, oldest first.
	sqlArchiveOld = `
select a.id from unnest($3::text[]) s(state) cross join lateral (
    select a.id from {{schema}}.archive a
    where a.queue_id = $2 and a.state = s.state::{{schema}}.final_state
        and a.finished_at <= {{now}} - $4 * interval '1 microsecond'
    order by a.finished_at limit $5
) a limit $5`

	// sqlArchiveExpired is at most $2 of all queues that are past their queue's
	// retention. Dead letters stay.
	sqlArchiveExpired = `
select a.id from {{schema}}.queues q cross join unnest(array['done', 'cancelled']) s(state) cross join lateral (
    select a.id from {{schema}}.archive a
    where a.queue_id = q.id and a.state = s.state::{{schema}}.final_state
        and a.finished_at <= {{now}} - q.retention_us * interval '1 microsecond'
    order by a.finished_at limit $2
) a
where q.retention_us is not null limit $2`

	// sqlReplay puts dead letters back. Their queues' enqueue locks are held.
	sqlReplay = `
with back as (
    delete from {{schema}}.archive a where a.id = any($2::bigint[]) and a.state = 'dead'
    returning a.id, a.enqueued_at, a.queue_id, a.priority, a.headers, a.errors, a.payload
),
ready as (
    insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
    select b.id, b.enqueued_at, {{now}}, b.queue_id, 0, b.priority, b.headers, b.errors, b.payload from back b
)
select b.id, q.name from back b join {{schema}}.queues q on q.id = b.queue_id`

	sqlReplayNames = `
select distinct q.name from {{schema}}.archive a join {{schema}}.queues q on q.id = a.queue_id
where a.id = any($1::bigint[])`

	sqlReplayLeft = `select id from {{schema}}.archive where id = any($1::bigint[])`
)

// purgeBatch is how many rows one statement of a purge removes.
const purgeBatch = 10_000

type archive struct{ s *Store }

// Archive is the table of finished messages.
func (s *Store) Archive() store.Archive { return archive{s} }

func (t archive) Insert(ctx context.Context, reason string, ids ...int64) ([]error, error) {
	return t.s.remove(ctx, "cancel messages", removal{store.Cancelled, reason}, ids)
}

func (t archive) Get(ctx context.Context, id int64) (store.Message, error) {
	op := fmt.Sprintf("get archived message %d", id)
	found, err := rows(ctx, t.s, op, sqlArchiveGet, []any{id}, scanMessage)
	if err == nil && len(found) == 0 {
		err = t.s.fail(ctx, op, store.ErrNotFound)
	}
	if err != nil {
		return store.Message{}, err
	}
	return found[0], nil
}

func (t archive) List(ctx context.Context, f store.MessageFilter) ([]store.Message, error) {
	const op = "list archived messages"
	queueID, err := t.s.queueID(ctx, op, f.Queue)
	if err != nil {
		return nil, err
	}
	return rows(ctx, t.s, op, sqlArchiveList, []any{queueID, filterStates(f.State), f.After, f.LimitOrDefault()}, scanMessage)
}

func (t archive) Count(ctx context.Context, f store.MessageFilter) (int64, error) {
	const op = "count archived messages"
	queueID, err := t.s.queueID(ctx, op, f.Queue)
	if err != nil {
		return 0, err
	}
	var n int64
	err = t.s.row(ctx, op, sqlArchiveCount, []any{queueID, filterStates(f.State)}, &n)
	return n, err
}

func (t archive) Delete(ctx context.Context, id int64) error {
	op := fmt.Sprintf("delete archived message %d", id)
	var n int64
	b := t.s.batch()
	b.addArchiveDelete([]int64{id}, &n)
	if err := b.send(ctx, op); err != nil {
		return err
	}
	if n == 0 {
		return t.s.fail(ctx, op, store.ErrNotFound)
	}
	return nil
}

// finalStates is states, or all where there are none.
func finalStates(states []store.State) []store.State {
	if len(states) == 0 {
		return []store.State{store.Done, store.Dead, store.Cancelled}
	}
	return states
}

// filterStates are the states that a filter's state stands for. No archived
// message is in a state that is not final.
func filterStates(state store.State) []store.State {
	switch {
	case state == "":
		return finalStates(nil)
	case state.Archived():
		return []store.State{state}
	}
	return []store.State{}
}

func (t archive) Purge(ctx context.Context, queue string, olderThan time.Duration, states ...store.State) (int64, error) {
	op := fmt.Sprintf("purge the archive of queue %q", queue)
	for _, state := range states {
		if !state.Archived() {
			return 0, store.Invalidf("%s: state %q is not one of the archive", op, state)
		}
	}
	q, err := t.s.Queues().Get(ctx, queue)
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		n, err := t.s.purge(ctx, op, q.ID, olderThan, finalStates(states), purgeBatch)
		total += n
		if err != nil || n < purgeBatch {
			return total, err
		}
	}
}

func (s *Store) purge(ctx context.Context, op string, queueID int64, olderThan time.Duration, states []store.State, limit int) (int64, error) {
	return s.purgeArchived(ctx, op, sqlArchiveOld, s.now(), queueID, states, micros(olderThan), limit)
}

// purgeArchived removes the archived messages that a statement finds, with what
// hangs on them. Where somebody keeps a row locked it removes the others, and
// says so.
func (s *Store) purgeArchived(ctx context.Context, op, text string, args ...any) (int64, error) {
	found, n, locked := s.purgeBut(ctx, op, nil, text, args...)
	if !errors.Is(locked, store.ErrLocked) {
		return n, locked
	}
	var kept []int64
	if err := s.look(ctx, op, func(b *batch) {
		b.add(sqlForgottenKept, found).Query(func(r pgx.Rows) (err error) {
			kept, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
	}); err != nil {
		return 0, err
	}
	if len(kept) == 0 {
		return 0, locked // it was a lock of another kind, or is no more
	}
	_, n, err := s.purgeBut(ctx, op, kept, text, args...)
	if err != nil {
		return 0, err
	}
	return n, locked
}

// purgeBut is purgeArchived of those that are not kept. It also returns which
// it tried to remove.
func (s *Store) purgeBut(ctx context.Context, op string, kept []int64, text string, args ...any) (ids []int64, n int64, err error) {
	err = s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		b.add(sqlLockLimit, milliseconds(reclaimWait))
		b.add(text, args...).Query(func(r pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		if ids = without(ids, kept); len(ids) == 0 {
			return nil
		}
		b = s.batch()
		b.addArchiveDelete(ids, &n)
		return b.sendIn(ctx, tx)
	})
	return ids, n, err
}

// addArchiveDelete queues the removal of archived messages, and counts them.
func (b *batch) addArchiveDelete(ids []int64, n *int64) {
	b.add(sqlLockForgotten, ids)
	b.add(sqlArchiveDelete, ids).Exec(func(tag pgconn.CommandTag) error {
		*n = tag.RowsAffected()
		return nil
	})
	b.add(sqlForgetGone, ids)
}

func (t archive) Replay(ctx context.Context, ids ...int64) ([]error, error) {
	return t.s.replay(ctx, "replay dead letters", ids)
}

func (s *Store) replay(ctx context.Context, op string, ids []int64) ([]error, error) {
	queues, err := rows(ctx, s, op, sqlReplayNames, []any{ids}, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	state := make(map[int64]error, len(ids))
	for _, id := range ids {
		state[id] = store.ErrNotFound
	}
	var id int64
	var name string
	b := s.batch()
	b.add(sqlEnqueueLock, s.enqueueLock, lockKeys(queues))
	b.add(sqlReplay, s.now(), ids).Query(func(r pgx.Rows) error {
		_, err := pgx.ForEachRow(r, []any{&id, &name}, func() error {
			state[id] = nil
			return nil
		})
		return err
	})
	b.add(sqlReplayLeft, ids).Query(func(r pgx.Rows) error {
		_, err := pgx.ForEachRow(r, []any{&id}, func() error {
			state[id] = store.ErrTerminal
			return nil
		})
		return err
	})
	if err := b.send(ctx, op); err != nil {
		return nil, err
	}
	s.notifier.add(queues...)
	errs := make([]error, len(ids))
	seen := make(map[int64]bool, len(ids))
	for i, id := range ids {
		errs[i] = state[id]
		if seen[id] && errs[i] == nil {
			errs[i] = store.ErrNotFound
		}
		seen[id] = true
	}
	return errs, nil
}

// replayOne is replay of one message, which must succeed.
func (s *Store) replayOne(ctx context.Context, id int64) error {
	op := fmt.Sprintf("replay message %d", id)
	errs, err := s.replay(ctx, op, []int64{id})
	return s.fail(ctx, op, errors.Join(append(errs, err)...))
}
