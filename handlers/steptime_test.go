package handlers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

func TestStepTimeout(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		return handlers.Step(ctx, "a", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		}, handlers.StepTimeout(time.Millisecond))
	})
	if r := p.lease(&handlerpb.Job{}); r.Outcome != discard || r.Error != "step a failed: timed out after 1ms (StepTimeout)" {
		t.Errorf("the run is %v", r)
	}
}

// Whatever a body says after its time, the record says that it was over; not so
// of one that is done all the same.
func TestStepTimeoutSaysSo(t *testing.T) {
	for name, tt := range map[string]struct {
		end     func(ctx context.Context) error
		outcome handlerpb.Outcome
		err     string
	}{
		"its error":   {func(ctx context.Context) error { return ctx.Err() }, discard, "step a failed: timed out after 1ms (StepTimeout): context deadline exceeded"},
		"any error":   {func(context.Context) error { return errBroken }, discard, "step a failed: timed out after 1ms (StepTimeout): broken"},
		"a discarded": {func(context.Context) error { return handlers.Discard(errBroken) }, discard, "step a failed: timed out after 1ms (StepTimeout): broken"},
		"none":        {func(context.Context) error { return nil }, done, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, func(ctx context.Context) (int, error) {
				return handlers.Step(ctx, "a", func(ctx context.Context) (int, error) {
					<-ctx.Done()
					return 0, tt.end(ctx)
				}, handlers.StepTimeout(time.Millisecond))
			})
			if r := p.lease(&handlerpb.Job{}); r.Outcome != tt.outcome || r.Error != tt.err {
				t.Errorf("the run is %v", r)
			}
		})
	}
}

// A body that goes on after its time is told of, once.
func TestStepThatIgnoresItsTimeoutIsLogged(t *testing.T) {
	logged := make(chan struct{})
	p := workflow(t, func(ctx context.Context) (int, error) {
		return handlers.Step(ctx, "a", func(context.Context) (int, error) {
			<-logged
			return 1, nil
		}, handlers.StepTimeout(time.Millisecond))
	})
	p.begin(&handlerpb.Job{})
	lines := func() (n int) {
		for _, f := range p.frames {
			for _, l := range f.Logs {
				if strings.Contains(l.Message, "past its StepTimeout and has not returned") && string(l.Attrs) == `{"step":"a","occurrence":0,"timeout":"1ms"}` {
					n++
				}
			}
		}
		return n
	}
	p.until("the step is told of", func() bool { return lines() > 0 })
	close(logged)
	p.untilResults(1)
	if n := lines(); n != 1 || p.outcome(1) != done {
		t.Errorf("%d lines; the run is %s", n, p.outcome(1))
	}
}
