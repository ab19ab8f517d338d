package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// heedGrace is how long a body may take to return once its ctx has ended, before
// that is worth a line in the log.
const heedGrace = time.Second

// stepTimeoutError is the cause of the end of a body's ctx by StepTimeout.
type stepTimeoutError struct{ timeoutError }

func (e *stepTimeoutError) Error() string { return e.timeoutError.Error() + " (StepTimeout)" }

// tryInTime runs the body with its StepTimeout.
func (s *liveStep) tryInTime(body func(context.Context) ([]byte, error)) ([]byte, error) {
	limit := s.policy.timeout
	late := &stepTimeoutError{timeoutError{limit}}
	ctx, cancel := context.WithTimeoutCause(s, limit, late)
	defer cancel()
	deaf := time.AfterFunc(limit+heedGrace, func() {
		Logger(s).Warn("a step is past its StepTimeout and has not returned: a timeout ends its ctx, which the body must heed",
			"step", s.name, "occurrence", s.occurrence, "timeout", limit.String())
	})
	defer deaf.Stop()
	output, err := body(ctx)
	// Only the cause knows whose time was over: the step's, or the run's.
	if err != nil && errors.Is(context.Cause(ctx), late) && !errors.As(err, new(*stepTimeoutError)) {
		err = fmt.Errorf("%w: %w", late, err)
	}
	return output, err
}
