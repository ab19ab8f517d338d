package daemon

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// minSnooze keeps a handler that snoozes for no time from running the same
// message over and over as fast as it can.
const minSnooze = 100 * time.Millisecond

// outcome is what to record for a handler's result. It wants the lock.
func (q *queue) outcome(j *job, r *host.Result) store.Outcome {
	o := store.Outcome{Lease: j.lease}
	switch r.GetOutcome() {
	case handlerpb.Outcome_OUTCOME_DONE:
		o.Kind, o.Output = store.OutcomeDone, r.GetOutput()
		// A run stays, with its steps: its parent and its starter ask for it.
		if q.cfg.Retain == RetainDelete && q.kind != store.WorkflowQueue {
			o.Kind, o.Output = store.OutcomeDelete, nil
		}
	case handlerpb.Outcome_OUTCOME_RETRY:
		o = q.retryOutcome(j, r.GetError())
		if r.DelayMs != nil {
			o.Delay = millis(r.GetDelayMs())
		}
	case handlerpb.Outcome_OUTCOME_SNOOZE:
		if r.DelayMs == nil {
			return q.retryOutcome(j, "the handler snoozed without saying for how long")
		}
		o.Kind, o.Delay = store.OutcomeSnooze, max(minSnooze, millis(r.GetDelayMs()))
	case handlerpb.Outcome_OUTCOME_DISCARD:
		o.Kind, o.Error, o.Failed = store.OutcomeDiscard, r.GetError(), places(r.GetFailed())
	case handlerpb.Outcome_OUTCOME_RELEASE:
		o.Kind = store.OutcomeRelease
		return o
	case handlerpb.Outcome_OUTCOME_WAIT:
		wait, err := q.wait(j, r.GetWait())
		if err != nil {
			return q.retryOutcome(j, err.Error())
		}
		o.Kind, o.Wait = store.OutcomeWait, wait
	case handlerpb.Outcome_OUTCOME_CANCEL:
		o.Kind = store.OutcomeCancel
	default:
		return q.retryOutcome(j, fmt.Sprintf("the handler answered with an unknown outcome (%d)", r.GetOutcome()))
	}
	if o.Kind == store.OutcomeRetry && q.d.killing.Load() {
		// It failed because the daemon stops. That is not the job's fault.
		return store.Outcome{Lease: j.lease, Kind: store.OutcomeRelease}
	}
	o.Version = r.Version
	var err error
	if o.Enqueue, err = q.followUps(r.GetEnqueue()); err == nil {
		err = q.lastSteps(&o, r.GetSteps())
	}
	if err != nil {
		return store.Outcome{Lease: j.lease, Kind: store.OutcomeDiscard, Error: err.Error()}
	}
	return o
}

// retryOutcome is a failed attempt with the queue's backoff. It wants the lock.
func (q *queue) retryOutcome(j *job, reason string) store.Outcome {
	return store.Outcome{
		Lease: j.lease, Kind: store.OutcomeRetry, Error: reason, Delay: q.cfg.Backoff.delay(j.attempt),
	}
}

func millis(ms int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(max(0, ms), most)) * time.Millisecond
}

// followUps are the messages that a result enqueues.
func (q *queue) followUps(in []*handlerpb.Enqueue) ([]store.NewMessage, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]store.NewMessage, len(in))
	for i, m := range in {
		if err := q.d.cfg.Validator.Validate(m.GetPayload()); err != nil {
			return nil, fmt.Errorf("the handler's follow-up message for queue %q cannot be enqueued: %w", m.GetQueue(), err)
		}
		out[i] = store.NewMessage{
			Queue: m.GetQueue(), Payload: m.GetPayload(), Delay: millis(m.GetDelayMs()),
			Priority: int(m.GetPriority()), Headers: m.GetHeaders(),
		}
	}
	return out, nil
}

// places are where a run's failure begins, in the store's words. One that no
// step can have is left out.
func places(in []*handlerpb.Place) []store.Place {
	var out []store.Place
	for _, p := range in {
		at := store.Place{Branch: p.GetBranch(), Position: int(p.GetPosition())}
		if store.ValidatePlace(at) == nil {
			out = append(out, at)
		}
	}
	return out
}

// outcomeBytes is about how much memory an outcome holds.
func outcomeBytes(o *store.Outcome) int {
	n := len(o.Output) + len(o.Error)
	for i := range o.Enqueue {
		n += len(o.Enqueue[i].Payload)
	}
	for i := range o.Steps {
		n += stepBytes(&o.Steps[i])
	}
	for i := range o.Failed {
		n += placeBytes + len(o.Failed[i].Branch)
	}
	return n
}

// placeBytes is about how much memory a place holds beside its branch.
const placeBytes = 24

// stepCost is what a step takes besides its texts: its entry, its reply, its share
// of a call.
const stepCost = 512

func stepBytes(s *store.StepResult) int {
	n := stepCost + len(s.Name) + len(s.Topic) + len(s.Output) + len(s.Error)
	if s.Child != nil {
		n += len(s.Child.Input)
	}
	if s.Send != nil {
		n += len(s.Send.Payload)
	}
	return n
}
