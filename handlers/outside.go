package handlers

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Outside is where a step stands whose body records it: the arguments of the
// function complete_step in the daemon's database.
type Outside struct {
	Run, Worker, Claim   int64
	Name                 string // with its branches before it
	Occurrence, Position int
	// Version is the handler's, for a run of which nothing says yet which version
	// began it; else empty.
	Version string
}

var errNoFence = errors.New("it is recorded in your own transaction, which wants a daemon that runs on PostgreSQL")

// Recorded is what a step that is recorded outside has come to.
type Recorded struct {
	Output []byte // see [EncodeOutput]
	Halt   string // what complete_step returned: why the run goes no further, or empty
}

// StepOutside is for packages such as pgxtx, which record a step in the
// transaction that holds what the step did. It is [Step], but once body returns
// a nil error the step must be recorded, with the output that body returns. An
// error of body that wraps [Unrecorded] is not the step's.
//
// A daemon that does not run on PostgreSQL has no place for such a step: the
// run then fails.
func StepOutside[T any](ctx context.Context, name string, body func(ctx context.Context, at Outside) (Recorded, error), opts ...StepOption) (T, error) {
	return doStep[T](ctx, name, opts, func(s *liveStep) {
		j := s.branch.flow.job
		fence := j.msg.Fence
		if fence == nil {
			s.branch.flow.discard(fmt.Errorf("step %s: %w", s.name, errNoFence))
		}
		at := Outside{
			Run: j.msg.Id, Worker: fence.Worker, Claim: fence.Claim,
			Name: s.name, Occurrence: int(s.occurrence), Position: int(s.position),
		}
		if j.msg.Version == "" {
			at.Version = j.lane.session.version
		}
		var halt string
		output, err := s.try(func(ctx context.Context) ([]byte, error) {
			r, err := body(ctx, at)
			halt = r.Halt
			return r.Output, err
		})
		if err != nil {
			s.conclude(nil, err)
			return
		}
		s.record = s.step(handlerpb.StepState_STEP_STATE_SUCCEEDED)
		s.record.Output = output
		s.branch.flow.heed(halt)
	})
}

// EncodeOutput encodes what a step returns, as [Step] does; nil is no output.
// The error says that it cannot be encoded, or is longer than 16 MiB, which is
// a failure of the step.
func EncodeOutput[T any](v T) ([]byte, error) {
	output, err := encodeOutput(v)
	if err == nil && len(output) > maxOutputBytes {
		return nil, Discard(fmt.Errorf("the output is %d bytes long, the limit is %d", len(output), maxOutputBytes))
	}
	return output, err
}

// Unrecorded wraps an error of a [StepOutside] body that tells nothing of the
// step: whether it is recorded is not known, or the lease of its run was lost.
// The attempt fails with it, and the next one finds out.
func Unrecorded(err error) error { return &unrecordedError{err} }

type unrecordedError struct{ error }

func (e *unrecordedError) Unwrap() error { return e.error }
