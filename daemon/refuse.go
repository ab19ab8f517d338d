package daemon

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	// maxRunBytes is how large a run may become with the outputs of its steps. It
	// is sent whole with each lease. What is left below the host's own limit is for
	// what has no output: steps that failed or wait, and for signals.
	maxRunBytes = host.MaxJobBytes - 1<<20
	// stepOverhead is the most that a step takes beside its texts and its output.
	stepOverhead = 80
)

// carry adds steps to what the run takes when it is sent to a handler. When that
// would be too much, nothing is added, and it returns the index of the step whose
// output is one too many, and why: found at the next lease, it would be the end of
// the run. It wants the lock.
func (j *job) carry(steps []store.StepResult) (at int, why string) {
	total := j.carried
	for i := range steps {
		s := &steps[i]
		total += len(s.Name) + len(s.Error) + len(s.Topic) + stepOverhead
		if s.Signal != 0 {
			continue // its payload came with the run
		}
		if total += len(s.Output); total > maxRunBytes && len(s.Output) > 0 {
			return i, fmt.Sprintf("with its %d bytes the recorded steps of the run would come to %d, and the limit is %d (62 MiB), "+
				"for they are sent to the handler whenever the run carries on; keep what is large elsewhere and return where it is",
				len(s.Output), total, maxRunBytes)
		}
	}
	j.carried = total
	return 0, ""
}

// mended says beside a broken rule what to do, where that is plain.
func mended(err error) error {
	var bad *store.PayloadError
	if errors.As(err, &bad) && bad.Rule == store.RuleMaxBytes {
		return fmt.Errorf("%w; keep what is large elsewhere and tell where it is", err)
	}
	return err
}

// atFault is the index of the step that the store will not take, or -1.
func atFault(steps []store.StepResult) int {
	return slices.IndexFunc(steps, func(s store.StepResult) bool {
		return store.ValidateOutcome(store.Outcome{Kind: store.OutcomeStep, Steps: []store.StepResult{s}}) != nil
	})
}

// lastSteps fills in the steps that come with a run's result.
func (q *queue) lastSteps(o *store.Outcome, in []*handlerpb.Step) (err error) {
	if o.Kind == store.OutcomeWait && len(in) > 0 {
		return q.waiting(o, in)
	}
	var at int
	if o.Steps, at, err = q.steps(in); err != nil {
		return unrecordable(in[at], err)
	}
	return nil
}

// waiting fills in the steps of a run that waits. A child that cannot be started
// is recorded as failed: the run has given its lease up, so it comes back at
// once and hears of it then.
func (q *queue) waiting(o *store.Outcome, in []*handlerpb.Step) error {
	o.Steps = make([]store.StepResult, len(in))
	for i, s := range in {
		r := &o.Steps[i]
		err := q.step(r, s)
		if err == nil {
			continue
		}
		if s.GetChild() == nil || r.State != store.StepWaiting {
			return unrecordable(s, err)
		}
		*r = store.StepResult{
			StepKey: r.StepKey, Kind: r.Kind, Position: r.Position, Tries: r.Tries,
			State: store.StepFailed, Error: store.CleanError(err.Error()),
		}
		o.Wait.Delay = minWait
	}
	return nil
}

// unrecordable is the error of a run with a step that cannot be recorded.
func unrecordable(s *handlerpb.Step, err error) error {
	return fmt.Errorf("step %s cannot be recorded: %w", store.StepKey{Name: shorten(s.GetName(), store.MaxStepName), Occurrence: int(s.GetOccurrence())}.Text(), err)
}
