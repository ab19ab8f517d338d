// Package view is how programs see the store: the JSON that the command line
// prints with -o json and that HTTP answers with. Names are snake_case, times
// are RFC 3339 in UTC, durations are seconds, and what has no value is left out.
package view

import (
	"encoding/json"
	"io"
	"time"
	"unicode/utf8"

	"github.com/pgqrs/pgqrsd/store"
)

// Message is a store.Message.
type Message struct {
	ID         int64             `json:"id"`
	Queue      string            `json:"queue"`
	State      store.State       `json:"state"`
	Priority   int               `json:"priority"`
	Attempts   int               `json:"attempts"`
	Headers    map[string]string `json:"headers,omitempty"`
	Payload    json.RawMessage   `json:"payload"`
	Errors     []AttemptError    `json:"errors"`
	EnqueuedAt time.Time         `json:"enqueued_at"`

	AvailableAt time.Time `json:"available_at,omitzero"`

	Worker         int64     `json:"worker,omitempty"`
	Attempt        int       `json:"attempt,omitempty"`
	Started        bool      `json:"started,omitempty"`
	LeasedAt       time.Time `json:"leased_at,omitzero"`
	LeaseExpiresAt time.Time `json:"lease_expires_at,omitzero"`
	Progress       *Progress `json:"progress,omitempty"`

	Output     json.RawMessage `json:"output,omitempty"`
	FinishedAt time.Time       `json:"finished_at,omitzero"`
}

// AttemptError is a store.AttemptError.
type AttemptError struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	Worker  int64     `json:"worker,omitempty"`
}

// Progress is a store.Progress.
type Progress struct {
	Percent float64   `json:"percent"`
	Message string    `json:"message,omitempty"`
	At      time.Time `json:"at"`
}

// Queue is a store.Queue.
type Queue struct {
	ID          int64           `json:"id"`
	Name        string          `json:"name"`
	Kind        store.QueueKind `json:"kind"`
	MaxAttempts int             `json:"max_attempts"`
	// RetentionSeconds is negative for ever.
	RetentionSeconds float64   `json:"retention_seconds"`
	CreatedAt        time.Time `json:"created_at"`
}

// Worker is a store.WorkerRecord.
type Worker struct {
	ID                  int64             `json:"id"`
	Name                string            `json:"name"`
	Kind                store.WorkerKind  `json:"kind"`
	Queue               string            `json:"queue,omitempty"`
	State               store.WorkerState `json:"state"`
	Slot                string            `json:"slot,omitempty"`
	Info                json.RawMessage   `json:"info,omitempty"`
	StartedAt           time.Time         `json:"started_at"`
	HeartbeatAt         time.Time         `json:"heartbeat_at"`
	HeartbeatAgeSeconds float64           `json:"heartbeat_age_seconds"`
	Leased              int64             `json:"leased"`
	Reclaimed           bool              `json:"reclaimed,omitempty"`
}

// QueueMetrics is a store.QueueMetrics.
type QueueMetrics struct {
	Queue              string  `json:"queue"`
	Ready              int64   `json:"ready"`
	Delayed            int64   `json:"delayed"`
	Leased             int64   `json:"leased"`
	Done               int64   `json:"done"`
	Dead               int64   `json:"dead"`
	Cancelled          int64   `json:"cancelled"`
	OldestReadySeconds float64 `json:"oldest_ready_seconds"`
	Estimated          bool    `json:"estimated,omitempty"`
}

// OfMessage shows a message.
func OfMessage(m store.Message) Message {
	v := Message{
		ID: m.ID, Queue: m.Queue, State: m.State, Priority: m.Priority, Attempts: m.Attempts,
		Headers: m.Headers, Payload: raw(m.Payload), Errors: make([]AttemptError, 0, len(m.Errors)),
		EnqueuedAt: m.EnqueuedAt.UTC(), AvailableAt: dueTime(m.AvailableAt),
		Worker: m.Worker, Attempt: m.Attempt, Started: m.Started,
		LeasedAt: m.LeasedAt.UTC(), LeaseExpiresAt: m.LeaseExpiresAt.UTC(),
		FinishedAt: m.FinishedAt.UTC(),
	}
	if len(m.Output) > 0 {
		v.Output = raw(m.Output)
	}
	for _, e := range m.Errors {
		v.Errors = append(v.Errors, AttemptError{Attempt: e.Attempt, At: e.At.UTC(), Error: e.Error, Worker: e.Worker})
	}
	if p := m.Progress; p != nil {
		v.Progress = &Progress{Percent: p.Percent, Message: p.Message, At: p.At.UTC()}
	}
	return v
}

// OfQueue shows a queue.
func OfQueue(q store.Queue) Queue {
	return Queue{
		ID: q.ID, Name: q.Name, Kind: q.Kind, MaxAttempts: q.MaxAttempts,
		RetentionSeconds: q.Retention.Seconds(), CreatedAt: q.CreatedAt.UTC(),
	}
}

// OfWorker shows a worker.
func OfWorker(w store.WorkerRecord) Worker {
	v := Worker{
		ID: w.ID, Name: w.Name, Kind: w.Kind, Queue: w.Queue, State: w.State, Slot: w.Slot,
		StartedAt: w.StartedAt.UTC(), HeartbeatAt: w.HeartbeatAt.UTC(),
		HeartbeatAgeSeconds: w.HeartbeatAge.Seconds(), Leased: w.Leased, Reclaimed: w.Reclaimed,
	}
	if len(w.Info) > 0 {
		v.Info = raw(w.Info)
	}
	return v
}

// OfQueueMetrics shows a queue's depth.
func OfQueueMetrics(m store.QueueMetrics) QueueMetrics {
	return QueueMetrics{
		Queue: m.Queue, Ready: m.Ready, Delayed: m.Delayed, Leased: m.Leased, Done: m.Done,
		Dead: m.Dead, Cancelled: m.Cancelled, OldestReadySeconds: m.OldestReady.Seconds(),
		Estimated: m.Estimated,
	}
}

// Each shows every item of a list with one of this package's functions. The
// result is never nil, so that it prints as an array.
func Each[T, V any](items []T, of func(T) V) []V {
	out := make([]V, 0, len(items))
	for _, item := range items {
		out = append(out, of(item))
	}
	return out
}

// Encode writes v as JSON and a newline, indented by indent. What stands in
// payloads is not escaped for HTML.
func Encode(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

// raw keeps one row that holds no JSON, put there behind the store's back,
// from making a whole list unprintable.
func raw(b json.RawMessage) json.RawMessage {
	switch {
	case len(b) == 0:
		return json.RawMessage("null")
	case utf8.Valid(b) && json.Valid(b):
		return b
	}
	s, err := json.Marshal(string(b))
	if err != nil { // a string always encodes
		return json.RawMessage("null")
	}
	return s
}
