package view

import (
	"encoding/json"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Run is a store.Run.
type Run struct {
	ID       int64           `json:"id"`
	Workflow string          `json:"workflow"`
	Status   store.RunStatus `json:"status"`
	// Pausing says that it runs, and pauses at its next step.
	Pausing bool `json:"pausing,omitempty"`
	// Wait is there while the status is "waiting".
	Wait *Wait `json:"wait,omitempty"`
	// State is the state of the run's message.
	State     store.State       `json:"state"`
	Key       string            `json:"key,omitempty"`
	Version   string            `json:"version,omitempty"`
	Parent    int64             `json:"parent,omitempty"`
	Attempts  int               `json:"attempts"`
	Headers   map[string]string `json:"headers,omitempty"`
	Input     json.RawMessage   `json:"input"`
	Errors    []AttemptError    `json:"errors"`
	StepCount int64             `json:"step_count"`

	EnqueuedAt  time.Time `json:"enqueued_at"`
	BegunAt     time.Time `json:"begun_at,omitzero"`
	AvailableAt time.Time `json:"available_at,omitzero"`

	Worker         int64     `json:"worker,omitempty"`
	LeasedAt       time.Time `json:"leased_at,omitzero"`
	LeaseExpiresAt time.Time `json:"lease_expires_at,omitzero"`
	Progress       *Progress `json:"progress,omitempty"`

	Output     json.RawMessage `json:"output,omitempty"`
	FinishedAt time.Time       `json:"finished_at,omitzero"`
}

// Wait is a store.RunWait.
type Wait struct {
	Kind store.WaitKind `json:"kind"`
	For  string         `json:"for,omitempty"`
	// Until is left out when it has no limit.
	Until time.Time `json:"until,omitzero"`
}

// RunDetail is a run with its recorded steps, in the order of recording.
type RunDetail struct {
	Run
	Steps []Step `json:"steps"`
}

// Step is a store.StepRecord.
type Step struct {
	Name       string          `json:"name"`
	Occurrence int             `json:"occurrence"`
	Kind       store.StepKind  `json:"kind"`
	State      store.StepState `json:"state"`
	Position   int             `json:"position"`
	Tries      int             `json:"tries"`
	Topic      string          `json:"topic,omitempty"`
	Child      int64           `json:"child,omitempty"`
	StartedAt  time.Time       `json:"started_at,omitzero"`
	FinishedAt time.Time       `json:"finished_at,omitzero"`
	// DurationSeconds is there for a finished step.
	DurationSeconds *float64 `json:"duration_seconds,omitempty"`
	// DueAt is when a waiting step is done waiting.
	DueAt       time.Time       `json:"due_at,omitzero"`
	OutputBytes int             `json:"output_bytes"`
	Output      json.RawMessage `json:"output,omitempty"`
	Error       string          `json:"error,omitempty"`
}

// Signal is a store.Signal.
type Signal struct {
	ID      int64           `json:"id"`
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"`
	Key     string          `json:"key,omitempty"`
	SentAt  time.Time       `json:"sent_at"`
	Taken   bool            `json:"taken"`
}

// Event is a store.Event.
type Event struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
	SetAt time.Time       `json:"set_at"`
}

// RunStatus is what became of a run that was steered.
type RunStatus struct {
	ID     int64           `json:"id"`
	Status store.RunStatus `json:"status"`
	// Pausing says that it runs, and pauses at its next step.
	Pausing bool `json:"pausing,omitempty"`
}

// OfRunStatus shows how far a run is.
func OfRunStatus(r store.Run) RunStatus { return RunStatus{r.ID, r.Status, r.Pausing} }

// RunResult is how a run has ended, or how far it is.
type RunResult struct {
	ID     int64           `json:"id"`
	Status store.RunStatus `json:"status"`
	Wait   *Wait           `json:"wait,omitempty"`
	Output json.RawMessage `json:"output,omitempty"`
	// Error is why the run failed or was cancelled.
	Error string `json:"error,omitempty"`
}

// OfRun shows a run.
func OfRun(r store.Run) Run {
	m := OfMessage(r.Message)
	return Run{
		ID: r.ID, Workflow: r.Queue, Status: r.Status, Pausing: r.Pausing, Wait: ofWait(r.Wait), State: r.State, Key: r.Key, Version: r.Version,
		Parent: r.Parent, Attempts: r.Attempts, Headers: m.Headers, Input: m.Payload, Errors: m.Errors, StepCount: r.Steps,
		EnqueuedAt: m.EnqueuedAt, BegunAt: r.BegunAt.UTC(), AvailableAt: dueTime(m.AvailableAt),
		Worker: m.Worker, LeasedAt: m.LeasedAt, LeaseExpiresAt: m.LeaseExpiresAt, Progress: m.Progress,
		Output: m.Output, FinishedAt: m.FinishedAt,
	}
}

// lastYear is the last one that RFC 3339, and so JSON, can tell.
const lastYear = 9999

// dueTime leaves out a time that stands for never.
func dueTime(t time.Time) time.Time {
	if t.Year() > lastYear {
		return time.Time{}
	}
	return t.UTC()
}

func ofWait(w *store.RunWait) *Wait {
	if w == nil {
		return nil
	}
	return &Wait{Kind: w.Kind, For: w.For, Until: dueTime(w.Until)}
}

// OfRunDetail shows a run with its steps.
func OfRunDetail(r store.Run, steps []store.StepRecord) RunDetail {
	return RunDetail{Run: OfRun(r), Steps: Each(steps, func(s store.StepRecord) Step {
		s.State = StateOf(s, r)
		return OfStep(s)
	})}
}

// What a step is that had not finished when its run ended.
const (
	StepCancelled  store.StepState = "cancelled"
	StepUnfinished store.StepState = "unfinished" // a retry of the run carries it on
)

// StateOf is a step's state as people see it: nothing waits in a run that has ended.
func StateOf(s store.StepRecord, of store.Run) store.StepState {
	switch open := s.State == store.StepWaiting || s.State == store.StepRunning; {
	case open && of.Status == store.RunCancelled:
		return StepCancelled
	case open && of.Status.Terminal():
		return StepUnfinished
	}
	return s.State
}

// OfStep shows a step.
func OfStep(s store.StepRecord) Step {
	v := Step{
		Name: s.Name, Occurrence: s.Occurrence, Kind: s.Kind, State: s.State, Position: s.Position, Tries: s.Tries,
		Topic: s.Topic, Child: s.Child, StartedAt: s.StartedAt.UTC(), FinishedAt: s.FinishedAt.UTC(),
		OutputBytes: len(s.Output), Error: s.Error,
	}
	if s.State == store.StepWaiting {
		v.DueAt = dueTime(s.DueAt)
	}
	if !s.FinishedAt.IsZero() {
		took := s.FinishedAt.Sub(s.StartedAt).Seconds()
		v.DurationSeconds = &took
	}
	if len(s.Output) > 0 {
		v.Output = raw(s.Output)
	}
	return v
}

// OfSignal shows a signal.
func OfSignal(s store.Signal) Signal {
	return Signal{ID: s.ID, Topic: s.Topic, Payload: raw(s.Payload), Key: s.Key, SentAt: s.SentAt.UTC(), Taken: s.Taken}
}

// OfEvent shows an event.
func OfEvent(e store.Event) Event {
	return Event{Name: e.Name, Value: raw(e.Value), SetAt: e.SetAt.UTC()}
}

// OfResult shows how a run has ended, or how far it is. A run that succeeded
// without an output has the output null.
func OfResult(r store.Run) RunResult {
	v := RunResult{ID: r.ID, Status: r.Status, Wait: ofWait(r.Wait)}
	switch r.Status {
	case store.RunSucceeded:
		v.Output = raw(r.Output)
	case store.RunFailed, store.RunCancelled:
		v.Error = Reason(r)
	}
	return v
}

// Reason is why a run has failed or was cancelled. Errors of its attempts before
// it was cancelled are not why.
func Reason(r store.Run) string {
	if r.Status == store.RunCancelled {
		return "the run was cancelled"
	}
	return LastError(r)
}

// LastError is the run's newest error; empty if it has none.
func LastError(r store.Run) string {
	if len(r.Errors) == 0 {
		return ""
	}
	return r.Errors[len(r.Errors)-1].Error
}
