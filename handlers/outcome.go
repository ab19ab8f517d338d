package handlers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Limits of what one job may send. A job with more output is discarded, more
// follow-ups are refused, longer texts are cut.
const (
	maxOutputBytes = 16 << 20
	maxFollowBytes = 16 << 20
	maxTextBytes   = 64 << 10
)

type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

type discardError struct{ err error }

func (e *discardError) Error() string { return e.err.Error() }
func (e *discardError) Unwrap() error { return e.err }

type snoozeError struct{ after time.Duration }

func (e *snoozeError) Error() string { return "snoozed for " + e.after.String() }

// unusable is a payload or an output that trying again would not mend.
type unusable struct{ error }

func (e unusable) Unwrap() error { return e.error }

type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.value, e.stack) }

var errGoexit = errors.New("the handler ended its goroutine with runtime.Goexit instead of returning")

// Retry says that the attempt failed with err and is to be tried again after a
// delay; 0 is at once, negative is the queue's backoff, as for any other error.
// It counts as an attempt.
func Retry(err error, after time.Duration) error {
	if err == nil {
		err = errors.New("the handler asked for a retry")
	}
	return &retryError{err, after}
}

// Discard says that the job must not be tried again because of err. It goes to
// the dead letters.
func Discard(err error) error {
	if err == nil {
		err = errors.New("the handler discarded the job")
	}
	return &discardError{err}
}

// Snooze says that the job cannot be done now: it runs again after d. No
// attempt is counted, so that a job can snooze as often as it likes.
func Snooze(d time.Duration) error {
	return &snoozeError{max(d, 0)}
}

// CancelledError is the cause (see [context.Cause]) of a context that pgqrsd
// cancelled. It is a context.Canceled for errors.Is.
type CancelledError struct {
	// Reason is why, for people, such as "the daemon is stopping".
	Reason string
}

func (e *CancelledError) Error() string {
	return "the job was cancelled: " + e.Reason
}

// Is makes it a context.Canceled.
func (e *CancelledError) Is(target error) bool { return target == context.Canceled }

type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string        { return "timed out after " + e.after.String() }
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// settle fills in the job's result from what its code returned, or from how its
// run was stopped.
func (j *job) settle(output []byte, err error, elapsed time.Duration) {
	follow, cause := j.end()
	if j.flow == nil {
		j.judge(output, err, elapsed, follow, cause)
		return
	}
	stopped, err := j.flow.settle(&j.result, err)
	if stopped {
		return
	}
	j.judge(output, err, elapsed, follow, cause)
	if j.result.Outcome != handlerpb.Outcome_OUTCOME_RELEASE {
		j.result.Steps = j.flow.over
	}
}

// judge says what becomes of a job that came to its end.
func (j *job) judge(output []byte, err error, elapsed time.Duration, follow []*handlerpb.Enqueue, cause error) {
	r := &j.result
	if err == nil {
		if len(output) > maxOutputBytes {
			r.Outcome = handlerpb.Outcome_OUTCOME_DISCARD
			r.Error = fmt.Sprintf("the output is %d bytes long, the limit is %d", len(output), maxOutputBytes)
			return
		}
		r.Outcome, r.Output, r.Enqueue = handlerpb.Outcome_OUTCOME_DONE, output, follow
		return
	}
	timedOut := cause == nil && j.timeout > 0 && elapsed >= j.timeout
	var (
		snooze  *snoozeError
		discard *discardError
		retry   *retryError
		broken  unusable
		panicky *panicError
		failed  *StepError
	)
	text := err.Error()
	switch {
	case errors.As(err, &panicky):
		r.Outcome = handlerpb.Outcome_OUTCOME_RETRY
	case errors.As(err, &broken):
		r.Outcome = handlerpb.Outcome_OUTCOME_DISCARD
	case errors.As(err, &snooze):
		r.Outcome, r.DelayMs, r.Enqueue = handlerpb.Outcome_OUTCOME_SNOOZE, milliseconds(snooze.after), follow
		return
	case errors.As(err, &failed):
		r.Outcome, r.Enqueue = handlerpb.Outcome_OUTCOME_DISCARD, follow
		if j.flow != nil {
			r.Failed = j.flow.failedAt(err)
		}
	case errors.As(err, &discard) && (!interrupted(err) || (!timedOut && cause == nil)):
		r.Outcome, r.Enqueue = handlerpb.Outcome_OUTCOME_DISCARD, follow
	case cause != nil:
		r.Outcome = handlerpb.Outcome_OUTCOME_RELEASE
		return
	default:
		r.Outcome = handlerpb.Outcome_OUTCOME_RETRY
		if errors.As(err, &retry) && retry.after >= 0 {
			r.DelayMs = milliseconds(retry.after)
		}
		if timedOut {
			text = (&timeoutError{j.timeout}).Error() + ": " + text
		}
	}
	r.Error = clean(text)
}

// interrupted says that err tells of a context's end.
func interrupted(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// milliseconds rounds up, so that a short delay does not become none.
func milliseconds(d time.Duration) *int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return &ms
}

// duration is ms milliseconds, or as many as a Duration can be.
func duration(ms int64) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// clean makes text what a protobuf string may hold, and no longer than
// maxTextBytes.
func clean(text string) string {
	const mark = " [cut]"
	if len(text) > maxTextBytes {
		text = text[:maxTextBytes-len(mark)] + mark
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// panicStack returns the stack of the goroutine that panicked, from the frame
// of the panic on. It must be called while recovering.
func panicStack() string {
	stack := string(debug.Stack())
	if _, after, ok := strings.Cut(stack, "\npanic("); ok {
		// The rest of panic's own line, and the line of its source.
		if _, after, ok = strings.Cut(after, "\n"); ok {
			if _, after, ok = strings.Cut(after, "\n"); ok {
				return after
			}
		}
	}
	return stack
}
