package handlertest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

// deliver ships while another branch charges, and makes up for a failure once
// it has been told how.
func deliver(shipped *bool, charges *int) handlers.Handler {
	return handlers.Workflow("deliver", func(ctx context.Context, _ int) (string, error) {
		g := handlers.NewGroup(ctx)
		g.Go("parcel", func(ctx context.Context) error {
			_, err := handlers.Step(ctx, "ship", func(context.Context) (int, error) {
				if !*shipped {
					return 0, errors.New("no stamps")
				}
				return 1, nil
			})
			return err
		})
		g.Go("money", func(ctx context.Context) error {
			if err := handlers.Sleep(ctx, "cool-off", time.Hour); err != nil {
				return err
			}
			_, err := handlers.Step(ctx, "charge", func(context.Context) (int, error) { *charges++; return 1, nil })
			return err
		})
		failed := g.Wait()
		how, err := handlers.Receive[string](ctx, "how", 0)
		return how, errors.Join(failed, err)
	})
}

func TestWorkflowRetried(t *testing.T) {
	var shipped bool
	var charges int
	w := handlertest.NewWorkflow(t, deliver(&shipped, &charges), 1)
	w.Signal("how", "by sea")
	if r := w.Finish(); r.Outcome != handlertest.Discard {
		t.Fatalf("the run is %+v", r)
	}
	shipped = true
	w.Retry()
	if got, want := stepNames(w), []string{"money/cool-off succeeded", "money/charge succeeded"}; !slices.Equal(got, want) {
		t.Errorf("after the retry %v are recorded, want %v", got, want)
	}
	r := w.Finish()
	if r.Outcome != handlertest.Done || string(r.Output) != `"by sea"` || charges != 1 {
		t.Errorf("retried the run is %+v after %d charges", r, charges)
	}
}

// A run that failed for another reason keeps its failed steps.
func TestWorkflowRetriedAfterAPanic(t *testing.T) {
	timeouts := 0
	flow := func(end func() (int, error)) handlers.Handler {
		return handlers.Workflow("flow", func(ctx context.Context, _ int) (int, error) {
			if _, err := handlers.Receive[int](ctx, "go", time.Hour); errors.Is(err, handlers.ErrTimeout) {
				timeouts++
			}
			return end()
		})
	}
	w := handlertest.NewWorkflow(t, flow(func() (int, error) { panic("boom") }), 1, handlertest.MaxAttempts(1))
	if r := w.Finish(); r.Outcome != handlertest.Retry {
		t.Fatalf("the run is %+v", r)
	}
	w.Change(flow(func() (int, error) { return 7, nil }))
	w.Retry()
	if r := w.Lease(); r.Outcome != handlertest.Done || timeouts != 2 {
		t.Errorf("retried the run is %+v after %d timeouts", r, timeouts)
	}
}
