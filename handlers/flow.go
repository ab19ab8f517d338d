package handlers

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// flow is a run while this process has its lease: what is recorded of it, what
// of it moves, and how it has to end.
//
// It ends in one of two ways: the function returns, or a verdict is passed. From
// then on every branch ends its goroutine when it next comes by a step, so that
// deferred functions run, and nothing that the function does can hold it up.
type flow struct {
	job  *job
	root branch

	mu sync.Mutex
	// branches holds what is recorded of branches that have not begun, by prefix.
	branches map[string][]*handlerpb.Step
	// active counts the branches that move: those that neither wait nor have ended.
	active int
	parked []*branch // those that wait
	// over holds sleeps that are over and go with the next thing recorded.
	over    []*handlerpb.Step
	signals []*handlerpb.Signal // that no step has taken
	shown   []*liveStep         // that progress tells of, oldest first
	verdict *verdict
	// panicked is a panic or a Goexit of the author's, which comes before the verdict.
	panicked error
	ended    bool
}

// verdict is how a run ends that does not return.
type verdict struct {
	// outcome is OUTCOME_WAIT, _RELEASE or _CANCEL; unspecified is that the
	// attempt failed with err.
	outcome handlerpb.Outcome
	err     error
	wait    *handlerpb.Wait
	steps   []*handlerpb.Step // that wait, and are recorded with the outcome
}

func newFlow(j *job) *flow {
	f := &flow{job: j, active: 1, signals: j.msg.Signals}
	f.root.flow = f
	f.root.Context = j
	f.load(j.msg.Steps)
	j.flow = f
	return f
}

// end is the root's end. The branches have gone when it returns.
func (f *flow) end(returned bool) {
	f.root.join(returned)
	f.mu.Lock()
	f.ended = true
	ran := returned && f.verdict == nil
	f.mu.Unlock()
	if ran {
		f.warn()
	}
}

// warn tells of recorded steps that the code did not come by, which it had
// before. It is too late for more: the function has returned.
func (f *flow) warn() {
	left := f.root.recorded
	for prefix, in := range f.branches {
		if prefix != "" {
			left = append(left[:len(left):len(left)], in...)
		}
	}
	if len(left) > 0 {
		Logger(f.job).Warn("the workflow ended without coming by all steps that are recorded of it: its code has changed, or depends on something that is no step",
			"steps", len(left), "first", left[0].Name)
	}
}

// stop passes a verdict, unless there is one. The caller then unwinds.
func (f *flow) stop(v verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass(v)
}

// pass is stop. The lock is held.
func (f *flow) pass(v verdict) {
	if f.verdict != nil {
		return
	}
	f.verdict = &v
	for _, b := range f.parked {
		b.unpark()
	}
	f.parked = nil
}

// fail ends the attempt with err and unwinds the branch.
func (f *flow) fail(err error) {
	f.stop(verdict{err: err})
	runtime.Goexit()
}

// discard ends the run with err, which trying again would not mend, and
// unwinds the branch.
func (f *flow) discard(err error) {
	f.fail(unusable{err})
}

// crash notes a panic or a Goexit in the author's code.
func (f *flow) crash(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panicked == nil {
		f.panicked = err
	}
	f.pass(verdict{err: err})
}

// gate is passed at every step. It ends the branch when the run must stop, and
// returns an error when the run is over. It leaves the lock held.
func (f *flow) gate() error {
	f.mu.Lock()
	if f.ended {
		f.mu.Unlock()
		return errEnded
	}
	if f.verdict == nil {
		f.checkHost()
	}
	if f.verdict != nil {
		f.mu.Unlock()
		runtime.Goexit()
	}
	return nil
}

// checkHost stops the run when the host wants it to. The lock is held.
func (f *flow) checkHost() {
	switch why := f.job.over(); {
	case why == nil:
		if f.job.lane.session.draining.Load() {
			f.pass(verdict{outcome: handlerpb.Outcome_OUTCOME_RELEASE})
		}
	case errors.As(why, new(*CancelledError)):
		f.pass(verdict{outcome: handlerpb.Outcome_OUTCOME_RELEASE})
	default:
		f.pass(verdict{err: errBoundary}) // which says "timed out" before it
	}
}

var errBoundary = errors.New("stopped before the next step")

// record has step recorded, with the sleeps that are over, and returns once it
// is on disk. It unwinds the branch when the run cannot go on, or must end before
// the host has answered: the call stays made, and the next lease finds the step
// if it was recorded.
func (f *flow) record(b *branch, step *handlerpb.Step) {
	msg := f.job.msg
	c := &call{job: f.job, replies: b.replyChannel()}
	c.pb.Id, c.pb.Claim = msg.Id, msg.Claim
	f.mu.Lock()
	c.pb.Steps = append(f.over, step)
	f.over = nil
	f.mu.Unlock()
	out := f.job.lane.session.out
	out.record(c)
	var reply *handlerpb.StepReply
	select {
	case reply = <-c.replies:
	case <-f.job.Done():
		if reply = out.lastReply(c); reply == nil {
			f.stop(f.unanswered(step))
			runtime.Goexit()
		}
	}
	if reply.Error != "" {
		if int(reply.Refused) == len(c.pb.Steps) && refuse(step, reply.Error) {
			f.again(c.pb.Steps[:len(c.pb.Steps)-1])
			f.record(b, step)
			return
		}
		f.fail(&recordError{step.Name, reply.Error})
	}
	f.heed(reply.Halt)
}

// heed ends the branch when the run must go no further.
func (f *flow) heed(halt string) {
	if halt != "" {
		f.stop(f.halted(halt))
		runtime.Goexit()
	}
}

// unanswered is the verdict for a call that was open when the job had to end.
func (f *flow) unanswered(step *handlerpb.Step) verdict {
	if errors.As(f.job.over(), new(*CancelledError)) {
		return verdict{outcome: handlerpb.Outcome_OUTCOME_RELEASE}
	}
	return verdict{err: &recordError{step.Name, "pgqrsd has not answered"}} // "timed out" comes before it
}

// recordError says that the host could not record a step.
type recordError struct{ step, reason string }

func (e *recordError) Error() string { return "record step " + e.step + ": " + e.reason }

// halted is the verdict for a halt of the host's.
func (f *flow) halted(halt string) verdict {
	switch halt {
	case "cancel":
		return verdict{outcome: handlerpb.Outcome_OUTCOME_CANCEL}
	case "pause":
		return verdict{
			outcome: handlerpb.Outcome_OUTCOME_WAIT,
			wait:    &handlerpb.Wait{Kind: "pause", DelayMs: -1, News: f.job.msg.News},
		}
	}
	return verdict{outcome: handlerpb.Outcome_OUTCOME_RELEASE}
}

// slept notes that a sleep is over.
func (f *flow) slept(step *handlerpb.Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = append(f.over, step)
}

// take takes the oldest signal of a topic, or returns nil.
func (f *flow) take(topic string) *handlerpb.Signal {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.signals {
		if s.GetTopic() == topic {
			f.signals = append(f.signals[:i:i], f.signals[i+1:]...)
			return s
		}
	}
	return nil
}

// settle fills in the result of a run that was stopped, or else returns the
// error that its attempt ended with. Only the root's goroutine is left.
func (f *flow) settle(r *handlerpb.Result, err error) (settled bool, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.verdict
	switch {
	case f.panicked != nil:
		return false, f.panicked
	case v == nil, errors.As(err, new(*panicError)):
		return false, err
	case v.outcome == handlerpb.Outcome_OUTCOME_UNSPECIFIED:
		return false, v.err
	}
	r.Outcome, r.Wait = v.outcome, v.wait
	if v.outcome != handlerpb.Outcome_OUTCOME_RELEASE {
		r.Steps = append(f.over, v.steps...)
	}
	return true, nil
}

// due is when something is over that had remaining milliseconds to go when the
// run was leased; zero is never.
func (f *flow) due(remaining *int64) time.Time {
	if remaining == nil {
		return time.Time{}
	}
	return f.job.started.Add(duration(*remaining))
}
