package handlers

import (
	"fmt"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// refuse makes a step that cannot be recorded as it is a failed one, which can
// be, so that the function may go on from it: what is too large once will be too
// large in every attempt. It reports false for steps that would not be the same
// by that: those that failed already, wait for a time, or take a signal.
func refuse(s *handlerpb.Step, reason string) bool {
	switch {
	case s.State == handlerpb.StepState_STEP_STATE_SUCCEEDED && s.Signal == 0:
	case s.State == handlerpb.StepState_STEP_STATE_WAITING && s.Child != nil:
	default:
		return false
	}
	s.State, s.Error = handlerpb.StepState_STEP_STATE_FAILED, clean(reason)
	s.Output, s.Child, s.DelayMs = nil, nil, nil
	if s.Kind == kindSend {
		s.Run, s.Topic, s.Key = 0, "", "" // it goes to nobody; see refusal
	}
	return true
}

// limit refuses a step with data for others that no call can carry.
func limit(s *handlerpb.Step, what string, data []byte) {
	if n := len(data); n > maxOutputBytes {
		refuse(s, fmt.Sprintf("%s is %d bytes long, the limit is %d; keep what is large elsewhere and tell where it is", what, n, maxOutputBytes))
	}
}

// refusal is the error of a recorded step that was refused. A send to a run that
// had ended is recorded as failed too, for people to see, but has its topic: to
// the function it was sent.
func (p place) refusal(s *handlerpb.Step) error {
	if s.State != handlerpb.StepState_STEP_STATE_FAILED || (p.kind == kindSend && s.Topic != "") {
		return nil
	}
	return p.failed(s)
}

// again keeps sleeps that are over for the next call, because the one that they
// went with was refused.
func (f *flow) again(over []*handlerpb.Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = append(over[:len(over):len(over)], f.over...)
}
