package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// scanInto scans each row into dest and then calls use.
func scanInto(use func(), dest ...any) func(*sql.Rows) error {
	return func(rows *sql.Rows) error {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		use()
		return nil
	}
}

// collect returns a scan that appends what each row holds to list.
func collect[T any](list *[]T) func(*sql.Rows) error {
	return func(rows *sql.Rows) error {
		var v T
		if err := rows.Scan(&v); err != nil {
			return err
		}
		*list = append(*list, v)
		return nil
	}
}

// toTime is the time of a column, zero where it is NULL.
func toTime(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return time.UnixMicro(micros.Int64).UTC()
}

// never is a due time that does not come, and neverText its text.
const (
	never     = math.MaxInt64
	neverText = `9223372036854775807`
)

// toDue is the time of a column, zero where it is NULL or never.
func toDue(micros sql.NullInt64) time.Time {
	if micros.Int64 == never {
		return time.Time{}
	}
	return toTime(micros)
}

func micros(d time.Duration) int64 { return d.Microseconds() }

func fromMicros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// nullText is NULL for nothing.
func nullText(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return string(b)
}

// The columns of a message wherever it is, in the order that scanMessage reads,
// with the tables of which one tells where that is.
const (
	columnState = `CASE WHEN l.message_id IS NOT NULL THEN 'leased' WHEN d.message_id IS NOT NULL THEN 'delayed'
    WHEN a.message_id IS NOT NULL THEN a.state ELSE 'ready' END`
	fromPlaces = `
    LEFT JOIN leases l ON l.message_id = m.id LEFT JOIN delayed d ON d.message_id = m.id
    LEFT JOIN archive a ON a.message_id = m.id`

	columnsMessage = `m.id, q.name, ` + columnState + `, m.priority, m.attempts,
    m.headers, m.payload, m.errors, m.enqueued_at, d.due_at, coalesce(l.worker_id, a.worker_id), l.started, c.leased_at, c.expires_at,
    l.progress, a.output, a.finished_at`
	fromMessage = ` FROM messages m CROSS JOIN queues q ON q.id = m.queue_id` + fromPlaces + `
    LEFT JOIN claims c ON c.worker_id = l.worker_id AND c.claim = l.claim`
)

// scanner is a row to scan.
type scanner interface{ Scan(dest ...any) error }

// scanMessage reads a row of the columns above.
func scanMessage(row scanner) (store.Message, error) {
	var (
		m                                        store.Message
		headers, payload, errs, progress, output []byte
		enqueued                                 int64
		due, worker, leasedAt, expires, finished sql.NullInt64
		started                                  sql.NullBool
	)
	err := row.Scan(&m.ID, &m.Queue, &m.State, &m.Priority, &m.Attempts, &headers, &payload, &errs, &enqueued, &due,
		&worker, &started, &leasedAt, &expires, &progress, &output, &finished)
	if err != nil {
		return store.Message{}, err
	}
	m.Payload, m.Output = payload, output
	m.EnqueuedAt = time.UnixMicro(enqueued).UTC()
	m.AvailableAt, m.FinishedAt = toDue(due), toTime(finished)
	m.Worker, m.Started = worker.Int64, started.Bool
	m.LeasedAt, m.LeaseExpiresAt = toTime(leasedAt), toTime(expires)
	if m.State == store.Leased {
		m.Attempt = m.Attempts + 1
	}
	if err := decode(progress, &m.Progress); err != nil {
		return store.Message{}, fmt.Errorf("progress of message %d: %w", m.ID, err)
	}
	m.Headers = store.ParseHeaders(headers)
	if err := decode(errs, &m.Errors); err != nil {
		return store.Message{}, fmt.Errorf("errors of message %d: %w", m.ID, err)
	}
	return m, nil
}

// decode reads a JSON column that may be NULL.
func decode(text []byte, into any) error {
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}

// appendError adds a failed attempt to the errors of a message, and drops the
// oldest beyond store.MaxErrors.
func appendError(old []byte, e store.AttemptError) ([]byte, error) {
	var list []store.AttemptError
	if err := decode(old, &list); err != nil {
		return nil, err
	}
	list = append(list, e)
	if over := len(list) - store.MaxErrors; over > 0 {
		list = list[over:]
	}
	return json.Marshal(list)
}

// encodeProgress is a progress as it is stored. Without a time it is now's.
func encodeProgress(p store.Progress, now int64) ([]byte, error) {
	if math.IsNaN(p.Percent) || math.IsInf(p.Percent, 0) {
		p.Percent = -1
	}
	p.Message = store.CleanText(p.Message)
	if p.At.IsZero() {
		p.At = time.UnixMicro(now).UTC()
	}
	return json.Marshal(p)
}
