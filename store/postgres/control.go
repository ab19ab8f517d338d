package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlSignalRun = `select s.signal, s.created, s.woken, s."full" from {{schema}}.send_outside($2, $3, $4::text::json, $5, {{now}}) s`

	// sqlRunPlace says where a run is; queue is its queue's id.
	sqlRunPlace = `
select p.state, p.queue_id, q.name, q.kind, coalesce(r.cancelling, false), coalesce(r.paused, false)
from (
    select case when exists (select from {{schema}}.claims c where c.queue_id = m.queue_id and m.id = any(c.ids))
        then 'leased' else 'ready' end as state, m.queue_id
    from {{schema}}.messages m where m.id = $1
    union all
    select 'delayed', d.queue_id from {{schema}}.delayed d where d.id = $1
    union all
    select a.state::text, a.queue_id from {{schema}}.archive a where a.id = $1
) p join {{schema}}.queues q on q.id = p.queue_id left join {{schema}}.runs r on r.run_id = $1`

	// sqlLockHolder waits for whoever settles the run $2 of queue $1, so that
	// what is written of it then is seen by the next who does.
	sqlLockHolder = `
select c.worker_id from {{schema}}.claims c where c.queue_id = $1 and $2 = any(c.ids)
order by c.worker_id, c.claim for no key update`

	sqlLockParent = `
select p.run_id from {{schema}}.runs p where p.run_id = (select r.parent_id from {{schema}}.runs r where r.run_id = $1) for no key update`

	// openRun is the run $1, if it has not ended.
	openRun = `(
        select d.id, d.queue_id from {{schema}}.delayed d where d.id = $1
        union all
        select m.id, m.queue_id from {{schema}}.messages m where m.id = $1
    ) w`

	sqlRunCancelling = `
insert into {{schema}}.runs (run_id, queue_id, cancelling) select w.id, w.queue_id, true from ` + openRun + `
on conflict (run_id) do update set cancelling = true`

	sqlRunChildren = `select run_id from {{schema}}.runs where parent_id = $1 order by run_id`

	// sqlRunPause notes as well until when the run was to wait.
	sqlRunPause = `
insert into {{schema}}.runs as r (run_id, queue_id, paused, held_until)
select w.id, w.queue_id, true, (select d.due_at from {{schema}}.delayed d where d.id = $1 and d.due_at < 'infinity') from ` + openRun + `
on conflict (run_id) do update set paused = true, held_until = coalesce(excluded.held_until, r.held_until)`

	// sqlRunHold lets a run that nobody has wait without limit. One that is being
	// cancelled must be leased once more for that.
	sqlRunHold = `
with held as (
    update {{schema}}.delayed d set due_at = 'infinity' where d.id = $1 and d.due_at < 'infinity'
),
ready as (
    delete from {{schema}}.messages m where m.id = $1
        and m.id not in (select unnest(c.ids) from {{schema}}.claims c where c.queue_id = $2)
        and not exists (select from {{schema}}.runs r where r.run_id = $1 and r.cancelling)
    returning m.id, m.enqueued_at, m.queue_id, m.attempts, m.priority, m.headers, m.errors, m.payload
)
insert into {{schema}}.delayed (id, enqueued_at, due_at, queue_id, attempts, priority, headers, errors, payload)
select id, enqueued_at, 'infinity', queue_id, attempts, priority, headers, errors, payload from ready`

	// sqlRunResume returns whether the run suspended itself, and else until when
	// it was to wait for its start or its next attempt.
	sqlRunResume = `
with was as (
    select r.run_id, r.wait_kind, r.held_until from {{schema}}.runs r
    where r.run_id = $1 and (r.paused or r.wait_kind = 'version') for update
)
update {{schema}}.runs r set paused = false, news = r.news + 1, held_until = null from was where r.run_id = was.run_id
returning was.wait_kind is not null, was.held_until`

	// sqlRunReady makes a run ready that waits. If it did not suspend itself ($3)
	// it waits until $4, which is null if there is nothing to wait for, or as long
	// as it had to while it was paused.
	sqlRunReady = `
with back as (
    delete from {{schema}}.delayed d where d.id = $2
        and ($3::bool or d.due_at = 'infinity' and coalesce($4::timestamptz <= {{now}}, true))
    returning d.id, d.enqueued_at, d.queue_id, d.attempts, d.priority, d.headers, d.errors, d.payload
),
later as (
    update {{schema}}.delayed d set due_at = $4 where d.id = $2 and not $3 and d.due_at = 'infinity' and $4 > {{now}}
)
insert into {{schema}}.messages (id, enqueued_at, ready_at, queue_id, attempts, priority, headers, errors, payload)
select id, enqueued_at, {{now}}, queue_id, attempts, priority, headers, errors, payload from back`

	sqlSignalList = `select ` + signalColumns + ` from {{schema}}.signals g where g.run_id = $1 order by g.id`
	sqlEventList  = `select e.name, e.value, e.set_at from {{schema}}.events e where e.run_id = $1 order by e.name`
)

// runPlace is where a run is.
type runPlace struct {
	state              store.State
	queueID            int32
	queue              string
	cancelling, paused bool
}

func (p runPlace) status() store.RunStatus { return statusOf(p.state, p.cancelling, p.paused) }

// runPlace finds a run; ErrNotFound if the id is no run's.
func (s *Store) runPlace(ctx context.Context, op string, id int64) (runPlace, error) {
	var p runPlace
	var kind store.QueueKind
	err := s.row(ctx, op, sqlRunPlace, []any{id}, &p.state, &p.queueID, &p.queue, &kind, &p.cancelling, &p.paused)
	if err == nil && kind != store.WorkflowQueue {
		err = s.fail(ctx, op, &store.NotRunError{ID: id})
	}
	return p, err
}

// openRun is runPlace of a run that has not ended; ErrTerminal if it has.
func (s *Store) openRun(ctx context.Context, op string, id int64) (runPlace, error) {
	p, err := s.runPlace(ctx, op, id)
	if err == nil && p.state.Archived() {
		err = s.fail(ctx, op, store.RunEnded(p.status()))
	}
	return p, err
}

// Send leaves a signal for a run and wakes it.
func (t workflows) Send(ctx context.Context, sig store.NewSignal) (int64, bool, error) {
	op := fmt.Sprintf("send signal %q to run %d", sig.Topic, sig.Run)
	if err := store.ValidateSignal(sig); err != nil {
		return 0, false, fmt.Errorf("%s: %w", op, err)
	}
	var id *int64
	var created *bool
	var woken *string
	var full bool
	args := []any{t.s.now(), sig.Run, sig.Topic, orNull(sig.Payload), sig.Key}
	if err := t.s.steer(ctx, op, func() error {
		b := t.s.batch()
		b.add(sqlLockLimit, milliseconds(lockedWait))
		b.add(sqlSignalRun, args...).QueryRow(func(r pgx.Row) error { return r.Scan(&id, &created, &woken, &full) })
		return b.send(ctx, op)
	}); err != nil {
		return 0, false, err
	}
	if id == nil {
		if full {
			if _, err := t.s.openRun(ctx, op, sig.Run); err != nil {
				return 0, false, err
			}
			return 0, false, t.s.fail(ctx, op, store.ErrSignalsFull)
		}
		_, err := t.s.openRun(ctx, op, sig.Run)
		if err == nil { // it was there a moment ago, or is only now
			err = t.s.fail(ctx, op, store.ErrTerminal)
		}
		return 0, false, err
	}
	if woken != nil {
		t.s.notifier.add(*woken)
	}
	return *id, *created, nil
}

// Cancel ends a run, and with descend those that it started. The run itself
// comes first: it starts no more of them then.
func (t workflows) Cancel(ctx context.Context, id int64, descend bool) (store.RunStatus, error) {
	status, err := t.cancel(ctx, id)
	if err != nil || !descend {
		return status, err
	}
	op := fmt.Sprintf("cancel the runs that run %d started", id)
	children, err := rows(ctx, t.s, op, sqlRunChildren, []any{id}, pgx.RowTo[int64])
	for _, child := range children {
		// One that has ended or is gone is what was wanted.
		if _, cerr := t.Cancel(ctx, child, true); !errors.Is(cerr, store.ErrTerminal) && !errors.Is(cerr, store.ErrNotFound) {
			err = errors.Join(err, cerr)
		}
	}
	return status, err
}

func (t workflows) cancel(ctx context.Context, id int64) (store.RunStatus, error) {
	op := fmt.Sprintf("cancel run %d", id)
	for range removeTries {
		p, err := t.s.runPlace(ctx, op, id)
		switch {
		case err != nil:
			return "", err
		case p.state == store.Cancelled, p.state == store.Leased && p.cancelling:
			return p.status(), nil
		case p.state.Archived():
			return "", t.s.fail(ctx, op, store.RunEnded(p.status()))
		}
		var woken []string
		if err := t.s.steer(ctx, op, func() error {
			woken = nil
			b := t.s.batch()
			b.add(sqlLockLimit, milliseconds(lockedWait))
			b.add(sqlClaimLock, t.s.claimLock, p.queueID)
			b.add(sqlLockHolder, p.queueID, id)
			b.add(sqlLockParent, id)
			b.add(sqlRunCancelling, id)
			b.add(sqlRemoveToArchive, []int64{id}, []int32{p.queueID}, t.s.now(), store.Cancelled, "")
			b.addEndChildren([]int64{id}, &woken)
			return b.send(ctx, op)
		}); err != nil {
			return "", err
		}
		t.s.notifier.add(woken...)
		// It may have become due, or been leased, meanwhile.
	}
	return "", t.s.fail(ctx, op, t.s.unavailable(errors.New("it moves all the time")))
}

// Pause keeps a run from carrying on.
func (t workflows) Pause(ctx context.Context, id int64) error {
	op := fmt.Sprintf("pause run %d", id)
	for range removeTries {
		p, err := t.s.openRun(ctx, op, id)
		switch {
		case err != nil:
			return err
		case p.cancelling:
			return t.s.fail(ctx, op, store.Cancelling())
		case p.paused && p.state != store.Ready:
			return nil
		}
		if err := t.s.steer(ctx, op, func() error {
			b := t.s.batch()
			b.add(sqlLockLimit, milliseconds(lockedWait))
			b.add(sqlClaimLock, t.s.claimLock, p.queueID)
			b.add(sqlRunPause, id)
			b.add(sqlRunHold, id, p.queueID)
			b.add(sqlForgetGone, []int64{id}) // it may have ended and been removed since it was looked for
			return b.send(ctx, op)
		}); err != nil {
			return err
		}
		// It may have become due meanwhile.
	}
	return t.s.fail(ctx, op, t.s.unavailable(errors.New("it moves all the time")))
}

// Resume lets a run carry on that is paused, or waits for a handler of its version.
func (t workflows) Resume(ctx context.Context, id int64) error {
	op := fmt.Sprintf("resume run %d", id)
	p, err := t.s.openRun(ctx, op, id)
	if err != nil {
		return err
	}
	err = t.s.steer(ctx, op, func() error { return t.resume(ctx, op, id) })
	if err == nil {
		t.s.notifier.add(p.queue)
	}
	return err
}

func (t workflows) resume(ctx context.Context, op string, id int64) error {
	return t.s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		var resumed, waits bool
		var until *time.Time
		b.add(sqlLockLimit, milliseconds(lockedWait))
		b.add(sqlRunResume, id).Query(func(r pgx.Rows) error {
			_, err := pgx.ForEachRow(r, []any{&waits, &until}, func() error {
				resumed = true
				return nil
			})
			return err
		})
		if err := b.sendIn(ctx, tx); err != nil || !resumed {
			return err
		}
		b = t.s.batch()
		b.add(sqlRunReady, t.s.now(), id, waits, until)
		return b.sendIn(ctx, tx)
	})
}

// Signals lists a run's signals.
func (t workflows) Signals(ctx context.Context, id int64) ([]store.Signal, error) {
	return ofRunID(ctx, t.s, fmt.Sprintf("signals of run %d", id), id, sqlSignalList, scanSignal)
}

// Events lists what a run has published.
func (t workflows) Events(ctx context.Context, id int64) ([]store.Event, error) {
	return ofRunID(ctx, t.s, fmt.Sprintf("events of run %d", id), id, sqlEventList, func(row pgx.CollectableRow) (store.Event, error) {
		var e store.Event
		var value []byte
		err := row.Scan(&e.Name, &value, &e.SetAt)
		e.Value = value
		return e, err
	})
}

// ofRunID reads what hangs on a run; ErrNotFound if there is no such run.
func ofRunID[T any](ctx context.Context, s *Store, op string, id int64, text string, scan pgx.RowToFunc[T]) ([]T, error) {
	found, err := rows(ctx, s, op, text, []any{id}, scan)
	if err == nil && len(found) == 0 {
		_, err = s.runPlace(ctx, op, id)
	}
	return found, err
}
