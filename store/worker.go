package store

import (
	"context"
	"encoding/json"
	"time"
)

// WorkerKind is a worker's role.
type WorkerKind string

// The kinds of worker.
const (
	KindAdmin    WorkerKind = "admin"
	KindProducer WorkerKind = "producer"
	KindConsumer WorkerKind = "consumer"
)

// WorkerState is a worker's state: ready <-> suspended -> stopped.
type WorkerState string

// The states of a worker.
const (
	WorkerReady     WorkerState = "ready"
	WorkerSuspended WorkerState = "suspended"
	WorkerStopped   WorkerState = "stopped"
)

// WorkerOptions register a worker.
type WorkerOptions struct {
	// Name is the worker's name, host/slot for a daemon's. Empty makes the
	// worker ephemeral: Close removes its row.
	Name string
	// Slot identifies the slot that the process holds a file lock on. Whoever
	// holds it next knows rows of the same slot for corpses (Admin.ReclaimSlot).
	Slot string
	// Info is a JSON object that the worker publishes about itself.
	Info json.RawMessage
}

// WorkerRecord is a registered worker as the database knows it.
type WorkerRecord struct {
	ID          int64
	Name        string
	Kind        WorkerKind
	Queue       string // a consumer's
	State       WorkerState
	Slot        string
	Info        json.RawMessage
	StartedAt   time.Time
	HeartbeatAt time.Time
	// HeartbeatAge is the time since HeartbeatAt, by the database's clock.
	HeartbeatAge time.Duration
	// Leased is how many messages it holds.
	Leased int64
	// Reclaimed says that Reclaim or ReclaimSlot stopped it for want of a
	// heartbeat, not Shutdown. Its process, if it lives after all, may register anew.
	Reclaimed bool
}

// WorkerFilter chooses workers. Zero fields choose all.
type WorkerFilter struct {
	Queue string
	Kind  WorkerKind
	State WorkerState
	Page
}

// Workers is the table of workers: what anyone may ask of any worker, from any
// machine. Safe for concurrent use.
type Workers interface {
	// Insert registers a worker and returns its id, which is never reused.
	Insert(ctx context.Context, kind WorkerKind, queue string, opts WorkerOptions) (int64, error)
	Get(ctx context.Context, id int64) (WorkerRecord, error)
	List(ctx context.Context, filter WorkerFilter) ([]WorkerRecord, error)
	Count(ctx context.Context, filter WorkerFilter) (int64, error)
	// Delete removes a stopped worker's row: *TransitionError when it is not
	// stopped, ErrNotFound.
	Delete(ctx context.Context, id int64) error
	// Transition moves a worker to another state in one atomic step. It
	// returns *TransitionError for a move the rules forbid,
	// *HoldsMessagesError for the shutdown of a consumer that still holds
	// messages, ErrNotFound for an unknown id.
	Transition(ctx context.Context, id int64, to WorkerState) error
	// Heartbeat says that these workers live, and returns their states, in one
	// statement. An id that is missing from the answer no longer exists.
	// Heartbeats of stopped workers change nothing.
	Heartbeat(ctx context.Context, ids ...int64) (map[int64]WorkerState, error)
	// States reads these workers' states.
	States(ctx context.Context, ids ...int64) (map[int64]WorkerState, error)
	// SetInfo replaces what a worker publishes about itself.
	SetInfo(ctx context.Context, id int64, info json.RawMessage) error
}

// Worker is what an Admin, a Producer and a Consumer have in common.
type Worker interface {
	ID() int64
	Status(ctx context.Context) (WorkerState, error)
	Suspend(ctx context.Context) error
	Resume(ctx context.Context) error
	// Shutdown stops a suspended worker for good.
	Shutdown(ctx context.Context) error
	Heartbeat(ctx context.Context) error
	// IsHealthy reports whether the worker is not stopped and its last
	// heartbeat is younger than maxAge.
	IsHealthy(ctx context.Context, maxAge time.Duration) (bool, error)
	// Close ends the use of the worker. An ephemeral worker's messages are
	// released and its row removed; others stay as they are. While another
	// transaction keeps some locked, the row stays too and it returns ErrLocked:
	// without heartbeats it is reclaimed, unless Close is called again.
	Close(ctx context.Context) error
}

// GivenBack counts messages that were taken from workers.
type GivenBack struct {
	Workers int64 // workers that were declared stopped
	Ready   int64 // messages that are ready again
	Dead    int64 // messages for which it was the last attempt
}

// HealthReport is the fleet's health at one moment.
type HealthReport struct {
	Healthy, Stale, Suspended, Stopped int64
	// StaleWorkers lists workers that are not stopped but whose heartbeat is too old.
	StaleWorkers []WorkerRecord
}

// WorkerStats counts workers and what they hold.
type WorkerStats struct {
	Queue                     string
	Ready, Suspended, Stopped int64
	Leased                    int64
	OldestHeartbeatAge        time.Duration // of workers that are not stopped
}

// Admin manages queues and workers and keeps the house clean.
// Safe for concurrent use.
type Admin interface {
	Worker
	Installer

	CreateQueue(ctx context.Context, name string, policy QueuePolicy) (Queue, error)
	GetQueue(ctx context.Context, name string) (Queue, error)
	DeleteQueue(ctx context.Context, name string, force bool) error
	PurgeQueue(ctx context.Context, name string) (int64, error)

	// QueueMetrics counts each named queue (none is all) exactly.
	QueueMetrics(ctx context.Context, queues ...string) ([]QueueMetrics, error)
	// SampleMetrics is QueueMetrics at a bounded cost: counts above a limit
	// are estimates.
	SampleMetrics(ctx context.Context) ([]QueueMetrics, error)
	SystemStats(ctx context.Context) (SystemStats, error)
	// WorkerStats has one row for each queue that has consumers; queue narrows it.
	WorkerStats(ctx context.Context, queue string) ([]WorkerStats, error)
	WorkerHealth(ctx context.Context, maxAge time.Duration) (HealthReport, error)

	ListWorkers(ctx context.Context, filter WorkerFilter) ([]WorkerRecord, error)
	DeleteWorker(ctx context.Context, id int64) error
	// PurgeWorkers removes the rows of workers that stopped longer ago than olderThan.
	PurgeWorkers(ctx context.Context, olderThan time.Duration) (int64, error)
	// WorkerMessages lists what a worker holds, by ascending id; ErrNotFound.
	WorkerMessages(ctx context.Context, id int64, page Page) ([]Message, error)
	// ReleaseWorker gives back all that a worker holds, without costing
	// attempts, and returns how many; ErrNotFound. The worker finds its leases lost.
	// What another transaction keeps locked is left, as by Consumer.ReleaseAll.
	ReleaseWorker(ctx context.Context, id int64) (int64, error)

	// Reclaim declares stopped every worker without a heartbeat for maxAge and
	// gives its messages back; started ones lose an attempt. Leases that need a
	// row which another transaction keeps locked are left, and with them their
	// workers as they are: it returns ErrLocked with the count of the others. So do
	// ReclaimSlot and GiveBack.
	Reclaim(ctx context.Context, maxAge time.Duration) (GivenBack, error)
	// ReclaimSlot does the same at once for every worker registered under the
	// slot, whose lock the caller holds, before it registers its own. No slot
	// at all is ErrInvalid, for it is not one that anybody could hold.
	ReclaimSlot(ctx context.Context, slot string) (GivenBack, error)
	// GiveBack gives back the messages of leases that ran out, on every queue.
	GiveBack(ctx context.Context) (GivenBack, error)
	// DeadLetter moves ready or delayed messages to the dead letters; one error
	// for each id, as Messages.Delete.
	DeadLetter(ctx context.Context, reason string, ids ...int64) ([]error, error)
	// Promote makes ready at most limit delayed messages that are due. next is
	// the time until the next one is due (0 when some are due already), or
	// negative when none is waiting.
	Promote(ctx context.Context, limit int) (moved int64, next time.Duration, err error)
	// PurgeExpired removes at most limit archived messages that are past their
	// queue's retention, with their steps.
	PurgeExpired(ctx context.Context, limit int) (int64, error)
	// Lead makes this worker the one that does maintenance, for ttl, unless
	// another ready one does. It is renewed by calling again. A worker that was
	// suspended, stopped or reclaimed leads no more.
	Lead(ctx context.Context, ttl time.Duration) (bool, error)
}

// ProducerOptions register a producer.
type ProducerOptions struct {
	WorkerOptions
	// Validator checks payloads; nil is DefaultValidator.
	Validator *Validator
	// Rate is how many messages a second may be enqueued; 0 is no limit.
	Rate float64
	// Burst is how many may be enqueued at once; 0 is Rate rounded up. A batch
	// larger than Burst is refused as ErrInvalid.
	Burst int
}

// Producer puts messages on queues. All its writes fail with *NotReadyError
// while it is suspended. Safe for concurrent use.
type Producer interface {
	Worker
	// Enqueue validates and stores one message. Errors: *UnknownQueueError,
	// *PayloadError, *RateLimitError, *NotReadyError.
	Enqueue(ctx context.Context, msg NewMessage) (int64, error)
	// EnqueueBatch stores all messages or none; a bad one is a *BatchError.
	EnqueueBatch(ctx context.Context, msgs []NewMessage) ([]int64, error)
	Get(ctx context.Context, id int64) (Message, error)
	// Replay puts a dead letter back; see Archive.Replay.
	Replay(ctx context.Context, id int64) error
}
