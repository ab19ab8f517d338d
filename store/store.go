package store

import (
	"context"
	"time"
)

// Backend names, as Store.BackendName returns them.
const (
	BackendPostgres = "postgres"
	BackendSQLite   = "sqlite"
)

// ConcurrencyModel says how many daemons may share a store.
type ConcurrencyModel string

// The concurrency models.
const (
	// MultiProcess stores are shared by daemons on many machines.
	MultiProcess ConcurrencyModel = "multi-process"
	// SingleProcess stores belong to one daemon at a time; other processes may
	// enqueue and inspect beside it.
	SingleProcess ConcurrencyModel = "single-process"
)

// Installer prepares the schema.
type Installer interface {
	// Install creates the schema or brings it up to date. Installing twice
	// changes nothing, and two processes may install at the same time.
	// A schema newer than this binary is a *SchemaVersionError.
	Install(ctx context.Context) error
	// Verify checks that the schema is there and of this binary's version.
	// It returns ErrNotInstalled, naming the command that installs, or a
	// *SchemaVersionError.
	Verify(ctx context.Context) error
}

// Store is one database. It is safe for concurrent use.
type Store interface {
	Installer

	Queues() Queues
	Messages() Messages
	Workers() Workers
	Archive() Archive
	Workflows() Workflows

	// Admin, Producer and Consumer register a worker and return it. They fail
	// with ErrNotInstalled on a database without the schema.
	Admin(ctx context.Context, opts WorkerOptions) (Admin, error)
	Producer(ctx context.Context, opts ProducerOptions) (Producer, error)
	// Consumer fails with *UnknownQueueError when the queue does not exist.
	Consumer(ctx context.Context, queue string, opts WorkerOptions) (Consumer, error)

	// CreateWorkflow starts a run: it puts the input as a message on the queue
	// named after the workflow. With a key it is idempotent: the same key is
	// the same run (created is false), and the same key with another input is
	// ErrKeyConflict. A queue of jobs, or a key that is not UTF-8 without NUL, is
	// ErrInvalid.
	CreateWorkflow(ctx context.Context, run NewRun) (id int64, created bool, err error)
	// Workflow is a handle on the run of this id. It asks nothing of the database.
	Workflow(id int64) Workflow
	// AcquireStep opens a step of the run that lease holds: to execute, or
	// recorded already. It returns ErrLeaseLost when the lease is not held.
	AcquireStep(ctx context.Context, lease Lease, key StepKey) (Step, error)

	// Listen calls wake whenever messages may have become ready, delayed or
	// given back on a queue, or a worker's state was changed, with an empty
	// name when it may be any queue. It may call without cause. It returns when
	// ctx ends (nil) or when the connection it listens on fails (an error); the
	// caller backs off and calls again, and keeps a poll behind it. wake must not block.
	Listen(ctx context.Context, wake func(queue string)) error

	// BackendName is BackendPostgres or BackendSQLite.
	BackendName() string
	ConcurrencyModel() ConcurrencyModel
	// Ping reports whether the database answers; ErrUnavailable if not.
	Ping(ctx context.Context) error
	// Close closes every connection. Workers must be closed before; what is
	// called after it is ErrUnavailable. Closing again does nothing.
	Close() error
}

// StatementCounter is a Store that counts the statements it has sent to a
// database server since it was opened. Safe for concurrent use.
type StatementCounter interface {
	Statements() int64
}

// Page asks for a part of a list.
type Page struct {
	// Limit is the most items to return; 0 is DefaultLimit.
	Limit int
	// After is the id of the last item seen; 0 starts at the beginning.
	After int64
}

// DefaultLimit is the page size where none is given.
const DefaultLimit = 100

// LimitOrDefault is Limit, or DefaultLimit where it is not positive.
func (p Page) LimitOrDefault() int {
	if p.Limit <= 0 {
		return DefaultLimit
	}
	return p.Limit
}

// Clock is an injected source of time for tests. Nil is the database's clock.
type Clock func() time.Time
