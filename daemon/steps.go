package daemon

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// maxCallBytes is how much of step calls and results may wait to be recorded
// before the runs of further calls are released.
const maxCallBytes = 256 << 20

// entry waits to be recorded: a job's result, or steps of a run that goes on.
type entry struct {
	job  *job
	call *call // nil is the job's result
}

// call is a handler's step call.
type call struct {
	number  uint64
	outcome store.Outcome
	off     bool // put off, and counted in job.off; guarded by the queue's lock
}

func (e entry) outcome() *store.Outcome {
	if e.call != nil {
		return &e.call.outcome
	}
	return &e.job.outcome
}

// reply answers the call.
func (e entry) reply(r *handlerpb.StepReply) host.Reply {
	r.Number = e.call.number
	return host.Reply{Ref: e.job.ref(), StepReply: r}
}

// Steps is called with step calls of runs, by a handler of this version.
func (q *queue) Steps(version string, calls []*handlerpb.StepCall) {
	slab := make([]call, len(calls))
	var refused []host.Reply
	refuse := func(c *handlerpb.StepCall, r *handlerpb.StepReply) {
		r.Number = c.GetNumber()
		refused = append(refused, host.Reply{Ref: host.Ref{ID: c.GetId(), Claim: c.GetClaim()}, StepReply: r})
	}
	for i, c := range calls {
		steps, at, err := q.steps(c.GetSteps())
		if err != nil {
			refuse(c, &handlerpb.StepReply{Error: err.Error(), Refused: uint32(at + 1)})
			continue
		}
		slab[i] = call{number: c.GetNumber(), outcome: store.Outcome{Kind: store.OutcomeStep, Steps: steps, Version: version}}
	}
	q.mu.Lock()
	for i, c := range calls {
		p := &slab[i]
		if p.outcome.Kind == "" {
			continue // refused
		}
		j := q.jobs[host.Ref{ID: c.GetId(), Claim: c.GetClaim()}]
		size := outcomeBytes(&p.outcome)
		switch {
		case j == nil: // it lost its lease: whatever it did is not recorded
			refuse(c, &handlerpb.StepReply{Halt: host.HaltRelease})
		case q.bytes+size > maxCallBytes && q.bytes > 0:
			// The run carries on from here once there is room; until then none is leased.
			refuse(c, &handlerpb.StepReply{Halt: host.HaltRelease})
		default:
			if at, why := j.carry(p.outcome.Steps); why != "" {
				refuse(c, &handlerpb.StepReply{Error: why, Refused: uint32(at + 1)})
				break
			}
			p.outcome.Lease = j.lease
			q.results = append(q.results, entry{j, p})
			q.bytes += size
		}
	}
	q.counted()
	q.mu.Unlock()
	q.lane.Reply(refused)
	q.record.raise()
}

// steps are a handler's steps in the store's words. The error is about the step
// at an index.
func (q *queue) steps(in []*handlerpb.Step) (out []store.StepResult, at int, err error) {
	if len(in) == 0 {
		return nil, 0, nil
	}
	out = make([]store.StepResult, len(in))
	for i, s := range in {
		if err := q.step(&out[i], s); err != nil {
			return nil, i, err
		}
	}
	return out, 0, nil
}

func (q *queue) step(r *store.StepResult, s *handlerpb.Step) error {
	r.StepKey = store.StepKey{Name: s.GetName(), Occurrence: int(s.GetOccurrence())}
	r.Kind, r.Position, r.Tries = store.StepKind(s.GetKind()), int(s.GetPosition()), int(s.GetTries())
	r.Output, r.Error, r.Topic = s.GetOutput(), s.GetError(), s.GetTopic()
	r.Took = time.Duration(min(max(0, s.GetTookUs()), int64(1<<63-1)/1000)) * time.Microsecond
	switch s.GetState() {
	case handlerpb.StepState_STEP_STATE_UNSPECIFIED, handlerpb.StepState_STEP_STATE_SUCCEEDED:
		r.State = store.StepSucceeded
	case handlerpb.StepState_STEP_STATE_FAILED:
		r.State = store.StepFailed
	case handlerpb.StepState_STEP_STATE_WAITING:
		r.State, r.Delay = store.StepWaiting, -1
		if s.DelayMs != nil && s.GetDelayMs() >= 0 {
			r.Delay = millis(s.GetDelayMs())
		}
	default:
		return fmt.Errorf("its state %d is unknown", s.GetState())
	}
	return q.stepKind(r, s)
}

// stepKind fills in what only some kinds of steps have.
func (q *queue) stepKind(r *store.StepResult, s *handlerpb.Step) error {
	child := s.GetChild()
	if child != nil && r.Kind != store.StepChild {
		return fmt.Errorf("it starts a run, but is of kind %q, not %q", r.Kind, store.StepChild)
	}
	switch r.Kind {
	case "":
		r.Kind = store.StepBody
	case store.StepBody, store.StepSleep, store.StepEvent:
	case store.StepSignal:
		r.Signal = s.GetSignal()
	case store.StepSend:
		// The payload is kept with the signal.
		r.Output = nil
		if r.State == store.StepFailed {
			return nil // it was refused
		}
		r.Send = &store.NewSignal{Run: s.GetRun(), Topic: s.GetTopic(), Payload: s.GetOutput(), Key: s.GetKey()}
		if len(r.Send.Payload) > 0 {
			if err := q.d.cfg.Validator.Validate(r.Send.Payload); err != nil {
				return fmt.Errorf("the signal to run %d cannot be sent: %w", r.Send.Run, mended(err))
			}
		}
	case store.StepChild:
		if child == nil {
			return nil
		}
		if len(child.GetPayload()) > 0 {
			if err := q.d.cfg.Validator.Validate(child.GetPayload()); err != nil {
				return fmt.Errorf("workflow %q cannot be started with its input: %w", child.GetQueue(), mended(err))
			}
		}
		r.Child = &store.NewRun{Workflow: child.GetQueue(), Input: child.GetPayload(), Delay: millis(child.GetDelayMs()), Headers: child.GetHeaders()}
	default:
		return fmt.Errorf("its kind %q is unknown", shorten(string(r.Kind), 64))
	}
	return nil
}

// recordedCall takes the store's answer for a step call, and fills in the
// reply. It wants the lock.
func (q *queue) recordedCall(t *tally, e entry, answer store.Settled, r *handlerpb.StepReply) {
	o := &e.call.outcome
	q.bytes -= outcomeBytes(o)
	switch {
	case answer.Err == nil:
		t.steps += len(o.Steps)
		t.touch(o)
		r.Halt = string(answer.Halt)
		// When the daemon stops, another one carries the run on from here.
		if r.Halt == "" && q.d.stopping.Load() {
			r.Halt = host.HaltRelease
		}
	case errors.Is(answer.Err, store.ErrLeaseLost):
		r.Halt = host.HaltRelease
	default:
		r.Error = "the step cannot be recorded: " + answer.Err.Error()
		r.Refused = uint32(atFault(o.Steps) + 1)
	}
	t.replies = append(t.replies, e.reply(r))
}

// lostCall answers a call whose run's lease was lost while it waited. It wants the lock.
func (q *queue) lostCall(e entry) host.Reply {
	q.bytes -= outcomeBytes(&e.call.outcome)
	return e.reply(&handlerpb.StepReply{Halt: host.HaltRelease})
}
