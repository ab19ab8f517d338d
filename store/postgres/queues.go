package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	queueColumns = `q.id, q.name, q.kind, q.max_attempts, q.retention_us, q.created_at`

	sqlQueueInsert = `
insert into {{schema}}.queues as q (name, kind, max_attempts, retention_us, created_at)
values ($2, $3, $4, $5, {{now}})
on conflict (name) do nothing
returning ` + queueColumns

	sqlQueueEnsure = `
insert into {{schema}}.queues as q (name, kind, max_attempts, retention_us, created_at)
values ($2, $3, $4, $5, {{now}})
on conflict (name) do update set kind = excluded.kind, max_attempts = excluded.max_attempts, retention_us = excluded.retention_us
returning ` + queueColumns

	sqlQueueGet   = `select ` + queueColumns + ` from {{schema}}.queues q where q.name = $1`
	sqlQueueList  = `select ` + queueColumns + ` from {{schema}}.queues q where q.id > $1 order by q.id limit $2`
	sqlQueueCount = `select count(*) from {{schema}}.queues`
	sqlQueueNames = `select name from {{schema}}.queues`

	// sqlEnqueueLockAlone waits for those who store messages on the queue, and
	// keeps new ones out.
	sqlEnqueueLockAlone = `select pg_advisory_xact_lock($1, $2)`
	sqlNoTimeout        = `select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '5000', true)`
	sqlClaimLock        = `select pg_advisory_xact_lock($1, $2)`

	// sqlQueueClaims waits for settles under way, but not for an application's
	// transaction, which keeps a claim that holds messages.
	sqlQueueClaims = `select worker_id from {{schema}}.claims where queue_id = $1 order by worker_id, claim for no key update`
	sqlQueueHolds  = `
select (select count(*) from {{schema}}.messages m where m.queue_id = $1),
    (select count(*) from {{schema}}.delayed d where d.queue_id = $1),
    (select count(*) from {{schema}}.archive a where a.queue_id = $1),
    (select count(*) from {{schema}}.workers w where w.queue_id = $1 and w.state <> 'stopped'),
    (select count(*) from {{schema}}.messages m where m.queue_id = $1 and m.id in
        (select unnest(c.ids) from {{schema}}.claims c where c.queue_id = $1))`

	// Delayed messages go first: one that is just becoming ready is then seen
	// by the next statement.
	sqlQueueDropDelayed  = `delete from {{schema}}.delayed where queue_id = $1`
	sqlQueueDropMessages = `delete from {{schema}}.messages where queue_id = $1`
	sqlQueueDropClaims   = `delete from {{schema}}.claims where queue_id = $1`
	sqlQueueDropSteps    = `
delete from {{schema}}.steps s using {{schema}}.archive a where a.queue_id = $1 and s.run_id = a.id`
	sqlQueueDropMessageSteps = `
delete from {{schema}}.steps s where s.run_id in (
    select id from {{schema}}.messages where queue_id = $1
    union all select id from {{schema}}.delayed where queue_id = $1)`
	// Only what has a row in runs has signals and events.
	sqlQueueDropSignals = `delete from {{schema}}.signals s using {{schema}}.runs r where r.queue_id = $1 and s.run_id = r.run_id`
	sqlQueueDropEvents  = `delete from {{schema}}.events e using {{schema}}.runs r where r.queue_id = $1 and e.run_id = r.run_id`
	sqlQueueDropRuns    = `delete from {{schema}}.runs where queue_id = $1`
	// sqlQueueChildren are its runs that others started.
	sqlQueueChildren    = `select run_id from {{schema}}.runs where queue_id = $1 and parent_id is not null`
	sqlQueueDropArchive = `delete from {{schema}}.archive where queue_id = $1`
	// Its consumers have nothing left to consume.
	sqlQueueStopWorkers = `
with w as materialized (
    select id from {{schema}}.workers where queue_id = $2 and state <> 'stopped' order by id for update
)
update {{schema}}.workers u set state = 'stopped', stopped_at = {{now}} from w where u.id = w.id`
	sqlQueueDelete = `delete from {{schema}}.queues where id = $1`

	// A purge goes in parts of at most $2, so that none takes long. The queue's
	// claim lock is held: what is ready now is not leased meanwhile.
	sqlQueuePurgeable = `
select array(select d.id from {{schema}}.delayed d where d.queue_id = $1 limit $2),
    array(select m.id from {{schema}}.messages m where m.queue_id = $1
        and m.id not in (select unnest(c.ids) from {{schema}}.claims c where c.queue_id = $1)
    order by m.priority, m.id limit $2)`
	sqlQueuePurgeDelayed = `delete from {{schema}}.delayed where id = any($1::bigint[])`
	// sqlQueuePurgeMessages also finds those that became ready meanwhile.
	sqlQueuePurgeMessages = `delete from {{schema}}.messages where id = any($1::bigint[])`
)

type queues struct{ s *Store }

// Queues is the table of queues.
func (s *Store) Queues() store.Queues { return queues{s} }

func (t queues) Insert(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	op := fmt.Sprintf("create queue %q", name)
	q, err := t.write(ctx, op, sqlQueueInsert, name, policy)
	if errors.Is(err, store.ErrNotFound) { // no row: the name was taken
		return store.Queue{}, fmt.Errorf("%s: %w", op, store.ErrExists)
	}
	return q, err
}

func (t queues) Ensure(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	return t.write(ctx, fmt.Sprintf("ensure queue %q", name), sqlQueueEnsure, name, policy)
}

func (t queues) write(ctx context.Context, op, text, name string, policy store.QueuePolicy) (store.Queue, error) {
	if err := errors.Join(store.ValidateQueueName(name), store.ValidatePolicy(policy)); err != nil {
		return store.Queue{}, fmt.Errorf("%s: %w", op, err)
	}
	policy = policy.WithDefaults()
	var retention *int64
	if policy.Retention >= 0 {
		us := micros(policy.Retention)
		retention = &us
	}
	q, err := rows(ctx, t.s, op, text, []any{t.s.now(), name, policy.Kind, policy.MaxAttempts, retention}, scanQueue)
	if err != nil {
		return store.Queue{}, err
	}
	if len(q) == 0 {
		return store.Queue{}, store.ErrNotFound
	}
	return q[0], nil
}

func scanQueue(row pgx.CollectableRow) (store.Queue, error) {
	var q store.Queue
	var retention *int64
	err := row.Scan(&q.ID, &q.Name, &q.Kind, &q.MaxAttempts, &retention, &q.CreatedAt)
	q.Retention = -1
	if retention != nil {
		q.Retention = time.Duration(*retention) * time.Microsecond
	}
	return q, err
}

func (t queues) Get(ctx context.Context, name string) (store.Queue, error) {
	op := fmt.Sprintf("get queue %q", name)
	q, err := rows(ctx, t.s, op, sqlQueueGet, []any{name}, scanQueue)
	if err != nil {
		return store.Queue{}, err
	}
	if len(q) == 0 {
		return store.Queue{}, t.s.unknownQueue(ctx, op, name, "")
	}
	return q[0], nil
}

// unknownQueue is the error for a queue that is missing, with near names.
func (s *Store) unknownQueue(ctx context.Context, op, name string, kind store.QueueKind) error {
	names, err := rows(ctx, s, op, sqlQueueNames, nil, pgx.RowTo[string])
	if err != nil {
		return err
	}
	return s.fail(ctx, op, &store.UnknownQueueError{Queue: name, Kind: kind, Near: store.NearNames(name, names)})
}

func (t queues) List(ctx context.Context, page store.Page) ([]store.Queue, error) {
	return rows(ctx, t.s, "list queues", sqlQueueList, []any{page.After, page.LimitOrDefault()}, scanQueue)
}

func (t queues) Count(ctx context.Context) (int64, error) {
	var n int64
	err := t.s.row(ctx, "count queues", sqlQueueCount, nil, &n)
	return n, err
}

func (t queues) Delete(ctx context.Context, name string, force bool) error {
	op := fmt.Sprintf("delete queue %q", name)
	q, err := t.Get(ctx, name)
	if err != nil {
		return err
	}
	var woken []string
	// It may have millions of archived messages, and goes as a whole.
	err = t.s.fail(ctx, op, pgx.BeginFunc(ctx, t.s.pool, func(tx pgx.Tx) error {
		if err := t.s.lockQueueAlone(ctx, tx, q); err != nil {
			return err
		}
		if err := t.deletable(ctx, tx, q, force); err != nil {
			return err
		}
		var children []int64
		b := t.s.batch()
		b.add(sqlLockLimit, milliseconds(reclaimWait)) // everybody who enqueues waits for this
		b.add(sqlLockQueueRuns, q.ID)
		b.add(sqlQueueChildren, q.ID).Query(func(r pgx.Rows) (err error) {
			children, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		b = t.s.batch()
		b.add(sqlQueueDropSteps, q.ID)
		b.add(sqlQueueDropMessageSteps, q.ID)
		b.add(sqlQueueDropDelayed, q.ID)
		b.add(sqlQueueDropMessages, q.ID)
		b.addEndChildren(children, &woken)
		b.add(sqlForgetGone, children)
		b.add(sqlQueueDropSignals, q.ID)
		b.add(sqlQueueDropEvents, q.ID)
		b.add(sqlQueueDropRuns, q.ID)
		b.add(sqlQueueDropClaims, q.ID)
		b.add(sqlQueueDropArchive, q.ID)
		b.add(sqlQueueStopWorkers, t.s.now(), q.ID)
		b.add(sqlQueueDelete, q.ID)
		return b.sendIn(ctx, tx)
	}))
	if err == nil {
		t.s.notifier.add("")
	}
	return err
}

// lockQueueAlone keeps everyone else from the queue: those who enqueue, those
// who claim, and those who settle.
func (s *Store) lockQueueAlone(ctx context.Context, tx pgx.Tx, q store.Queue) error {
	b := s.batch()
	b.add(sqlNoTimeout)
	b.add(sqlEnqueueLockAlone, s.enqueueLock, enqueueKey(q.Name))
	b.add(sqlClaimLock, s.claimLock, q.ID)
	b.add(sqlQueueClaims, q.ID)
	return b.sendIn(ctx, tx)
}

func (t queues) deletable(ctx context.Context, tx pgx.Tx, q store.Queue, force bool) error {
	var messages, delayed, archived, consumers, leased int64
	if err := tx.QueryRow(ctx, t.s.sql(sqlQueueHolds), q.ID).Scan(&messages, &delayed, &archived, &consumers, &leased); err != nil {
		return err
	}
	if leased > 0 {
		return fmt.Errorf("it has %d messages %w; suspend its consumers and wait, or release them", leased, store.ErrLeased)
	}
	if force || messages+delayed+archived+consumers == 0 {
		return nil
	}
	var holds []string
	for _, h := range []struct {
		n    int64
		what string
	}{{messages, "ready messages"}, {delayed, "delayed messages"}, {archived, "archived messages"}, {consumers, "live consumers"}} {
		if h.n > 0 {
			holds = append(holds, fmt.Sprintf("%d %s", h.n, h.what))
		}
	}
	return fmt.Errorf("it is %w: it has %s", store.ErrNotEmpty, strings.Join(holds, ", "))
}

func (t queues) Purge(ctx context.Context, name string) (int64, error) {
	op := fmt.Sprintf("purge queue %q", name)
	q, err := t.Get(ctx, name)
	if err != nil {
		return 0, err
	}
	var total int64
	for {
		n, more, err := t.purgePart(ctx, op, q)
		total += n
		if err != nil || !more {
			return total, err
		}
	}
}

// purgePart removes at most purgeBatch delayed and as many ready messages, and
// reports whether there may be more.
func (t queues) purgePart(ctx context.Context, op string, q store.Queue) (n int64, more bool, err error) {
	var woken []string
	err = t.s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		var waiting, standing []int64
		b.add(sqlClaimLock, t.s.claimLock, q.ID)
		b.add(sqlLockLimit, milliseconds(reclaimWait))
		b.add(sqlQueuePurgeable, q.ID, purgeBatch).QueryRow(func(r pgx.Row) error { return r.Scan(&waiting, &standing) })
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		more = len(waiting) == purgeBatch || len(standing) == purgeBatch
		ids := append(waiting, standing...)
		if len(ids) == 0 {
			return nil
		}
		count := func(tag pgconn.CommandTag) error {
			n += tag.RowsAffected()
			return nil
		}
		b = t.s.batch()
		b.add(sqlLockForgotten, ids)
		b.add(sqlQueuePurgeDelayed, ids).Exec(count)
		b.add(sqlQueuePurgeMessages, ids).Exec(count)
		b.addEndChildren(ids, &woken)
		b.add(sqlForgetGone, ids)
		return b.sendIn(ctx, tx)
	})
	if err != nil {
		return 0, false, err
	}
	t.s.notifier.add(woken...)
	return n, more, nil
}

func enqueueKey(queue string) int32 { return int32(hash32(queue)) }
