package handlertest

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// The outcomes that only runs of workflows have.
const (
	// Wait says that the run waits, as Result.Wait says.
	Wait      Outcome = "wait"
	Cancelled Outcome = "cancelled"
	// Killed says that the process was lost, as KillBefore and KillAfter ask for.
	Killed Outcome = "killed"
)

// Waiting is what a run waits for.
type Waiting struct {
	// Kind is "sleep", "signal", "child", "retry" or "pause".
	Kind string
	// For is the step's name, or the topic.
	For string
	// Delay is how long; negative is until something comes to the run.
	Delay time.Duration
}

// Workflow is a run of a workflow in a test, with what a daemon would keep of it
// in its database: the recorded steps, signals, children and events. Its clock
// stands still but for Pass and Finish. One goroutine uses it.
type Workflow struct {
	t       testing.TB
	server  *handlers.Server
	job     *handlerpb.Job
	kept    []*kept
	signals []*handlerpb.Signal
	now     time.Duration
	// Of the next lease.
	killBefore, killAfter string
	halt                  string
	ended                 bool
	failed                *handlerpb.Result // how it has failed
}

// kept is a recorded step.
type kept struct {
	*handlerpb.Step
	due time.Duration // when it is done waiting; negative is never
}

// Step is a recorded step of a run.
type Step struct {
	Name       string
	Occurrence int
	// Kind is "step", "sleep", "signal", "send", "child" or "event".
	Kind string
	// State is "waiting", "succeeded" or "failed".
	State  string
	Tries  int
	Output json.RawMessage
	Error  string
	// Topic is a signal's, of the kinds "signal" and "send".
	Topic string
	// To is the run that a signal was sent to.
	To int64
	// Workflow and Input are what a step of kind "child" started.
	Workflow string
	Input    json.RawMessage
}

// NewWorkflow makes a run of h, which is to be made by handlers.Workflow, with
// an input that is encoded as JSON. Nothing of it has run yet.
func NewWorkflow(t testing.TB, h handlers.Handler, input any, options ...Option) *Workflow {
	t.Helper()
	r := newRun(t, h, input, options)
	return &Workflow{t: t, server: r.server, job: r.job}
}

// Change replaces the code, as a deploy does.
func (w *Workflow) Change(h handlers.Handler) {
	w.t.Helper()
	server, err := handlers.NewServer(h)
	if err != nil {
		w.t.Fatal(err)
	}
	if h.Queue() != w.job.Queue {
		w.t.Fatalf("the run is of workflow %s, not of %s", w.job.Queue, h.Queue())
	}
	w.server = server
}

// Signal sends the run a signal. The payload is encoded as JSON.
func (w *Workflow) Signal(topic string, payload any) {
	w.t.Helper()
	w.job.News++
	w.signals = append(w.signals, &handlerpb.Signal{Id: w.job.News, Topic: topic, Payload: encode(w.t, payload)})
}

// EndChild ends the child that the step called name started: as done with an
// output, which is encoded as JSON, or as failed with a reason if that is not empty.
func (w *Workflow) EndChild(name string, output any, reason string) {
	w.t.Helper()
	for _, k := range w.kept {
		if k.Name != name || k.Child == nil || k.State != waiting {
			continue
		}
		w.job.News++
		k.State = handlerpb.StepState_STEP_STATE_SUCCEEDED
		if reason != "" {
			k.State, k.Error = handlerpb.StepState_STEP_STATE_FAILED, reason
		} else {
			k.Output = encode(w.t, output)
		}
		return
	}
	w.t.Fatalf("the run has no child %s that has not ended", name)
}

// Pass lets time pass for what the run waits for.
func (w *Workflow) Pass(d time.Duration) { w.now += d }

// KillBefore loses the process of the next lease when it comes to have the step
// called name recorded, which is not; KillAfter when that is recorded. As after a
// SIGKILL nothing that the handler does from then on is of any account.
func (w *Workflow) KillBefore(name string) { w.killBefore = name }

// KillAfter is described with KillBefore.
func (w *Workflow) KillAfter(name string) { w.killAfter = name }

// Cancel cancels the run: it stops when its next step is recorded.
func (w *Workflow) Cancel() { w.halt = "cancel" }

// Steps returns what is recorded, in the order of recording.
func (w *Workflow) Steps() []Step {
	steps := make([]Step, len(w.kept))
	for i, k := range w.kept {
		steps[i] = Step{
			Name: k.Name, Occurrence: int(k.Occurrence), Kind: k.Kind, State: states[k.State],
			Tries: int(max(k.Tries, 1)), Output: k.Output, Error: k.Error, Topic: k.Topic, To: k.Run,
			Workflow: k.Child.GetQueue(), Input: k.Child.GetPayload(),
		}
	}
	return steps
}

// Events returns what the run has published, by name.
func (w *Workflow) Events() map[string]json.RawMessage {
	events := make(map[string]json.RawMessage)
	for _, k := range w.kept {
		if k.Kind == "event" {
			events[k.Topic] = k.Output
		}
	}
	return events
}

// Finish runs the workflow until it has ended, or waits for something that only
// the test can bring: a signal or a child's end. It lets the time pass that sleeps,
// tries of steps and of the run itself and the time-outs of Receive take. It
// carries on after a kill.
func (w *Workflow) Finish() Result {
	w.t.Helper()
	const leases = 10_000
	for range leases {
		r := w.Lease()
		switch {
		case r.Outcome == Retry && w.job.Attempt < w.job.MaxAttempts:
			w.job.Attempt++
			w.now += r.Delay
		case r.Outcome == Killed, r.Outcome == Release, r.Outcome == Snooze:
		case r.Outcome == Wait && w.wait(r.Wait):
		default:
			return r
		}
	}
	w.t.Fatalf("the run has not ended after %d leases", leases)
	return Result{}
}

// wait lets time pass until the first step that waits is due, and says whether
// there is one.
func (w *Workflow) wait(what *Waiting) bool {
	if what.Delay < 0 {
		return false
	}
	first := time.Duration(-1)
	for _, k := range w.kept {
		if k.State == waiting && k.due >= 0 && (first < 0 || k.due < first) {
			first = k.due
		}
	}
	w.now = max(w.now, first)
	return true
}

// Lease runs the workflow's function once, from its start, until it ends, waits
// or is killed, and returns what came of it. Messages, logs and progress are of
// this lease alone.
func (w *Workflow) Lease() Result {
	w.t.Helper()
	if w.ended {
		w.t.Fatal("the run has ended")
	}
	job := proto.CloneOf(w.job)
	job.Claim++
	w.job.Claim = job.Claim
	job.Signals = w.signals
	for _, k := range w.kept {
		job.Steps = append(job.Steps, k.leased(w.now))
	}
	r := &run{server: w.server, job: job, call: w.record}
	result, last := r.do(w.t)
	w.killBefore, w.killAfter = "", ""
	if r.killed {
		result.Outcome = Killed
		return result
	}
	for _, s := range last.Steps {
		w.keep(s)
	}
	w.ended = result.Outcome == Done || result.Outcome == Discard || result.Outcome == Cancelled
	if result.Outcome == Discard {
		w.failed = last
	}
	return result
}

// record answers a StepCall, or says that the process is to be lost.
func (w *Workflow) record(c *handlerpb.StepCall) (reply *handlerpb.StepReply, kill bool) {
	for _, s := range c.Steps {
		if s.Name == w.killBefore {
			return nil, true
		}
	}
	for _, s := range c.Steps {
		w.keep(s)
		kill = kill || s.Name == w.killAfter
	}
	return &handlerpb.StepReply{Number: c.Number, Halt: w.halt}, kill
}

const waiting = handlerpb.StepState_STEP_STATE_WAITING

var states = map[handlerpb.StepState]string{
	waiting:                                  "waiting",
	handlerpb.StepState_STEP_STATE_SUCCEEDED: "succeeded",
	handlerpb.StepState_STEP_STATE_FAILED:    "failed",
}

// keep records a step, unless its result is there.
func (w *Workflow) keep(s *handlerpb.Step) {
	k := &kept{Step: s, due: -1}
	if s.State == waiting && s.DelayMs != nil {
		k.due = w.now + milliseconds(*s.DelayMs)
	}
	if s.Signal != 0 {
		w.taken(s.Signal)
	}
	for i, old := range w.kept {
		if old.Name == s.Name && old.Occurrence == s.Occurrence {
			if old.State == waiting {
				w.kept[i] = k
			}
			return
		}
	}
	w.kept = append(w.kept, k)
}

// taken removes a signal.
func (w *Workflow) taken(id int64) {
	for i, s := range w.signals {
		if s.Id == id {
			w.signals = append(w.signals[:i:i], w.signals[i+1:]...)
			return
		}
	}
	w.t.Errorf("signal %d was taken twice", id)
}

// leased is the step as a job carries it.
func (k *kept) leased(now time.Duration) *handlerpb.Step {
	s := proto.CloneOf(k.Step)
	s.Child, s.DelayMs = nil, nil
	if k.due >= 0 {
		left := max(k.due-now, 0).Milliseconds()
		s.DelayMs = &left
	}
	return s
}
