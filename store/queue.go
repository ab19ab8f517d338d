package store

import (
	"context"
	"time"
)

// Defaults of a queue's policy.
const (
	DefaultMaxAttempts = 5
	DefaultRetention   = 7 * 24 * time.Hour
)

// MaxQueueName is the longest name of a queue, in bytes.
const MaxQueueName = 128

// QueueKind says what a queue's messages are.
type QueueKind string

// The kinds of queue.
const (
	JobQueue      QueueKind = "job"
	WorkflowQueue QueueKind = "workflow"
)

// Queue is a named line of messages.
type Queue struct {
	ID   int64
	Name string
	QueuePolicy
	CreatedAt time.Time
}

// QueuePolicy is what the store itself needs to know of a queue's settings.
type QueuePolicy struct {
	// Kind defaults to JobQueue.
	Kind QueueKind
	// MaxAttempts is how many failed attempts make a message dead; 0 is
	// DefaultMaxAttempts.
	MaxAttempts int
	// Retention is how long done and cancelled messages stay in the archive; 0
	// is DefaultRetention, negative is for ever. Dead letters stay until they
	// are purged or replayed.
	Retention time.Duration
}

// WithDefaults fills in what is zero.
func (p QueuePolicy) WithDefaults() QueuePolicy {
	if p.Kind == "" {
		p.Kind = JobQueue
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = DefaultMaxAttempts
	}
	if p.Retention == 0 {
		p.Retention = DefaultRetention
	}
	return p
}

// Queues is the table of queues. Safe for concurrent use.
type Queues interface {
	// Insert creates a queue; ErrExists when the name is taken, ErrInvalid for
	// a bad name or policy.
	Insert(ctx context.Context, name string, policy QueuePolicy) (Queue, error)
	// Ensure creates the queue or, when it exists, sets its policy.
	Ensure(ctx context.Context, name string, policy QueuePolicy) (Queue, error)
	// Get fails with *UnknownQueueError.
	Get(ctx context.Context, name string) (Queue, error)
	List(ctx context.Context, page Page) ([]Queue, error)
	Count(ctx context.Context) (int64, error)
	// Delete removes an empty queue. A queue with messages, an archive or a
	// live consumer is ErrNotEmpty, with what it holds; force removes all but
	// leased messages' queues: a queue with leased messages is ErrLeased.
	Delete(ctx context.Context, name string, force bool) error
	// Purge deletes the ready and delayed messages and returns how many.
	// Leased ones are left to their workers.
	Purge(ctx context.Context, name string) (int64, error)
}

// ValidateQueueName accepts 1 to MaxQueueName letters, digits and "_-.:",
// starting with a letter, a digit or "_".
func ValidateQueueName(name string) error { return validateName("queue", name) }

// ValidateWorkflowName is ValidateQueueName for the name of a workflow, which is
// its queue's.
func ValidateWorkflowName(name string) error { return validateName("workflow", name) }

func validateName(of, name string) error {
	if name == "" {
		return Invalidf("%s name is empty", of)
	}
	if len(name) > MaxQueueName {
		return Invalidf("%s name is %d bytes long, the limit is %d", of, len(name), MaxQueueName)
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '-' || c == '.' || c == ':'):
		default:
			return Invalidf("%s name %q: letters, digits and _-.: only, starting with a letter, a digit or _", of, name)
		}
	}
	return nil
}

// QueueMetrics is a queue's depth by state.
type QueueMetrics struct {
	Queue                                         string
	Ready, Delayed, Leased, Done, Dead, Cancelled int64
	// OldestReady is how long the oldest ready message has waited, as
	// LeasedMessage.Waited counts; 0 when none waits.
	OldestReady time.Duration
	// Estimated says that a count above the sampling limit is an estimate.
	Estimated bool
}

// SystemStats is the whole system in numbers.
type SystemStats struct {
	Queues    int64
	Ready     int64
	Delayed   int64
	Leased    int64
	Done      int64
	Dead      int64
	Cancelled int64
	// Stranded are the runs that wait for a handler of their version; Delayed
	// counts them too.
	Stranded int64
	// Unserved are the ready runs of workflows that have no consumer anywhere;
	// Ready counts them too.
	Unserved int64
	Workers  map[WorkerState]int64
	// SchemaVersion is the installed schema's version.
	SchemaVersion int64
}
