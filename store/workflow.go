package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// NewRun starts a workflow.
type NewRun struct {
	// Workflow is the workflow's name, which is its queue's.
	Workflow string
	// Input is the run's JSON input, the message's payload.
	Input json.RawMessage
	// Key makes the start idempotent. Empty starts a new run every time.
	Key     string
	Delay   time.Duration
	Headers map[string]string
}

// Run is one execution of a workflow: a message and its steps.
type Run struct {
	Message
	Key string
	// BegunAt is when the run's code first began; zero before.
	BegunAt time.Time
	// Steps counts the recorded steps.
	Steps  int64
	Status RunStatus
	// Pausing says that the run was paused while it runs: it stops at its next step.
	Pausing bool
	// Wait is what a waiting run waits for; nil if it does not.
	Wait *RunWait
	// Version is the handler version that began the run.
	Version string
	// Parent is the run that started this one as a step; 0 if none did.
	Parent int64
}

// RunFilter chooses runs. Zero fields choose all.
type RunFilter struct {
	Workflow string
	State    State
	// Status narrows further; it may be any of the RunStatus words.
	Status RunStatus
	// Open leaves out runs that have ended.
	Open bool
	Page
}

// Workflows is the table of runs: the messages, archived or not, of the queues
// of kind WorkflowQueue. Safe for concurrent use.
type Workflows interface {
	RunControl
	// Insert is Store.CreateWorkflow.
	Insert(ctx context.Context, run NewRun) (id int64, created bool, err error)
	Get(ctx context.Context, id int64) (Run, error)
	// List returns runs by ascending id.
	List(ctx context.Context, filter RunFilter) ([]Run, error)
	Count(ctx context.Context, filter RunFilter) (int64, error)
	// Delete removes a finished run with its steps and its key; a run that is
	// not finished is ErrLeased or ErrInvalid.
	Delete(ctx context.Context, id int64) error
	// Steps lists a run's recorded steps in the order of recording.
	Steps(ctx context.Context, run int64) ([]StepRecord, error)
	// WakeStranded makes ready at most limit runs of a workflow that wait for a
	// handler of one of these versions, or of any version if there are none, and
	// returns how many they were, with those that somebody else moved meanwhile:
	// fewer than limit are all. Those that are paused stay as they are.
	WakeStranded(ctx context.Context, workflow string, versions []string, limit int) (int64, error)
	// Load returns what leased runs carry on from, in the order of ids; a run
	// that nothing is recorded of has the zero state with its id. It is a constant
	// number of statements.
	Load(ctx context.Context, ids ...int64) ([]RunState, error)
}

// Workflow is a handle on one run. Its writes carry the run's lease, so that
// of two workers that believe to hold a run only one can write; they return
// ErrLeaseLost, ErrTerminal for a finished run, and ErrNotFound for a missing one.
type Workflow interface {
	ID() int64
	// Start records that the run's code begins, which counts as
	// Consumer.Started too. Starting again after a crash keeps the first time.
	Start(ctx context.Context, lease Lease) error
	// Complete settles the run as done, in one transaction with its message.
	Complete(ctx context.Context, lease Lease, output json.RawMessage) error
	// Fail settles the run as dead.
	Fail(ctx context.Context, lease Lease, reason string) error
}

// StepKey names a step of a run. Occurrence counts the uses of a name, from 0,
// so that loops work.
type StepKey struct {
	Name       string
	Occurrence int
}

// Text is the key as people write it: name, or name#occurrence after the first.
// It is no String, which whatever embeds the key would be printed as too.
func (k StepKey) Text() string {
	if k.Occurrence == 0 {
		return k.Name
	}
	return fmt.Sprintf("%s#%d", k.Name, k.Occurrence)
}

// Place is the place of a step in its run.
type Place struct {
	// Branch is what the step's name begins with, without the slash behind it;
	// empty is that of steps outside of branches.
	Branch string `json:"branch,omitempty"`
	// Position is StepRecord.Position.
	Position int `json:"position"`
}

// StepState is a step's state.
type StepState string

// The states of a step. A running step is executed again after a crash. A
// waiting step waits for what its kind says: a time, a signal, a child, its next try.
const (
	StepRunning   StepState = "running"
	StepWaiting   StepState = "waiting"
	StepSucceeded StepState = "succeeded"
	StepFailed    StepState = "failed"
)

// StepKind is what a step does.
type StepKind string

// The kinds of steps.
const (
	StepBody   StepKind = "step" // runs code
	StepSleep  StepKind = "sleep"
	StepSignal StepKind = "signal" // receives one
	StepSend   StepKind = "send"   // sends one to another run
	StepChild  StepKind = "child"  // starts a run and takes its result
	StepEvent  StepKind = "event"  // publishes a value
)

// StepRecord is a step as it is recorded.
type StepRecord struct {
	Run int64
	StepKey
	Kind StepKind
	// Position counts the steps of the step's branch in the order in which the
	// code came by them, from 0.
	Position int
	// DueAt is when a waiting step is done waiting; zero is never. Remaining is
	// how long that is from now, by the database's clock; negative if it is past, or never.
	DueAt      time.Time
	Remaining  time.Duration
	Topic      string // of StepSignal and StepSend, the event's name of StepEvent
	Child      int64  // of StepChild; 0 before
	State      StepState
	Tries      int
	Output     json.RawMessage
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
}

// StepResult is a step's result to record together with an Outcome.
type StepResult struct {
	StepKey
	// Kind defaults to StepBody.
	Kind     StepKind
	Position int
	// State is StepSucceeded, StepFailed or StepWaiting; the default is
	// StepFailed if Error is set, else StepSucceeded.
	State  StepState
	Output json.RawMessage
	// Error is why the step failed, or why its last try did.
	Error string
	// Tries counts the tries of its body so far; 0 is taken as 1.
	Tries int
	// Took is how long the body ran, so that the record knows when it started.
	Took time.Duration
	// Delay is how long a waiting step waits; negative is without limit.
	Delay time.Duration
	// Topic is the signal's topic, or the event's name.
	Topic string
	// Signal is the signal that a StepSignal takes, with its result; 0 is none.
	// A signal that is taken already by another step is ErrInvalid.
	Signal int64
	// Child is the run that a waiting StepChild starts, in the same transaction;
	// nothing is started if the step is there already. When the child ends, its
	// settlement records this step's result (StepSucceeded with its output, or
	// StepFailed with its last error) and wakes the parent.
	Child *NewRun
	// Send is the signal that a StepSend sends, in the same transaction. To a run
	// that has ended or is not there it records the step as failed instead; one that
	// has as many as it may have refuses the outcome as ErrSignalsFull.
	Send *NewSignal
}

// Step is an acquired step. Execute says whether its body must run; if not,
// Record holds the recorded output or failure.
type Step interface {
	Execute() bool
	Record() StepRecord
	// Complete and Fail record the result once: ErrTerminal when it is recorded
	// already, ErrLeaseLost when the run's lease is gone.
	Complete(ctx context.Context, output json.RawMessage) error
	Fail(ctx context.Context, reason string) error
}

// StepError is a step's recorded failure.
type StepError struct {
	StepKey
	Reason string
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %s failed: %s", e.Text(), e.Reason)
}

// AcquireStep is Store.AcquireStep with a typed output: execute is true when
// the body must run; otherwise out is the recorded output, or err a *StepError.
func AcquireStep[T any](ctx context.Context, s Store, lease Lease, key StepKey) (step Step, out T, execute bool, err error) {
	step, err = s.AcquireStep(ctx, lease, key)
	if err != nil {
		return nil, out, false, err
	}
	if step.Execute() {
		return step, out, true, nil
	}
	rec := step.Record()
	if rec.State == StepFailed {
		return step, out, false, &StepError{StepKey: key, Reason: rec.Error}
	}
	if len(rec.Output) > 0 {
		if err := json.Unmarshal(rec.Output, &out); err != nil {
			return step, out, false, fmt.Errorf("decode the recorded output of step %s of run %d: %w", key.Text(), lease.ID, err)
		}
	}
	return step, out, false, nil
}

// Succeed records a step's typed output.
func Succeed[T any](ctx context.Context, step Step, out T) error {
	raw, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encode the output of step %s: %w", step.Record().Name, errors.Join(ErrInvalid, err))
	}
	return step.Complete(ctx, raw)
}
