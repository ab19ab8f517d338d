package handlers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// StepOption says more about a step. Given twice, the last counts.
type StepOption struct {
	tries      int
	first, max time.Duration
	timeout    time.Duration
}

// Tries is how often a step's body is tried before the step has failed; the
// default is 1. Between two tries the run waits without holding a process, a
// slot or a lease, and no attempt of the run is counted.
func Tries(n int) StepOption { return StepOption{tries: max(n, 1)} }

// Backoff is how long a step waits for its second try, and how long for any:
// the time doubles with each try, and varies by a fifth. The default is 1 second
// and 1 minute.
func Backoff(first, most time.Duration) StepOption {
	first = min(max(first, 1), maxBackoff)
	return StepOption{first: first, max: min(max(first, most), maxBackoff)}
}

// StepTimeout is how long one try of a step may take: its ctx ends then, and the
// error that the body returns is recorded as "timed out after". A body that does
// not heed its ctx goes on, which a line of the run's log says, until the run's
// own timeout. That is the default.
func StepTimeout(d time.Duration) StepOption { return StepOption{timeout: max(d, 1)} }

// maxBackoff keeps the arithmetic from overflowing.
const maxBackoff = 10 * 365 * 24 * time.Hour

func policyOf(opts []StepOption) StepOption {
	p := StepOption{tries: 1, first: time.Second, max: time.Minute}
	for _, o := range opts {
		if o.tries > 0 {
			p.tries = o.tries
		}
		if o.first > 0 {
			p.first, p.max = o.first, o.max
		}
		if o.timeout > 0 {
			p.timeout = o.timeout
		}
	}
	return p
}

// delay is how long to wait after so many tries.
func (p StepOption) delay(tries int) time.Duration {
	d := p.first
	for ; tries > 1 && d < p.max; tries-- {
		d = min(2*d, p.max)
	}
	return d - d/10 + rand.N(d/5+1)
}

// StepError is a step's recorded failure. A run whose function returns it, or
// an error that wraps it, has failed; a retry of the run runs the step again,
// and what the function did because of its failure.
type StepError struct {
	// Name is the step's, with its branches before it.
	Name string
	// Occurrence counts the uses of the name, from 0.
	Occurrence int
	// Reason is the text of the error, which is all that is kept of it.
	Reason string
	is     error
	at     place
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %s failed: %s", stepText(e.Name, e.Occurrence), e.Reason)
}

// Unwrap returns [ErrTimeout] for a Receive that timed out, else nil.
func (e *StepError) Unwrap() error { return e.is }

func (p place) failed(s *handlerpb.Step) *StepError {
	e := &StepError{Name: p.name, Occurrence: int(p.occurrence), Reason: s.Error, at: p}
	if p.kind == kindSignal {
		e.is = ErrTimeout
	}
	return e
}

// Step does body as the step called name of a workflow, and returns its result
// once that is recorded. From then on body does not run again: the step returns
// the recorded result, also in another process after a crash. Until then it may
// run more than once; StepKey tells the outside that it is the same step.
//
// A name may be used again, as in a loop: the uses are counted. It is at most
// 200 bytes of UTF-8 without "/". body's ctx is not to be used for further steps.
//
// What body returns is encoded as JSON, and what Step returns is decoded from
// it, at first as in a replay. An error of body is the step's failure once its
// [Tries], by default one, are used up, or at once when it is a [Discard]: that
// is recorded too, and Step returns a [*StepError] with its text. [Retry] sets
// the delay of the next try. An error that body returns after its run was
// cancelled or timed out is not recorded: the step runs again with the next
// lease. Neither is a panic, which fails the run's attempt. Output may be 16 MiB
// long; more is a failure of the step.
//
// Other errors are that ctx is not a workflow's.
func Step[T any](ctx context.Context, name string, body func(ctx context.Context) (T, error), opts ...StepOption) (T, error) {
	encoded := func(ctx context.Context) ([]byte, error) {
		out, err := body(ctx)
		if err != nil {
			return nil, err
		}
		return encodeOutput(out)
	}
	return doStep[T](ctx, name, opts, func(s *liveStep) { s.conclude(s.try(encoded)) })
}

// doStep comes by a step. try does it once, and leaves what became of it in the
// live step's record, unless it is recorded already.
func doStep[T any](ctx context.Context, name string, opts []StepOption, try func(*liveStep)) (T, error) {
	var out T
	p, err := come(ctx, kindStep, name)
	if err != nil {
		return out, err
	}
	defer p.leave()
	record := p.record
	if record == nil || p.waits() {
		s := p.begin(ctx, policyOf(opts))
		for s.next() {
			try(s)
		}
		record = s.record
	}
	if record.State == handlerpb.StepState_STEP_STATE_FAILED {
		return out, p.failed(record)
	}
	out, err = decodeOutput[T](record.Output)
	if err != nil {
		// The function must not take this for the step's failure.
		p.branch.flow.discard(fmt.Errorf("decode the recorded output of step %s into %s: %w", stepText(p.name, int(p.occurrence)), reflect.TypeFor[T](), err))
	}
	return out, nil
}

// decodeOutput undoes encodeOutput.
func decodeOutput[T any](output []byte) (T, error) {
	if len(output) == 0 {
		var none T
		return none, nil
	}
	return decodeJSON[T](output)
}

// liveStep is a step whose body runs. It is the context that the body gets.
type liveStep struct {
	context.Context
	place
	policy StepOption
	tries  int
	began  time.Time
	shown  bool // as progress; guarded by the flow's lock
}

// Value implements context.Context.
func (s *liveStep) Value(key any) any {
	if _, ok := key.(branchKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// StepKey returns "run/step/occurrence" inside a step's body, the same in each
// try and after each crash: the idempotency key to give to the outside. It is
// empty elsewhere.
func StepKey(ctx context.Context) string {
	s, ok := ctx.Value(branchKey{}).(*liveStep)
	if !ok {
		return ""
	}
	return strconv.FormatInt(s.branch.flow.job.msg.Id, 10) + "/" + s.name + "/" + strconv.FormatUint(uint64(s.occurrence), 10)
}

func (p place) begin(ctx context.Context, policy StepOption) *liveStep {
	s := &liveStep{Context: ctx, place: p, policy: policy}
	if p.record != nil {
		s.tries = int(max(p.record.Tries, 1))
	}
	return s
}

// next waits until the next try is due, and says whether there is one.
func (s *liveStep) next() bool {
	switch {
	case s.record == nil:
	case !s.waits():
		return false
	default:
		s.branch.park(wait{kind: "retry", what: s.name, alone: true, until: s.branch.flow.due(s.record.DelayMs)})
	}
	s.began = time.Now()
	return true
}

// try runs the body once. A panic is an error of its own.
func (s *liveStep) try(body func(context.Context) ([]byte, error)) (output []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			output, err = nil, &panicError{v, panicStack()}
		}
	}()
	s.branch.watch(s)
	defer s.branch.unwatch(s)
	if s.policy.timeout > 0 {
		return s.tryInTime(body)
	}
	return body(s)
}

// conclude records what became of a try, or ends the branch when that is not to
// be recorded.
func (s *liveStep) conclude(output []byte, err error) {
	f := s.branch.flow
	if panicky, ok := err.(*panicError); ok { //nolint:errorlint // try's own, not one that the body passed on
		f.crash(panicky)
		runtime.Goexit()
	}
	if err == nil && len(output) > maxOutputBytes {
		err = Discard(fmt.Errorf("the output is %d bytes long, the limit is %d", len(output), maxOutputBytes))
	}
	if err != nil {
		s.checkHost(err)
	}
	if errors.As(err, new(*unrecordedError)) {
		f.fail(err)
	}
	s.tries++
	record, delay := s.judge(output, err)
	record.Tries = uint32(s.tries)
	record.TookUs = time.Since(s.began).Microseconds()
	if delay > 0 {
		record.DelayMs = milliseconds(delay)
		s.branch.park(wait{kind: "retry", what: s.name, alone: true, until: time.Now().Add(delay), step: record})
		// Its time has come: next must not wait again.
		s.record = nil
		return
	}
	f.record(s.branch, record)
	s.record = record
}

// checkHost ends the branch when the host has ended the body, whose error then
// tells nothing of the step.
func (s *liveStep) checkHost(err error) {
	f := s.branch.flow
	why := f.job.over()
	if why == nil {
		return
	}
	v := verdict{outcome: handlerpb.Outcome_OUTCOME_RELEASE}
	if errors.As(why, new(*timeoutError)) {
		v = verdict{err: err}
	}
	f.stop(v)
	runtime.Goexit()
}

// judge says what a try has made of the step, and how long to wait for the next.
func (s *liveStep) judge(output []byte, err error) (*handlerpb.Step, time.Duration) {
	if err == nil {
		record := s.step(handlerpb.StepState_STEP_STATE_SUCCEEDED)
		record.Output = output
		return record, 0
	}
	var (
		discard *discardError
		broken  unusable
		retry   *retryError
	)
	reason := strings.ReplaceAll(clean(err.Error()), "\x00", "\uFFFD")
	if s.tries >= s.policy.tries || errors.As(err, &discard) || errors.As(err, &broken) {
		record := s.step(handlerpb.StepState_STEP_STATE_FAILED)
		record.Error = reason
		return record, 0
	}
	record := s.step(handlerpb.StepState_STEP_STATE_WAITING)
	record.Error = reason
	record.DelayMs = new(int64)
	if errors.As(err, &retry) && retry.after >= 0 {
		return record, retry.after
	}
	return record, s.policy.delay(s.tries)
}
