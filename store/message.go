package store

import (
	"context"
	"encoding/json"
	"time"
)

// State is where a message is.
type State string

// The states of a message. The last three are archived.
const (
	Delayed   State = "delayed"
	Ready     State = "ready"
	Leased    State = "leased"
	Done      State = "done"
	Dead      State = "dead"
	Cancelled State = "cancelled"
)

// Archived reports whether the state is final.
func (s State) Archived() bool { return s == Done || s == Dead || s == Cancelled }

// MaxPriority and MinPriority bound a message's priority. Lower runs first.
const (
	MinPriority = -1000
	MaxPriority = 1000
)

// NewMessage is a message to enqueue.
type NewMessage struct {
	Queue   string
	Payload json.RawMessage
	// Delay is how long the message waits before it is ready.
	Delay time.Duration
	// Priority orders ready messages: lower first, then by id. 0 is usual.
	Priority int
	// Headers travel with the message to its handler, such as a traceparent.
	Headers map[string]string
}

// Message is one unit of work and where it is.
type Message struct {
	ID       int64
	Queue    string
	State    State
	Priority int
	// Attempts is how many attempts have failed.
	Attempts int
	Headers  map[string]string
	Payload  json.RawMessage
	// Errors are the failed attempts' errors, oldest first; at most MaxErrors.
	// An attempt that ended because its lease ran out or its worker died has
	// one too, which says so; so has a message that was cancelled or moved to
	// the dead letters by hand: the reason.
	Errors     []AttemptError
	EnqueuedAt time.Time
	// AvailableAt is when a delayed message is due; else zero.
	AvailableAt time.Time

	// Worker, Attempt, Started, LeaseExpiresAt and Progress are a leased
	// message's; Worker is also the one that finished an archived message.
	Worker         int64
	Attempt        int
	Started        bool
	LeasedAt       time.Time
	LeaseExpiresAt time.Time
	Progress       *Progress

	// Output and FinishedAt are an archived message's.
	Output     json.RawMessage
	FinishedAt time.Time
}

// AttemptError is why an attempt failed.
type AttemptError struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	Worker  int64     `json:"worker,omitempty"`
}

// Limits of what is kept of errors.
const (
	// MaxErrors is how many of a message's errors are kept: the newest.
	MaxErrors = 20
	// MaxErrorBytes is how much of one error's text is kept.
	MaxErrorBytes = 8 << 10
)

// Progress is how far a running job says it is.
type Progress struct {
	// Percent is 0 to 100; negative is unknown, and so is what is no number.
	Percent float64 `json:"percent"`
	// Message is stored as CleanText makes it.
	Message string `json:"message,omitempty"`
	// At is when; zero is now, by the database's clock.
	At time.Time `json:"at"`
}

// MessageFilter chooses messages. Zero fields choose all.
type MessageFilter struct {
	Queue string
	State State
	Page
}

// Messages is the table of messages that are not finished: delayed, ready and
// leased. Safe for concurrent use.
type Messages interface {
	// Insert enqueues all messages or none, and returns their ids in order.
	// Payloads are checked with DefaultValidator. Errors: *UnknownQueueError or
	// *PayloadError, in a *BatchError when there are several messages.
	Insert(ctx context.Context, msgs []NewMessage) ([]int64, error)
	// Get finds a message wherever it is, also in the archive; ErrNotFound.
	Get(ctx context.Context, id int64) (Message, error)
	// List returns messages by ascending id. An unknown queue is *UnknownQueueError.
	List(ctx context.Context, filter MessageFilter) ([]Message, error)
	// Count counts exactly; Page is ignored.
	Count(ctx context.Context, filter MessageFilter) (int64, error)
	// Occupied returns those of the queues on which messages are ready, in no
	// order; a backend may name some whose messages are all leased. It costs one
	// short statement, however many the queues are.
	Occupied(ctx context.Context, queues ...string) ([]string, error)
	// Delete removes a ready or delayed message: ErrLeased, ErrTerminal (it is
	// archived) or ErrNotFound otherwise.
	Delete(ctx context.Context, id int64) error
}

// Archive is the table of finished messages. Safe for concurrent use.
type Archive interface {
	// Insert moves ready or delayed messages into the archive as cancelled,
	// with reason as their error; one error for each id, as Messages.Delete.
	Insert(ctx context.Context, reason string, ids ...int64) ([]error, error)
	Get(ctx context.Context, id int64) (Message, error)
	// List returns archived messages by ascending id; State narrows it.
	List(ctx context.Context, filter MessageFilter) ([]Message, error)
	Count(ctx context.Context, filter MessageFilter) (int64, error)
	// Delete removes one archived message and its steps.
	Delete(ctx context.Context, id int64) error
	// Purge removes archived messages of a queue in these states (none is all)
	// that finished longer ago than olderThan, and returns how many.
	Purge(ctx context.Context, queue string, olderThan time.Duration, states ...State) (int64, error)
	// Replay puts dead letters back as ready under their own ids, with their
	// attempts at zero and their errors kept. One error for each id:
	// ErrNotFound, or ErrTerminal for one that is done or cancelled.
	Replay(ctx context.Context, ids ...int64) ([]error, error)
}
