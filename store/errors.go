package store

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Sentinels. They arrive wrapped; compare with errors.Is.
var (
	// ErrNotFound says that the named queue, message, worker or run does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists says that the name or key is taken.
	ErrExists = errors.New("already exists")
	// ErrLeaseLost says that the lease is no longer held: it ran out and was
	// taken back, was released, or was settled before. Nothing was changed.
	ErrLeaseLost = errors.New("lease lost")
	// ErrLeased says that a worker holds the message, so it cannot be moved or deleted.
	ErrLeased = errors.New("leased by a worker")
	// ErrTerminal says that the run or step is finished and cannot change.
	ErrTerminal = errors.New("already finished")
	// ErrNotEmpty says that a queue still holds messages, an archive or live workers.
	ErrNotEmpty = errors.New("not empty")
	// ErrUnavailable says that the database cannot be reached, refuses the
	// credentials, or went away before it answered. The same call may succeed later.
	ErrUnavailable = errors.New("database unavailable")
	// ErrLocked says that another transaction keeps locked what the call needs, for
	// longer than it waits. The database answers, and the same call succeeds once
	// that transaction has ended. It is ErrUnavailable too, for who just tries again.
	ErrLocked error = lockedError{}
	// ErrNotInstalled says that the schema does not exist in the database.
	ErrNotInstalled = errors.New("not installed")
	// ErrSchemaVersion says that the schema is of another version than this binary.
	ErrSchemaVersion = errors.New("schema version mismatch")
	// ErrKeyConflict says that a run of the same key was started with another input.
	ErrKeyConflict = errors.New("key already used with another input")
	// ErrSignalsFull says that a run has as many signals that it has not received
	// as it may have; see MaxSignals. It may receive some of them later.
	ErrSignalsFull = errors.New("too many signals wait to be received")
	// ErrInvalid says that an argument breaks a rule; the message names it.
	ErrInvalid = errors.New("invalid")
	// ErrDSN says that the DSN cannot be understood, or names no database of
	// pgqrsd's. Refused credentials are ErrUnavailable.
	ErrDSN = errors.New("bad DSN")
)

type lockedError struct{}

func (lockedError) Error() string {
	return "kept locked by another transaction; try again when that has ended"
}

func (lockedError) Unwrap() error { return ErrUnavailable }

// TransitionError is a change of a worker's state that the rules forbid.
type TransitionError struct {
	Worker   int64
	From, To WorkerState
}

func (e *TransitionError) Error() string {
	hint := ""
	switch {
	case e.From == WorkerStopped:
		hint = "; a stopped worker stays stopped"
	case e.From == WorkerReady && e.To == WorkerStopped:
		hint = "; suspend it first"
	}
	return fmt.Sprintf("worker %d is %s and cannot become %s%s", e.Worker, e.From, e.To, hint)
}

// NotReadyError is a write by a worker that is suspended or stopped.
type NotReadyError struct {
	Worker int64
	State  WorkerState
}

func (e *NotReadyError) Error() string {
	if e.State == WorkerSuspended {
		return fmt.Sprintf("worker %d is suspended; resume it first", e.Worker)
	}
	return fmt.Sprintf("worker %d is %s", e.Worker, e.State)
}

// HoldsMessagesError is the shutdown of a consumer that still holds messages.
type HoldsMessagesError struct {
	Worker   int64
	Messages int64
}

func (e *HoldsMessagesError) Error() string {
	return fmt.Sprintf("worker %d still holds %d messages; wait until they are settled, or release them", e.Worker, e.Messages)
}

// Invalidf is an error that is ErrInvalid and says what breaks which rule. The
// sentinel's own text, which adds nothing to that, does not show.
func Invalidf(format string, args ...any) error {
	return &invalidError{fmt.Errorf(format, args...)}
}

type invalidError struct{ reason error }

func (e *invalidError) Error() string { return e.reason.Error() }

func (e *invalidError) Unwrap() []error { return []error{e.reason, ErrInvalid} }

// NotRunError is the use of a message that is a job as a run. It is ErrNotFound.
type NotRunError struct{ ID int64 }

func (e *NotRunError) Error() string {
	return fmt.Sprintf("message %d is a job, not a run; see `pgqrsd message get %d`", e.ID, e.ID)
}

func (e *NotRunError) Unwrap() error { return ErrNotFound }

// RunEnded says that a run has ended, and how. It is ErrTerminal.
func RunEnded(s RunStatus) error {
	if s == RunCancelled {
		return fmt.Errorf("it was cancelled: %w", ErrTerminal)
	}
	return fmt.Errorf("it has %s: %w", s, ErrTerminal)
}

// NotFailed says that a run cannot be retried.
func NotFailed(s RunStatus) error {
	return Invalidf("it is %s, and only a failed run can be retried", s)
}

// Cancelling says that a run cannot be paused any more.
func Cancelling() error {
	return Invalidf("it is being cancelled, and ends at its next step")
}

// NoStep says that a run has no such step to fork from, and names some that it has.
func NoStep(key StepKey, steps []StepRecord) error {
	const named = 10
	if len(steps) == 0 {
		return Invalidf("it has no step %s; nothing is recorded of it", key.Text())
	}
	names := make([]string, 0, named)
	for _, s := range steps[:min(len(steps), named)] {
		names = append(names, s.Text())
	}
	more := ""
	if len(steps) > named {
		more = fmt.Sprintf(" and %d more", len(steps)-named)
	}
	return Invalidf("it has no step %s; it has %s%s (a step of a branch is called branch/step, a later use in a loop step#1, step#2)",
		key.Text(), strings.Join(names, ", "), more)
}

// NotWorkflow says that a queue that was named as a workflow is one of jobs.
func NotWorkflow(queue string) error {
	return Invalidf("queue %q is for jobs, not for a workflow", queue)
}

// UnknownQueueError is the use of a queue that does not exist. It is ErrNotFound.
type UnknownQueueError struct {
	Queue string
	// Kind is what it was to be; empty is a queue of jobs.
	Kind QueueKind
	// Near lists existing queues with similar names, nearest first.
	Near []string
}

func (e *UnknownQueueError) Error() string {
	what := "queue"
	if e.Kind == WorkflowQueue {
		what = "workflow"
	}
	switch {
	case len(e.Near) > 0:
		return fmt.Sprintf("%s %q does not exist; did you mean %s?", what, e.Queue, strings.Join(e.Near, ", "))
	case e.Kind == WorkflowQueue:
		return fmt.Sprintf("workflow %q does not exist; the daemon creates it when a handler serves it, or `pgqrsd queue create %s --kind workflow` does",
			e.Queue, e.Queue)
	}
	return fmt.Sprintf("queue %q does not exist; create it with `pgqrsd queue create %s`", e.Queue, e.Queue)
}

func (e *UnknownQueueError) Unwrap() error { return ErrNotFound }

// PayloadError is a payload or an output that breaks a rule of the Validator.
type PayloadError struct {
	// Rule is the rule's name, such as "json", "max_bytes" or "number_range".
	Rule string
	// Detail says what was found where.
	Detail string
	// What broke the rule, such as "output"; empty is "payload".
	What string
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("%s breaks rule %s: %s", cmp.Or(e.What, "payload"), e.Rule, e.Detail)
}

func (e *PayloadError) Unwrap() error { return ErrInvalid }

// BatchError is the refusal of a whole batch because of one item.
type BatchError struct {
	// Index is the position of the first bad item, from 0. What a message itself
	// breaks is found before queues that do not exist.
	Index int
	Err   error
}

func (e *BatchError) Error() string {
	return fmt.Sprintf("message %d of the batch: %v", e.Index+1, e.Err)
}

func (e *BatchError) Unwrap() error { return e.Err }

// RateLimitError is an enqueue beyond the producer's rate limit.
type RateLimitError struct {
	// RetryAfter is when the same call would be let through.
	RetryAfter time.Duration
}

func (e *RateLimitError) Error() string {
	// Rounded up, for earlier is too early.
	return fmt.Sprintf("rate limit exceeded; try again in %s", (e.RetryAfter + time.Millisecond - 1).Truncate(time.Millisecond))
}

// SchemaVersionError is an installed schema that is not this binary's. It is ErrSchemaVersion.
type SchemaVersionError struct {
	Schema     string
	Have, Want int64
}

func (e *SchemaVersionError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("schema %s is at version %d, newer than this binary's %d; upgrade pgqrsd", e.Schema, e.Have, e.Want)
	}
	return fmt.Sprintf("schema %s is at version %d, this binary needs %d; run `pgqrsd install`", e.Schema, e.Have, e.Want)
}

func (e *SchemaVersionError) Unwrap() error { return ErrSchemaVersion }
