package handlers

import (
	"context"
	"fmt"
	"reflect"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// SendOption says more about a signal.
type SendOption func(*handlerpb.Step)

// SendKey makes sending idempotent for others than this step: of the signals to
// one run with the same key the first is kept.
func SendKey(key string) SendOption { return func(s *handlerpb.Step) { s.Key = key } }

// Send sends a signal to another run, as a step called name, in the transaction
// that records the step: once, whatever crashes. payload is encoded as JSON;
// json.RawMessage and []byte are that already. To a run that has ended or never
// was nothing is sent: the step is shown as failed in the run's timeline, but the
// run carries on.
//
// When the payload breaks a rule for payloads, such as that of their size, the
// step has failed, and the error is a [*StepError]. Others are that the payload
// cannot be encoded, the topic or the key is invalid, and that ctx is not a
// workflow's.
func Send(ctx context.Context, name string, run int64, topic string, payload any, opts ...SendOption) error {
	p, err := come(ctx, kindSend, name)
	if err != nil {
		return err
	}
	defer p.leave()
	if p.record != nil {
		return p.refusal(p.record)
	}
	fail := func(err error) error {
		return unusable{fmt.Errorf("send signal %q to run %d in step %s: %w", topic, run, p.name, err)}
	}
	if err := checkName("topic", topic); err != nil {
		return fail(err)
	}
	s := p.step(handlerpb.StepState_STEP_STATE_SUCCEEDED)
	s.Run, s.Topic = run, topic
	if s.Output, err = encodePayload(payload); err != nil {
		return fail(err)
	}
	for _, opt := range opts {
		opt(s)
	}
	if s.Key != "" {
		if err := checkKey(s.Key); err != nil {
			return fail(err)
		}
	}
	limit(s, "the signal's payload", s.Output)
	p.branch.flow.record(p.branch, s)
	return p.refusal(s)
}

// SetEvent publishes value under a name for those outside who watch the run, as
// a step of that name. Publishing under it again replaces the value. The value
// is encoded as JSON.
//
// When the value is larger than 16 MiB, or than the run has room for, the step
// has failed, and the error is a [*StepError]. Others are that the value cannot be
// encoded, and that ctx is not a workflow's.
func SetEvent(ctx context.Context, name string, value any) error {
	p, err := come(ctx, kindEvent, name)
	if err != nil {
		return err
	}
	defer p.leave()
	if p.record != nil {
		return p.refusal(p.record)
	}
	s := p.step(handlerpb.StepState_STEP_STATE_SUCCEEDED)
	s.Topic = name
	if s.Output, err = encodePayload(value); err != nil {
		return unusable{fmt.Errorf("set event %s: %w", name, err)}
	}
	limit(s, "the event's value", s.Output)
	p.branch.flow.record(p.branch, s)
	return p.refusal(s)
}

// Child starts a run of another workflow, as a step called name, in the
// transaction that records the step, and waits for its result without holding
// a process, a slot or a lease. input is encoded as JSON; json.RawMessage and
// []byte are that already. Delay and Headers may be given, a Priority may not.
//
// When the child has failed or was cancelled, or its input breaks a rule for
// payloads, such as that of their size, the error is a [*StepError]. Others are that the input cannot be encoded, workflow or an option is invalid, the
// child's output cannot be decoded into Out, and that ctx is not a workflow's.
func Child[Out any](ctx context.Context, name, workflow string, input any, opts ...EnqueueOption) (Out, error) {
	var out Out
	p, err := come(ctx, kindChild, name)
	if err != nil {
		return out, err
	}
	defer p.leave()
	if err := p.child(workflow, input, opts); err != nil {
		return out, unusable{fmt.Errorf("start workflow %s in step %s: %w", workflow, p.name, err)}
	}
	if p.record.State == handlerpb.StepState_STEP_STATE_FAILED {
		return out, p.failed(p.record)
	}
	out, err = decodeOutput[Out](p.record.Output)
	if err != nil {
		err = unusable{fmt.Errorf("decode the output of workflow %s into %s in step %s: %w", workflow, reflect.TypeFor[Out](), p.name, err)}
	}
	return out, err
}

// child returns when the child has ended.
func (p *place) child(workflow string, input any, opts []EnqueueOption) error {
	w := wait{kind: kindChild, what: p.name}
	switch {
	case p.waits():
	case p.record != nil:
		return nil
	default:
		msg, err := newMessage(workflow, input, opts)
		if err != nil {
			return err
		}
		if msg.Priority != 0 {
			return fmt.Errorf("a run has no priority, %d was given", msg.Priority)
		}
		w.step = p.step(handlerpb.StepState_STEP_STATE_WAITING)
		w.step.Child = msg
		if limit(w.step, "the input", msg.Payload); w.step.Child == nil {
			p.branch.flow.record(p.branch, w.step)
			p.record = w.step
			return nil
		}
	}
	p.branch.park(w) // returns only if the child cannot be: another lease brings its result
	p.record = w.step
	return nil
}

// checkKey holds the rule for keys of signals.
func checkKey(key string) error {
	if len(key) > maxFullName || clean(key) != key {
		return fmt.Errorf("the key must be UTF-8 of at most %d bytes", maxFullName)
	}
	return nil
}
