package handlertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

type order struct {
	Item  string `json:"item"`
	Price int    `json:"price"`
}

type receipt struct {
	Charge   string `json:"charge"`
	Approved bool   `json:"approved"`
	Parcel   int    `json:"parcel"`
}

// shop does orders, and counts how often the bodies of its steps run.
type shop struct {
	charges, refusals int
	key               string
}

func (s *shop) order(ctx context.Context, in order) (out receipt, err error) {
	out.Charge, err = handlers.Step(ctx, "charge", func(ctx context.Context) (string, error) {
		s.charges++
		s.key = handlers.StepKey(ctx)
		if s.charges <= s.refusals {
			return "", errors.New("the bank is closed")
		}
		return fmt.Sprint(in.Item, " for ", in.Price), nil
	}, handlers.Tries(3))
	if err != nil {
		return out, err
	}
	if err := handlers.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
		return out, err
	}
	if err := handlers.SetEvent(ctx, "status", "to be approved"); err != nil {
		return out, err
	}
	out.Approved, err = handlers.Receive[bool](ctx, "approved", 72*time.Hour)
	if errors.Is(err, handlers.ErrTimeout) || err == nil && !out.Approved {
		return out, nil
	} else if err != nil {
		return out, err
	}
	if err := handlers.Send(ctx, "tell", 7, "sold", in.Item); err != nil {
		return out, err
	}
	out.Parcel, err = handlers.Child[int](ctx, "ship", "shipping", in)
	return out, err
}

func (s *shop) workflow() handlers.Handler { return handlers.Workflow("order", s.order) }

func start(t *testing.T, s *shop) *handlertest.Workflow {
	t.Helper()
	return handlertest.NewWorkflow(t, s.workflow(), order{"hat", 5}, handlertest.ID(12))
}

func stepNames(w *handlertest.Workflow) (names []string) {
	for _, s := range w.Steps() {
		names = append(names, s.Name+" "+s.State)
	}
	return names
}

func TestWorkflow(t *testing.T) {
	s := &shop{refusals: 2}
	w := start(t, s)
	r := w.Lease()
	if r.Outcome != handlertest.Wait || r.Wait.Kind != "retry" || r.Wait.For != "charge" || r.Wait.Delay < 700*time.Millisecond {
		t.Fatalf("the first lease ended as %+v", r)
	}
	w.Signal("approved", true)
	if r = w.Finish(); r.Outcome != handlertest.Wait || r.Wait.Kind != "child" {
		t.Fatalf("before the child has ended the run is %+v", r)
	}
	if string(w.Events()["status"]) != `"to be approved"` || s.key != "12/charge/0" || s.charges != 3 {
		t.Errorf("events %v, key %s, %d charges", w.Events(), s.key, s.charges)
	}
	w.EndChild("ship", 99, "")
	r = w.Finish()
	var out receipt
	r.Decode(t, &out)
	if want := (receipt{"hat for 5", true, 99}); out != want {
		t.Errorf("the output is %+v", out)
	}
	want := []string{"charge succeeded", "cool-off succeeded", "status succeeded", "approved succeeded", "tell succeeded", "ship succeeded"}
	if got := stepNames(w); !slices.Equal(got, want) {
		t.Errorf("recorded are %v", got)
	}
	steps := w.Steps()
	if c := steps[0]; c.Tries != 3 || string(c.Output) != `"hat for 5"` || c.Kind != "step" {
		t.Errorf("the charge is %+v", c)
	}
	if s := steps[4]; s.To != 7 || s.Topic != "sold" || string(s.Output) != `"hat"` {
		t.Errorf("the signal is %+v", s)
	}
	if c := steps[5]; c.Workflow != "shipping" || string(c.Input) != `{"item":"hat","price":5}` {
		t.Errorf("the child is %+v", c)
	}
}

func TestWorkflowTimesOutAndFails(t *testing.T) {
	w := start(t, &shop{})
	w.Lease()
	w.Pass(23 * time.Hour)
	if r := w.Lease(); r.Outcome != handlertest.Wait || r.Wait.Kind != "sleep" || r.Wait.Delay > time.Hour {
		t.Errorf("after 23 hours the run is %+v", r)
	}
	if r := w.Finish(); r.Outcome != handlertest.Done || string(r.Output) != `{"charge":"hat for 5","approved":false,"parcel":0}` {
		t.Errorf("without a signal the run is %+v", r)
	}

	w = start(t, &shop{refusals: 3})
	if r := w.Finish(); r.Outcome != handlertest.Discard || r.Error != "step charge failed: the bank is closed" {
		t.Errorf("after three tries the run is %+v", r)
	}

	w = start(t, &shop{})
	w.Signal("approved", true)
	w.Finish()
	w.EndChild("ship", nil, "no stamps")
	if r := w.Finish(); r.Outcome != handlertest.Discard || r.Error != "step ship failed: no stamps" {
		t.Errorf("with a failed child the run is %+v", r)
	}
}

// What was recorded when the process was lost is not done again; what was not is.
func TestWorkflowKilled(t *testing.T) {
	for name, tt := range map[string]struct {
		kill    func(w *handlertest.Workflow)
		charges int
	}{
		"before": {func(w *handlertest.Workflow) { w.KillBefore("charge") }, 2},
		"after":  {func(w *handlertest.Workflow) { w.KillAfter("charge") }, 1},
	} {
		s := &shop{}
		w := start(t, s)
		tt.kill(w)
		if r := w.Lease(); r.Outcome != handlertest.Killed || s.charges != 1 {
			t.Fatalf("%s: the lease ended as %+v after %d charges", name, r, s.charges)
		}
		w.Signal("approved", false)
		if r := w.Finish(); r.Outcome != handlertest.Done || s.charges != tt.charges {
			t.Errorf("%s: the run is %+v after %d charges", name, r, s.charges)
		}
	}
}

func TestWorkflowCancelledAndChanged(t *testing.T) {
	w := start(t, &shop{})
	w.Cancel()
	if r := w.Finish(); r.Outcome != handlertest.Cancelled || !slices.Equal(stepNames(w), []string{"charge succeeded"}) {
		t.Errorf("the run is %+v with %v", r, stepNames(w))
	}

	w = start(t, &shop{})
	w.Lease()
	w.Change(handlers.Workflow("order", func(ctx context.Context, _ order) (string, error) {
		return handlers.Step(ctx, "pay", func(context.Context) (string, error) { return "", nil })
	}))
	if r := w.Finish(); r.Outcome != handlertest.Discard {
		t.Errorf("with other code the run is %+v", r)
	}
}

func TestRunRecordsNoSteps(t *testing.T) {
	r := handlertest.Run(t, (&shop{}).workflow(), order{})
	if r.Outcome != handlertest.Retry || r.Error != "record step charge: handlertest.Run records no steps; use handlertest.NewWorkflow" {
		t.Errorf("the run is %+v", r)
	}
}
