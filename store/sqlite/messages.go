package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// messages is the table of messages that are not finished.
type messages struct{ d *database }

const (
	// One update takes the ids of a batch; the last one is returned.
	sqlTakeIDs = `UPDATE message_ids SET last = last + ?1 RETURNING last`

	// With each row a queue and a priority in one number, the place of the
	// headers in the texts, and the length of the payload that follows them.
	// The ids are in order.
	sqlInsertMessages = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(i, line, headers, len) AS (
    SELECT i, CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)
INSERT INTO messages (id, queue_id, priority, attempts, enqueued_at, headers, payload)
SELECT ?4 + i, line>>32, (line&0xffffffff) - 0x80000000, 0, ?5,
    CASE WHEN headers&0x7fffffff THEN CAST(substr(?3, headers>>31, headers&0x7fffffff) AS TEXT) END,
    CAST(substr(?3, (headers>>31) + (headers&0x7fffffff), len) AS TEXT)
FROM f`

	// With each row an id, a queue, and when it is due.
	sqlInsertDelayed = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1)
INSERT INTO delayed (message_id, queue_id, due_at)
SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
    CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
FROM r`

	// What of a new batch is not delayed is ready.
	sqlInsertReady = `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT queue_id, priority, id, ?3 FROM messages WHERE id BETWEEN ?1 AND ?2`
	sqlInsertReadyRest = sqlInsertReady + ` AND NOT EXISTS (SELECT 1 FROM delayed WHERE message_id = messages.id)`
)

// insert stores messages whose queues' ids are given, and returns their ids.
func (t *tx) insert(msgs []store.NewMessage, queue map[string]int64) ([]int64, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	first, err := t.takeIDs(len(msgs))
	if err != nil {
		return nil, err
	}
	return t.insertAt(first, msgs, queue)
}

// takeIDs takes n ids for messages and returns the first.
func (t *tx) takeIDs(n int) (first int64, err error) {
	var last int64
	err = t.row(sqlTakeIDs, []any{n}, &last)
	return last - int64(n) + 1, err
}

// insertAt stores messages under ids that were taken for them.
func (t *tx) insertAt(first int64, msgs []store.NewMessage, queue map[string]int64) ([]int64, error) {
	ids := make([]int64, len(msgs))
	var all, delayed records
	var text texts
	all.grow(len(msgs), 3)
	text.grow(payloadBytes(msgs))
	for i := range msgs {
		m := &msgs[i]
		ids[i] = first + int64(i)
		var headers []byte
		if len(m.Headers) > 0 {
			var err error
			if headers, err = json.Marshal(m.Headers); err != nil {
				return nil, err
			}
		}
		headersAt := text.add(headers)
		text.add(m.Payload)
		all.add(line(queue[m.Queue], m.Priority), headersAt, int64(len(m.Payload)))
		if m.Delay > 0 {
			delayed.add(ids[i], queue[m.Queue], t.now+micros(m.Delay))
		}
		if i == 0 || m.Queue != msgs[i-1].Queue {
			t.wake(m.Queue)
		}
	}
	if _, err := t.exec(sqlInsertMessages, all.n, all.buf, text.buf, first, t.now); err != nil {
		return nil, err
	}
	return ids, t.place(first, ids[len(ids)-1], delayed)
}

// line is a queue and a priority as one number.
func line(queue int64, priority int) int64 { return queue<<32 | (int64(priority) + 1<<31) }

// place puts new messages on their places: some are delayed, the others ready.
func (t *tx) place(first, last int64, delayed records) error {
	ready := sqlInsertReady
	if delayed.n > 0 {
		if _, err := t.exec(sqlInsertDelayed, delayed.n, delayed.buf); err != nil {
			return err
		}
		ready = sqlInsertReadyRest
	}
	_, err := t.exec(ready, first, last, t.now)
	return err
}

func payloadBytes(msgs []store.NewMessage) (n int) {
	for i := range msgs {
		n += len(msgs[i].Payload)
	}
	return n
}

// queuesOf finds the queues of messages; a missing one is the error of the
// first message that names it.
func queuesOf(q querier, msgs []store.NewMessage) (map[string]int64, error) {
	ids, err := queueIDs(q, queueNames(msgs))
	if err != nil {
		return nil, err
	}
	for i, m := range msgs {
		if _, found := ids[m.Queue]; !found {
			return nil, &store.BatchError{Index: i, Err: unknownQueue(q, m.Queue, "")}
		}
	}
	return ids, nil
}

func queueNames(msgs []store.NewMessage) []string {
	var names []string
	for i, m := range msgs {
		if (i == 0 || m.Queue != msgs[i-1].Queue) && !slices.Contains(names, m.Queue) {
			names = append(names, m.Queue)
		}
	}
	return names
}

// enqueue stores messages that are valid. check, if any, runs first in the
// transaction. An unknown queue is a *store.BatchError.
func (d *database) enqueue(ctx context.Context, msgs []store.NewMessage, check func(*tx) error) (ids []int64, err error) {
	err = d.write(ctx, flushed, func(t *tx) error {
		if check != nil {
			if err := check(t); err != nil {
				return err
			}
		}
		queue, err := queuesOf(t, msgs)
		if err != nil {
			return err
		}
		ids, err = t.insert(msgs, queue)
		return err
	})
	return ids, err
}

func (m messages) Insert(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	if len(msgs) == 0 {
		return []int64{}, nil
	}
	var ids []int64
	err := validate(nil, msgs)
	if err == nil {
		ids, err = m.d.enqueue(ctx, msgs, nil)
	}
	if len(msgs) == 1 {
		err = alone(err)
	}
	if err != nil {
		return nil, fmt.Errorf("enqueue %d messages: %w", len(msgs), err)
	}
	return ids, nil
}

const sqlGetMessage = `SELECT ` + columnsMessage + fromMessage + ` WHERE m.id = ?1`

func (m messages) Get(ctx context.Context, id int64) (store.Message, error) {
	msg, err := m.d.oneMessage(ctx, sqlGetMessage, id)
	if err != nil {
		return store.Message{}, fmt.Errorf("get message %d: %w", id, err)
	}
	return msg, nil
}

// oneMessage is store.ErrNotFound when the query finds none.
func (d *database) oneMessage(ctx context.Context, query string, id int64) (msg store.Message, err error) {
	err = d.readRows(ctx, query, []any{id}, func(rows *sql.Rows) (err error) {
		msg, err = scanMessage(rows)
		return err
	})
	if err == nil && msg.ID == 0 {
		err = store.ErrNotFound
	}
	return msg, err
}

// One page of a queue's messages, by id. The ids are found in an index, and
// only the page's rows are read.
const (
	pageOfMessages = `SELECT ` + columnsMessage + fromMessage + ` WHERE m.id IN (`

	sqlListReady = pageOfMessages + `
    SELECT message_id FROM ready WHERE queue_id = ?1 AND message_id > ?2 ORDER BY message_id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListLeased = pageOfMessages + `
    SELECT message_id FROM leases WHERE queue_id = ?1 AND message_id > ?2 ORDER BY message_id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListDelayed = pageOfMessages + `
    SELECT message_id FROM delayed INDEXED BY delayed_due WHERE queue_id = ?1 AND message_id > ?2
    ORDER BY message_id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListArchived = pageOfMessages + `
    SELECT message_id FROM archive INDEXED BY archive_state WHERE queue_id = ?1 AND state = ?4 AND message_id > ?2
    ORDER BY message_id LIMIT ?3 + 0)
ORDER BY m.id`
)

const (
	sqlCountReady    = `SELECT count(*) FROM ready WHERE queue_id = ?1`
	sqlCountLeased   = `SELECT coalesce(sum(held), 0) FROM claims WHERE queue_id = ?1`
	sqlCountDelayed  = `SELECT count(*) FROM delayed WHERE queue_id = ?1`
	sqlCountArchived = `SELECT count(*) FROM archive WHERE queue_id = ?1 AND state = ?2`
)

var (
	liveStates     = []store.State{store.Delayed, store.Ready, store.Leased}
	archivedStates = []store.State{store.Done, store.Dead, store.Cancelled}
)

// statesOf is the states that a filter chooses among.
func statesOf(state store.State, among []store.State) ([]store.State, error) {
	if state == "" {
		return among, nil
	}
	if !slices.Contains(among, state) {
		return nil, store.Invalidf("state %q is none of %v", state, among)
	}
	return []store.State{state}, nil
}

// filteredQueues is the queue that a filter names, or all.
func filteredQueues(q querier, name string) (list []store.Queue, err error) {
	if name != "" {
		queue, err := findQueue(q, name)
		return []store.Queue{queue}, err
	}
	err = q.rows(sqlListQueues, []any{0, -1}, func(rows *sql.Rows) error {
		queue, err := scanQueue(rows)
		list = append(list, queue)
		return err
	})
	return list, err
}

// listMessages returns one page of the messages in these states.
func listMessages(v view, queues []store.Queue, states []store.State, page store.Page) ([]store.Message, error) {
	statement := map[store.State]string{store.Ready: sqlListReady, store.Leased: sqlListLeased, store.Delayed: sqlListDelayed}
	list := []store.Message{}
	for _, queue := range queues {
		for _, state := range states {
			query, args := statement[state], []any{queue.ID, page.After, page.LimitOrDefault()}
			if query == "" {
				query, args = sqlListArchived, append(args, state)
			}
			err := v.rows(query, args, func(rows *sql.Rows) error {
				m, err := scanMessage(rows)
				list = append(list, m)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return firstPage(list, page), nil
}

// countMessages counts a queue's messages in one state.
func countMessages(q querier, queue int64, state store.State) (n int64, err error) {
	switch state {
	case store.Delayed:
		err = q.row(sqlCountDelayed, []any{queue}, &n)
	case store.Leased:
		err = q.row(sqlCountLeased, []any{queue}, &n)
	case store.Ready:
		err = q.row(sqlCountReady, []any{queue}, &n)
	default:
		err = q.row(sqlCountArchived, []any{queue, state}, &n)
	}
	return n, err
}

func (d *database) list(ctx context.Context, filter store.MessageFilter, among []store.State) (list []store.Message, err error) {
	states, err := statesOf(filter.State, among)
	if err != nil {
		return nil, err
	}
	err = d.view(ctx, func(v view) error {
		queues, err := filteredQueues(v, filter.Queue)
		if err != nil {
			return err
		}
		list, err = listMessages(v, queues, states, filter.Page)
		return err
	})
	return list, err
}

func (d *database) count(ctx context.Context, filter store.MessageFilter, among []store.State) (total int64, err error) {
	states, err := statesOf(filter.State, among)
	if err != nil {
		return 0, err
	}
	err = d.view(ctx, func(v view) error {
		queues, err := filteredQueues(v, filter.Queue)
		if err != nil {
			return err
		}
		total, err = countAll(v, queues, states)
		return err
	})
	return total, err
}

// countAll counts the messages of these queues in these states.
func countAll(q querier, queues []store.Queue, states []store.State) (total int64, err error) {
	for _, queue := range queues {
		for _, state := range states {
			n, err := countMessages(q, queue.ID, state)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

func (m messages) List(ctx context.Context, filter store.MessageFilter) ([]store.Message, error) {
	list, err := m.d.list(ctx, filter, liveStates)
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	return list, nil
}

func (m messages) Count(ctx context.Context, filter store.MessageFilter) (int64, error) {
	n, err := m.d.count(ctx, filter, liveStates)
	if err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	return n, nil
}

func (m messages) Delete(ctx context.Context, id int64) error {
	err := m.d.write(ctx, flushed, func(t *tx) error {
		places, err := whereAre(t, []int64{id})
		if err != nil {
			return err
		}
		if err := places[0].movable(); err != nil {
			return err
		}
		if err := t.each([]any{jsonIDs([]int64{id})}, sqlDeleteReady, sqlDeleteDelayed); err != nil {
			return err
		}
		return t.deleteMessages([]int64{id})
	})
	if err != nil {
		return fmt.Errorf("delete message %d: %w", id, err)
	}
	return nil
}
