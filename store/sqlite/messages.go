package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// messages is the table of messages that are not finished.
type messages struct{ d *database }

// With each row an id's place after the batch's first, a queue, a priority,
// the time it is ready, and where headers and payload are in the texts.
const withNew = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, queue_id, priority, at, headers, payload) AS (
    SELECT ?4 + CAST(substr(?2, i*160 + 1, 20) AS INTEGER), CAST(substr(?2, i*160 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*160 + 41, 20) AS INTEGER), CAST(substr(?2, i*160 + 61, 20) AS INTEGER),
        NULLIF(CAST(substr(?3, CAST(substr(?2, i*160 + 81, 20) AS INTEGER), CAST(substr(?2, i*160 + 101, 20) AS INTEGER)) AS TEXT), ''),
        CAST(substr(?3, CAST(substr(?2, i*160 + 121, 20) AS INTEGER), CAST(substr(?2, i*160 + 141, 20) AS INTEGER)) AS TEXT)
    FROM r)`

const (
	// One update takes the ids of a batch; the last one is returned.
	sqlTakeIDs = `UPDATE message_ids SET last = last + ?1 RETURNING last`

	sqlInsertMessages = withNew + `
INSERT INTO messages (id, queue_id, priority, attempts, enqueued_at, ready_at, headers, payload)
SELECT id, queue_id, priority, 0, ?5, at, headers, payload FROM f`
	sqlInsertDelayed = withNew + `
INSERT INTO delayed (id, queue_id, priority, attempts, enqueued_at, due_at, headers, payload)
SELECT id, queue_id, priority, 0, ?5, at, headers, payload FROM f`
)

// insert stores messages whose queues' ids are given, and returns their ids.
func (t *tx) insert(msgs []store.NewMessage, queue map[string]int64) ([]int64, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	var last int64
	if err := t.row(sqlTakeIDs, []any{len(msgs)}, &last); err != nil {
		return nil, err
	}
	first := last - int64(len(msgs)) + 1
	ids := make([]int64, len(msgs))
	var ready, delayed records
	var text texts
	for i, m := range msgs {
		ids[i] = first + int64(i)
		to, at := &ready, t.now
		if m.Delay > 0 {
			to, at = &delayed, t.now+micros(m.Delay)
		}
		var headers []byte
		if len(m.Headers) > 0 {
			var err error
			if headers, err = json.Marshal(m.Headers); err != nil {
				return nil, err
			}
		}
		headersAt, headersLen := text.add(headers)
		payloadAt, payloadLen := text.add(m.Payload)
		to.add(int64(i), queue[m.Queue], int64(m.Priority), at, headersAt, headersLen, payloadAt, payloadLen)
		t.w.marks.lower(queue[m.Queue], m.Priority)
		if i == 0 || m.Queue != msgs[i-1].Queue {
			t.wake(m.Queue)
		}
	}
	for _, into := range []struct {
		statement string
		rows      records
	}{{sqlInsertMessages, ready}, {sqlInsertDelayed, delayed}} {
		if into.rows.n == 0 {
			continue
		}
		if _, err := t.exec(into.statement, into.rows.n, into.rows.buf, text.buf, first, t.now); err != nil {
			return nil, err
		}
	}
	return ids, nil
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
			return nil, &store.BatchError{Index: i, Err: unknownQueue(q, m.Queue)}
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

// validate returns a *store.BatchError for the first bad message.
func validate(v *store.Validator, msgs []store.NewMessage) error {
	for i, m := range msgs {
		if err := store.ValidateNew(v, m); err != nil {
			return &store.BatchError{Index: i, Err: err}
		}
	}
	return nil
}

// alone is the error of the only message of a batch, without its place.
func alone(err error) error {
	if batch, found := errors.AsType[*store.BatchError](err); found {
		return batch.Err
	}
	return err
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

const sqlGetMessage = `
SELECT ` + columnsLive + fromLive + ` WHERE m.id = ?1
UNION ALL SELECT ` + columnsDelayed + fromDelayed + ` WHERE m.id = ?1
UNION ALL SELECT ` + columnsArchive + fromArchive + ` WHERE m.id = ?1`

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
	sqlListReady = `
SELECT ` + columnsLive + fromLive + ` WHERE m.id IN (
    SELECT x.id FROM messages x INDEXED BY messages_order
    WHERE x.queue_id = ?1 AND x.id > ?2 AND NOT EXISTS (SELECT 1 FROM leases WHERE message_id = x.id)
    ORDER BY x.id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListLeased = `
SELECT ` + columnsLive + fromLive + ` WHERE m.id IN (
    SELECT x.id FROM leases y CROSS JOIN messages x ON x.id = y.message_id
    WHERE x.queue_id = ?1 AND x.id > ?2
    ORDER BY x.id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListDelayed = `
SELECT ` + columnsDelayed + fromDelayed + ` WHERE m.id IN (
    SELECT x.id FROM delayed x INDEXED BY delayed_due WHERE x.queue_id = ?1 AND x.id > ?2
    ORDER BY x.id LIMIT ?3 + 0)
ORDER BY m.id`
	sqlListArchived = `
SELECT ` + columnsArchive + fromArchive + ` WHERE m.id IN (
    SELECT x.id FROM archive x INDEXED BY archive_state WHERE x.queue_id = ?1 AND x.state = ?4 AND x.id > ?2
    ORDER BY x.id LIMIT ?3 + 0)
ORDER BY m.id`
)

const (
	sqlCountLive     = `SELECT count(*) FROM messages WHERE queue_id = ?1`
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
		return nil, fmt.Errorf("state %q is none of %v: %w", state, among, store.ErrInvalid)
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
	slices.SortFunc(list, func(a, b store.Message) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(len(list), page.LimitOrDefault())], nil
}

// countMessages counts a queue's messages in one state.
func countMessages(q querier, queue int64, state store.State) (n int64, err error) {
	switch state {
	case store.Delayed:
		err = q.row(sqlCountDelayed, []any{queue}, &n)
	case store.Leased:
		err = q.row(sqlCountLeased, []any{queue}, &n)
	case store.Ready:
		var leased int64
		if leased, err = countMessages(q, queue, store.Leased); err != nil {
			return 0, err
		}
		err = q.row(sqlCountLive, []any{queue}, &n)
		n -= leased
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
		return t.each([]any{jsonIDs([]int64{id})}, sqlDeleteMessages, sqlDeleteDelayed, sqlDeleteSteps, sqlDeleteRuns)
	})
	if err != nil {
		return fmt.Errorf("delete message %d: %w", id, err)
	}
	return nil
}
