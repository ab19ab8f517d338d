package store

import (
	"context"
	"encoding/json"
	"time"
)

// RunStatus is how far a run is, in the words of people.
type RunStatus string

// The statuses of a run.
const (
	RunQueued     RunStatus = "queued"
	RunRunning    RunStatus = "running"
	RunWaiting    RunStatus = "waiting" // see Run.Wait
	RunPaused     RunStatus = "paused"
	RunCancelling RunStatus = "cancelling"
	RunSucceeded  RunStatus = "succeeded"
	RunFailed     RunStatus = "failed"
	RunCancelled  RunStatus = "cancelled"
)

// Terminal says that the run has ended.
func (s RunStatus) Terminal() bool {
	return s == RunSucceeded || s == RunFailed || s == RunCancelled
}

// Known says that it is one of the statuses above.
func (s RunStatus) Known() bool {
	switch s {
	case RunQueued, RunRunning, RunWaiting, RunPaused, RunCancelling, RunSucceeded, RunFailed, RunCancelled:
		return true
	}
	return false
}

// WaitKind is what a waiting run waits for.
type WaitKind string

// What runs wait for.
const (
	WaitSleep   WaitKind = "sleep"
	WaitSignal  WaitKind = "signal"
	WaitChild   WaitKind = "child"
	WaitRetry   WaitKind = "retry"   // the next try of a step, or of the run itself
	WaitVersion WaitKind = "version" // a handler that carries on the run's version
	WaitStart   WaitKind = "start"   // its delay, before it has begun
)

// Wait is what a run that suspends itself waits for.
type Wait struct {
	Kind WaitKind
	// For names it for people: a step, a topic, a version. At most 512 bytes.
	For string
	// Delay is how long it waits; negative is until it is woken.
	Delay time.Duration
	// News is RunState.News as the run saw it when it was leased. If there has been
	// more since, the run does not wait: it is ready again at once.
	News int64
}

// RunWait is what a run waits for now.
type RunWait struct {
	Kind WaitKind
	For  string
	// Until is when it ends by itself; zero is never.
	Until time.Time
}

// Halt is why a leased run must stop at its next step boundary.
type Halt string

// Why a run must stop.
const (
	HaltNone   Halt = ""
	HaltCancel Halt = "cancel" // settle it as OutcomeCancel
	HaltPause  Halt = "pause"  // settle it as OutcomeWait
)

// RunState is what a leased run carries on from.
type RunState struct {
	Run int64
	// Version is the handler version that began the run; empty if it has not begun.
	Version string
	// News counts what has come to the run from outside; see Wait.News.
	News int64
	Halt Halt
	// Steps are the recorded steps, in the order of recording.
	Steps []StepRecord
	// Signals are those that no step has taken, oldest first.
	Signals []Signal
}

// NewSignal is a signal to send.
type NewSignal struct {
	Run     int64
	Topic   string
	Payload json.RawMessage // JSON; empty is null
	// Key makes sending idempotent: of signals to one run with the same key, the
	// first is kept. Empty sends every time.
	Key string
}

// Signal is a message to a run.
type Signal struct {
	ID      int64
	Run     int64
	Topic   string
	Payload json.RawMessage
	Key     string
	SentAt  time.Time
	// Taken says that a step has received it.
	Taken bool
}

// Event is what a run has published under a name.
type Event struct {
	Name  string
	Value json.RawMessage
	SetAt time.Time
}

// RunControl is what outsiders do to runs. Every method returns ErrNotFound
// for an id that is no run's, and ErrTerminal, where it does not say otherwise,
// for one that has ended. Safe for concurrent use.
type RunControl interface {
	// Send leaves a signal for a run and wakes it if it waits, for whatever.
	// created is false if a signal of this key was there before. A signal that
	// arrives before, while or after the run waits for it is never lost. A run
	// that has MaxSignals, or MaxSignalBytes of them, which no step has taken gets
	// no more: ErrSignalsFull.
	Send(ctx context.Context, s NewSignal) (id int64, created bool, err error)
	// Cancel ends a run: one that no worker has at once, as cancelled; one that
	// is leased at its next step boundary (RunCancelling until then), whatever
	// its handler answers. descend cancels the runs that it started, and theirs,
	// too. It returns the status after it. Cancelling again changes nothing.
	Cancel(ctx context.Context, id int64, descend bool) (RunStatus, error)
	// Pause keeps a run from carrying on: it stops at its next step boundary
	// (Run.Pausing until then), or is not begun. Resume lets it carry on; a delay
	// of its start or of its next attempt still counts from when it began. A run
	// that waits for a handler of its version is ready at once, for one that may
	// have come. Neither costs an attempt. Both are idempotent. A run that is being
	// cancelled cannot be paused: ErrInvalid.
	Pause(ctx context.Context, id int64) error
	Resume(ctx context.Context, id int64) error
	// Retry carries a failed run on, its attempts starting at zero. It forgets what
	// the last outcome says has ended the run (Outcome.Failed) and keeps all other
	// steps, as it keeps all where the run has ended for another reason: its last
	// attempt has failed, it has diverged, its worker has died. Signals that the
	// forgotten steps had taken can be taken again. What these have done outside
	// stays done: a run that one of them started goes on by itself, or has ended,
	// and when the step is recorded again it starts another one. A run that has not
	// failed is ErrInvalid.
	Retry(ctx context.Context, id int64) error
	// Fork starts a new run with the input of another one, whatever its state,
	// and the results that were recorded before the named step; what waits is to be
	// done again. ErrInvalid if there is no such step; the zero StepKey keeps no
	// step. The new run has the signals that the steps it keeps have taken, as
	// taken; the others stay with the first run alone.
	Fork(ctx context.Context, id int64, from StepKey) (int64, error)
	// Signals lists a run's signals, oldest first; Events its events by name.
	// Both also for runs that have ended.
	Signals(ctx context.Context, id int64) ([]Signal, error)
	Events(ctx context.Context, id int64) ([]Event, error)
}
