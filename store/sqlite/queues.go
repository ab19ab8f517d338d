package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// queues is the table of queues.
type queues struct{ d *database }

const (
	columnsQueue = `id, name, kind, max_attempts, retention, created_at`

	sqlInsertQueue = `
INSERT INTO queues (name, kind, max_attempts, retention, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (name) DO NOTHING
RETURNING ` + columnsQueue
	sqlEnsureQueue = `
INSERT INTO queues (name, kind, max_attempts, retention, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, max_attempts = excluded.max_attempts, retention = excluded.retention
RETURNING ` + columnsQueue
	sqlGetQueue    = `SELECT ` + columnsQueue + ` FROM queues WHERE name = ?1`
	sqlListQueues  = `SELECT ` + columnsQueue + ` FROM queues WHERE id > ?1 ORDER BY id LIMIT ?2 + 0`
	sqlCountQueues = `SELECT count(*) FROM queues`
	sqlQueueNames  = `SELECT name FROM queues`
	sqlQueueIDs    = `SELECT q.name, q.id FROM json_each(?1) n JOIN queues q ON q.name = n.value`
)

// forEver is the retention of a queue whose archive is kept.
const forEver time.Duration = -1

func scanQueue(row scanner) (store.Queue, error) {
	var q store.Queue
	var retention, created int64
	err := row.Scan(&q.ID, &q.Name, &q.Kind, &q.MaxAttempts, &retention, &created)
	q.Retention, q.CreatedAt = fromMicros(retention), time.UnixMicro(created).UTC()
	if retention < 0 {
		q.Retention = forEver
	}
	return q, err
}

// queueOf reads one row of columnsQueue.
func queueOf(q querier, query string, args ...any) (store.Queue, error) {
	var found store.Queue
	err := q.rows(query, args, func(rows *sql.Rows) (err error) {
		found, err = scanQueue(rows)
		return err
	})
	if err == nil && found.ID == 0 {
		err = sql.ErrNoRows
	}
	return found, err
}

// findQueue fails with *store.UnknownQueueError.
func findQueue(q querier, name string) (store.Queue, error) {
	found, err := queueOf(q, sqlGetQueue, name)
	if errors.Is(err, sql.ErrNoRows) {
		return found, unknownQueue(q, name, "")
	}
	return found, err
}

// unknownQueue is the error that a queue does not exist, with the names near it.
func unknownQueue(q querier, name string, kind store.QueueKind) error {
	var names []string
	if err := q.rows(sqlQueueNames, nil, collect(&names)); err != nil {
		return err
	}
	return &store.UnknownQueueError{Queue: name, Kind: kind, Near: store.NearNames(name, names)}
}

// queueIDs finds the ids of these queues; unknown ones are left out.
func queueIDs(q querier, names []string) (map[string]int64, error) {
	ids := make(map[string]int64, len(names))
	list, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	var name string
	var id int64
	err = q.rows(sqlQueueIDs, []any{string(list)}, scanInto(func() { ids[name] = id }, &name, &id))
	return ids, err
}

func (q queues) Insert(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	created, err := q.put(ctx, sqlInsertQueue, name, policy)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrExists
	}
	if err != nil {
		return store.Queue{}, fmt.Errorf("create queue %s: %w", name, err)
	}
	return created, nil
}

func (q queues) Ensure(ctx context.Context, name string, policy store.QueuePolicy) (store.Queue, error) {
	set, err := q.put(ctx, sqlEnsureQueue, name, policy)
	if err != nil {
		return store.Queue{}, fmt.Errorf("ensure queue %s: %w", name, err)
	}
	return set, nil
}

func (q queues) put(ctx context.Context, query, name string, policy store.QueuePolicy) (out store.Queue, err error) {
	if err := store.ValidateQueueName(name); err != nil {
		return out, err
	}
	if err := store.ValidatePolicy(policy); err != nil {
		return out, err
	}
	p := policy.WithDefaults()
	retention := micros(p.Retention)
	if p.Retention < 0 {
		retention = -1
	}
	err = q.d.write(ctx, flushed, func(t *tx) error {
		out, err = queueOf(t, query, name, p.Kind, p.MaxAttempts, retention, t.now)
		return err
	})
	return out, err
}

func (q queues) Get(ctx context.Context, name string) (out store.Queue, err error) {
	err = q.d.view(ctx, func(v view) error {
		out, err = findQueue(v, name)
		return err
	})
	if err != nil {
		return store.Queue{}, fmt.Errorf("get queue %s: %w", name, err)
	}
	return out, nil
}

func (q queues) List(ctx context.Context, page store.Page) ([]store.Queue, error) {
	list := []store.Queue{}
	err := q.d.readRows(ctx, sqlListQueues, []any{page.After, page.LimitOrDefault()}, func(rows *sql.Rows) error {
		queue, err := scanQueue(rows)
		list = append(list, queue)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return list, nil
}

func (q queues) Count(ctx context.Context) (n int64, err error) {
	if err := q.d.readRow(ctx, sqlCountQueues, nil, &n); err != nil {
		return 0, fmt.Errorf("count queues: %w", err)
	}
	return n, nil
}

const (
	sqlQueueHolds = `
SELECT (SELECT count(*) FROM ready WHERE queue_id = ?1),
    (SELECT count(*) FROM delayed WHERE queue_id = ?1),
    (SELECT count(*) FROM archive WHERE queue_id = ?1),
    (SELECT count(*) FROM workers WHERE kind = 'consumer' AND queue = ?2 AND state <> 'stopped'),
    (SELECT coalesce(sum(held), 0) FROM claims WHERE queue_id = ?1)`

	// The messages of a queue of which none is leased.
	queueIDsOf = `
    SELECT message_id FROM ready WHERE queue_id = ?1
    UNION ALL SELECT message_id FROM delayed WHERE queue_id = ?1
    UNION ALL SELECT message_id FROM archive WHERE queue_id = ?1`
	sqlDeleteQueueSteps   = `DELETE FROM steps WHERE run_id IN (` + queueIDsOf + `)`
	sqlDeleteQueueSignals = `DELETE FROM signals WHERE run_id IN (` + queueIDsOf + `)`
	sqlDeleteQueueEvents  = `DELETE FROM events WHERE run_id IN (` + queueIDsOf + `)`
	// The runs of a queue that others wait for.
	sqlAwaitedOfQueue = `
SELECT DISTINCT s.child_id FROM runs w JOIN steps s ON s.child_id = w.run_id AND s.state = 'waiting' WHERE w.queue_id = ?1`
	sqlDeleteQueueRuns     = `DELETE FROM runs WHERE queue_id = ?1`
	sqlDeleteQueueMessages = `DELETE FROM messages WHERE id IN (` + queueIDsOf + `)`
	sqlDeleteQueueReady    = `DELETE FROM ready WHERE queue_id = ?1`
	sqlDeleteQueueDelayed  = `DELETE FROM delayed WHERE queue_id = ?1`
	sqlDeleteQueueArchive  = `DELETE FROM archive WHERE queue_id = ?1`
	sqlDeleteQueue         = `DELETE FROM queues WHERE id = ?1`
)

func (q queues) Delete(ctx context.Context, name string, force bool) error {
	err := q.d.write(ctx, flushed, func(t *tx) error {
		queue, err := findQueue(t, name)
		if err != nil {
			return err
		}
		// What ran out is nobody's any more.
		if _, err := t.giveBack(runOut(queue.ID, t.now)); err != nil {
			return err
		}
		var ready, delayed, archived, consumers, leased int64
		err = t.row(sqlQueueHolds, []any{queue.ID, name}, &ready, &delayed, &archived, &consumers, &leased)
		if err != nil {
			return err
		}
		if force && leased > 0 {
			return fmt.Errorf("%d of its messages are leased; suspend its consumers and release them first: %w", leased, store.ErrLeased)
		}
		if messages := ready + leased; !force && messages+delayed+archived+consumers > 0 {
			return fmt.Errorf("it holds %s: %w", holds(messages, delayed, archived, consumers), store.ErrNotEmpty)
		}
		t.wake(name)
		var awaited []int64
		if err := t.rows(sqlAwaitedOfQueue, []any{queue.ID}, collect(&awaited)); err != nil {
			return err
		}
		err = t.each([]any{queue.ID}, sqlDeleteQueueSteps, sqlDeleteQueueSignals, sqlDeleteQueueEvents, sqlDeleteQueueRuns,
			sqlDeleteQueueMessages, sqlDeleteQueueReady, sqlDeleteQueueDelayed, sqlDeleteQueueArchive, sqlDeleteQueue)
		if err != nil {
			return err
		}
		return t.runsEnded(awaited)
	})
	if err != nil {
		return fmt.Errorf("delete queue %s: %w", name, err)
	}
	return nil
}

func holds(messages, delayed, archived, consumers int64) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{messages, "messages"}, {delayed, "delayed messages"}, {archived, "archived messages"}, {consumers, "live consumers"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

// each executes statements with the same arguments.
func (t *tx) each(args []any, statements ...string) error {
	for _, s := range statements {
		if _, err := t.exec(s, args...); err != nil {
			return err
		}
	}
	return nil
}

// purgeBatch is how many rows a purge removes in one transaction, so that
// others get their turn in between.
const purgeBatch = 5000

const (
	sqlLastID = `SELECT last FROM message_ids`
	// What is to be purged: ready and delayed messages up to an id.
	sqlPurgeIDs = `
SELECT message_id FROM (
    SELECT message_id FROM ready WHERE queue_id = ?1 AND message_id <= ?2
    UNION ALL SELECT message_id FROM delayed WHERE queue_id = ?1 AND message_id <= ?2)
LIMIT ?3 + 0`
	// Before the messages themselves.
	sqlDeleteReady = `
DELETE FROM ready WHERE (queue_id, priority, message_id) IN (
    SELECT m.queue_id, m.priority, m.id FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value)`
	sqlDeleteDelayed  = `DELETE FROM delayed WHERE message_id IN (SELECT value FROM json_each(?1))`
	sqlDeleteArchived = `DELETE FROM archive WHERE message_id IN (SELECT value FROM json_each(?1))`
)

func (q queues) Purge(ctx context.Context, name string) (purged int64, err error) {
	// What comes in meanwhile stays, or this might not end.
	var last int64
	if err = q.d.readRow(ctx, sqlLastID, nil, &last); err == nil {
		purged, err = q.d.inBatches(ctx, purgeBatch, func(t *tx, limit int) (int64, error) {
			queue, err := findQueue(t, name)
			if err != nil {
				return 0, err
			}
			return t.deleteFound(sqlPurgeIDs, []any{queue.ID, last, limit}, t.deleteMessages, sqlDeleteReady, sqlDeleteDelayed)
		})
	}
	if err != nil {
		return purged, fmt.Errorf("purge queue %s: %w", name, err)
	}
	return purged, nil
}

// inBatches runs fn in transactions of its own until it does less than its limit.
func (d *database) inBatches(ctx context.Context, limit int, fn func(t *tx, limit int) (int64, error)) (total int64, err error) {
	for {
		var n int64
		err := d.write(ctx, flushed, func(t *tx) (err error) {
			n, err = fn(t, limit)
			return err
		})
		if err != nil {
			return total, err
		}
		if total += n; n < int64(limit) {
			return total, nil
		}
	}
}

// deleteFound deletes the messages that find lists, first by these statements
// and then as drop does, and returns how many it listed.
func (t *tx) deleteFound(find string, args []any, drop func([]int64) error, deletes ...string) (int64, error) {
	var ids []int64
	if err := t.rows(find, args, collect(&ids)); err != nil {
		return 0, err
	}
	if len(ids) == 0 {
		return 0, errNothing
	}
	if len(deletes) > 0 {
		if err := t.each([]any{jsonIDs(ids)}, deletes...); err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), drop(ids)
}
