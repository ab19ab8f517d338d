package handlers_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// told are the messages of the beats so far.
func (p *peer) told() (messages []string) {
	for _, f := range p.frames {
		for _, b := range f.Beats {
			messages = append(messages, b.Message)
		}
	}
	return messages
}

func (p *peer) untilTold(message string) {
	p.t.Helper()
	p.until("the last beat is "+message, func() bool {
		told := p.told()
		return len(told) > 0 && told[len(told)-1] == message
	})
}

// The progress of a run tells which steps run for long, and that they do no more;
// quick ones are not told of.
func TestSlowStepsAreTold(t *testing.T) {
	quick, slow, beside := make(chan struct{}), make(chan struct{}), make(chan struct{})
	until := func(c <-chan struct{}) func(context.Context) (int, error) {
		return func(context.Context) (int, error) { <-c; return 1, nil }
	}
	p := workflow(t, func(ctx context.Context) (int, error) {
		for range 100 {
			if _, err := value(ctx, "quick", 1); err != nil {
				return 0, err
			}
		}
		close(quick)
		if _, err := handlers.Step(ctx, "slow", until(slow)); err != nil {
			return 0, err
		}
		g := handlers.NewGroup(ctx)
		g.Go("x", func(ctx context.Context) error { _, err := handlers.Step(ctx, "slow", until(beside)); return err })
		g.Go("y", func(ctx context.Context) error { _, err := handlers.Step(ctx, "slow", until(beside)); return err })
		return 1, g.Wait()
	})
	p.begin(&handlerpb.Job{})
	p.untilTold("step slow")
	<-quick
	if told := p.told(); len(told) != 1 {
		t.Errorf("beats %q, want none of the quick steps", told)
	}
	close(slow)
	p.untilTold("")
	p.until("both are told of", func() bool {
		told := p.told()
		last := told[len(told)-1]
		return last == "step x/slow and 1 more" || last == "step y/slow and 1 more"
	})
	close(beside)
	p.untilResults(1)
	if p.outcome(1) != done {
		t.Errorf("the run is %v", p.results[1])
	}
}

// Each try that is slow is told of.
func TestSlowTriesAreTold(t *testing.T) {
	ends := make(chan error)
	p := workflow(t, func(ctx context.Context) (int, error) {
		return handlers.Step(ctx, "slow", func(context.Context) (int, error) { return 1, <-ends }, handlers.Tries(2))
	})
	p.begin(&handlerpb.Job{})
	for _, end := range []error{handlers.Retry(errors.New("once more"), 0), nil} {
		p.untilTold("step slow")
		ends <- end
		p.untilTold("")
	}
	p.untilResults(1)
	if p.outcome(1) != done {
		t.Errorf("the run is %v", p.results[1])
	}
}
