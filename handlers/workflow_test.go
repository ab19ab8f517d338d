package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

const (
	wait     = handlerpb.Outcome_OUTCOME_WAIT
	discard  = handlerpb.Outcome_OUTCOME_DISCARD
	cancel   = handlerpb.Outcome_OUTCOME_CANCEL
	waiting  = handlerpb.StepState_STEP_STATE_WAITING
	recorded = handlerpb.StepState_STEP_STATE_SUCCEEDED
	failed   = handlerpb.StepState_STEP_STATE_FAILED
)

// called takes calls in, and answers them.
func (p *peer) called(calls []*handlerpb.StepCall) {
	p.t.Helper()
	var replies []*handlerpb.StepReply
	for _, c := range calls {
		p.calls = append(p.calls, c)
		if p.reply != nil {
			r := p.reply(c)
			r.Number = c.Number
			replies = append(replies, r)
		}
	}
	if len(replies) > 0 {
		p.send(&handlerpb.HostFrame{StepReplies: replies})
	}
}

func accept(*handlerpb.StepCall) *handlerpb.StepReply { return &handlerpb.StepReply{} }

// steps are those that were recorded by calls.
func (p *peer) steps() (steps []*handlerpb.Step) {
	for _, c := range p.calls {
		steps = append(steps, c.Steps...)
	}
	return steps
}

func (p *peer) names() (names []string) {
	for _, s := range p.steps() {
		names = append(names, fmt.Sprintf("%s[%d]@%d", s.Name, s.Occurrence, s.Position))
	}
	return names
}

// lease sends run 1 with what is recorded of it, and waits for its result.
func (p *peer) lease(job *handlerpb.Job) *handlerpb.Result {
	p.t.Helper()
	p.begin(job)
	p.untilResults(1)
	return p.results[1]
}

func (p *peer) begin(job *handlerpb.Job) {
	p.t.Helper()
	job.Id, job.Claim, job.Queue = 1, 1, "q"
	if job.Payload == nil {
		job.Payload = []byte("null")
	}
	p.send(&handlerpb.HostFrame{Jobs: []*handlerpb.Job{job}})
}

// workflow serves fn as the only workflow. Calls are accepted.
func workflow[Out any](t *testing.T, fn func(ctx context.Context) (Out, error)) *peer {
	t.Helper()
	p := open(t, 4, handlers.Workflow("q", func(ctx context.Context, _ json.RawMessage) (Out, error) { return fn(ctx) }))
	p.reply = accept
	return p
}

// value is a step whose body returns v.
func value[T any](ctx context.Context, name string, v T) (T, error) {
	return handlers.Step(ctx, name, func(context.Context) (T, error) { return v, nil })
}

func TestStepsAreRecordedInTurn(t *testing.T) {
	var keys []string
	p := workflow(t, func(ctx context.Context) (int, error) {
		sum := 0
		for i := range 3 {
			n, err := handlers.Step(ctx, "add", func(ctx context.Context) (int, error) {
				keys = append(keys, handlers.StepKey(ctx))
				return i + 1, nil
			})
			if err != nil {
				return 0, err
			}
			sum += n
		}
		_, err := value(ctx, "last", struct{}{})
		return sum, err
	})
	if r := p.lease(&handlerpb.Job{}); r.Outcome != done || string(r.Output) != "6" || len(r.Steps) > 0 {
		t.Fatalf("the run is %v", r)
	}
	if names := p.names(); !slices.Equal(names, []string{"add[0]@0", "add[1]@1", "add[2]@2", "last[0]@3"}) {
		t.Errorf("recorded are %v", names)
	}
	if want := []string{"1/add/0", "1/add/1", "1/add/2"}; !slices.Equal(keys, want) {
		t.Errorf("the keys are %v", keys)
	}
	if s := p.steps()[1]; string(s.Output) != "2" || s.State != recorded || s.Kind != "step" || s.Tries != 1 {
		t.Errorf("the second step is %v", s)
	}
}

func TestReplayRunsNothingAgain(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (string, error) {
		a, err := value(ctx, "a", "new")
		if err != nil {
			return "", err
		}
		_, err = value(ctx, "b", "new")
		var failure *handlers.StepError
		if !errors.As(err, &failure) {
			return "", fmt.Errorf("b did not fail: %w", err)
		}
		c, err := value(ctx, "c", "new")
		return a + failure.Reason + c, err
	})
	r := p.lease(&handlerpb.Job{Steps: []*handlerpb.Step{
		{Name: "a", Position: 0, State: recorded, Output: []byte(`"old "`)},
		{Name: "b", Position: 1, State: failed, Error: "broken "},
	}})
	if r.Outcome != done || string(r.Output) != `"old broken new"` {
		t.Errorf("the run is %v", r)
	}
	if names := p.names(); !slices.Equal(names, []string{"c[0]@2"}) {
		t.Errorf("recorded are %v", names)
	}
}

func TestDivergenceIsFinalAndNamesBothSteps(t *testing.T) {
	old := func(s *handlerpb.Step) *handlerpb.Job { return &handlerpb.Job{Steps: []*handlerpb.Step{s}} }
	tests := map[string]struct {
		job  *handlerpb.Job
		want []string
	}{
		"another name": {old(&handlerpb.Step{Name: "charge"}), []string{"step charge is recorded", "with step pay as", "retry 1"}},
		"another kind": {old(&handlerpb.Step{Name: "pay", Kind: "sleep"}), []string{"sleep pay is recorded", "with step pay as"}},
		"further on":   {old(&handlerpb.Step{Name: "pay", Position: 1}), []string{"number 2", "number 1"}},
		"occurrence":   {old(&handlerpb.Step{Name: "pay", Occurrence: 1}), []string{"step pay#1 is recorded", "with step pay as"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, func(ctx context.Context) (int, error) {
				_, err := value(ctx, "pay", 1)
				return 0, errors.Join(nil, err) // the error cannot be swallowed: it does not return
			})
			r := p.lease(tt.job)
			if r.Outcome != discard || len(p.calls) > 0 {
				t.Fatalf("the run is %v, with %d calls", r, len(p.calls))
			}
			for _, want := range append(tt.want, "run 1 diverged") {
				if !strings.Contains(r.Error, want) {
					t.Errorf("%q is not in %q", want, r.Error)
				}
			}
		})
	}
}

func TestMistakesAreDiscarded(t *testing.T) {
	tests := map[string]struct {
		fn   func(ctx context.Context) (int, error)
		want string
	}{
		"slash":    {func(ctx context.Context) (int, error) { return value(ctx, "a/b", 1) }, `without "/"`},
		"no name":  {func(ctx context.Context) (int, error) { return value(ctx, "", 1) }, "empty"},
		"long":     {func(ctx context.Context) (int, error) { return value(ctx, strings.Repeat("x", 201), 1) }, "201 bytes"},
		"no UTF-8": {func(ctx context.Context) (int, error) { return value(ctx, "\xff", 1) }, "UTF-8"},
		"elsewhere": {func(context.Context) (int, error) {
			return value(context.Background(), "a", 1)
		}, "the context is not a workflow's"},
		"inside": {func(ctx context.Context) (int, error) {
			return handlers.Step(ctx, "a", func(ctx context.Context) (int, error) { return value(ctx, "b", 1) })
		}, "steps cannot hold steps"},
		"at the same time": {func(ctx context.Context) (int, error) {
			return handlers.Step(ctx, "a", func(context.Context) (int, error) {
				gone := make(chan struct{})
				go func() { defer close(gone); _, _ = value(ctx, "b", 1) }()
				<-gone
				return 1, nil
			})
		}, "another step is open"},
		"lost branch": {func(ctx context.Context) (int, error) {
			g := handlers.NewGroup(ctx)
			g.Go("a", func(ctx context.Context) error {
				_, err := value(ctx, "b", 1)
				return errors.Join(err, handlers.Sleep(ctx, "nap", time.Hour))
			})
			return 1, nil
		}, "call Wait"},
		"branch name": {func(ctx context.Context) (int, error) {
			handlers.NewGroup(ctx).Go("a#1", func(context.Context) error { return nil })
			return 1, nil
		}, `"#"`},
		"priority of a child": {func(ctx context.Context) (int, error) {
			return handlers.Child[int](ctx, "c", "other", nil, handlers.Priority(3))
		}, "no priority"},
		"payload": {func(ctx context.Context) (int, error) {
			return 1, handlers.Send(ctx, "s", 2, "topic", func() {})
		}, "unsupported type"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, tt.fn)
			if r := p.lease(&handlerpb.Job{}); r.Outcome != discard || !strings.Contains(r.Error, tt.want) {
				t.Errorf("the run is %v", r)
			}
		})
	}
	// The same from a plain job.
	p := open(t, 1, handlers.Handle("q", func(ctx context.Context, _ json.RawMessage) (int, error) { return value(ctx, "a", 1) }))
	if r := p.lease(&handlerpb.Job{}); r.Outcome != discard || !strings.Contains(r.Error, "not a workflow's") {
		t.Errorf("the job is %v", r)
	}
}

// A wait ends the function with its deferred functions, and nothing holds it up.
func TestWaitingUnwinds(t *testing.T) {
	var deferred []string
	var after atomic.Bool
	p := workflow(t, func(ctx context.Context) (int, error) {
		defer func() { deferred = append(deferred, "outer") }()
		defer func() {
			deferred = append(deferred, fmt.Sprint("recovered ", recover()))
			_, _ = value(ctx, "in a deferred function", 1)
			after.Store(true)
		}()
		if _, err := value(ctx, "a", 1); err != nil {
			return 0, err
		}
		err := handlers.Sleep(ctx, "nap", time.Hour)
		after.Store(true)
		return 0, err
	})
	r := p.lease(&handlerpb.Job{News: 7})
	if r.Outcome != wait || r.Wait.GetKind() != "sleep" || r.Wait.GetFor() != "nap" || r.Wait.GetNews() != 7 {
		t.Fatalf("the run is %v", r)
	}
	if d := r.Wait.GetDelayMs(); d <= 3_500_000 || d > 3_600_000 {
		t.Errorf("it waits for %d ms", d)
	}
	if len(r.Steps) != 1 || r.Steps[0].Name != "nap" || r.Steps[0].State != waiting || r.Steps[0].Kind != "sleep" ||
		r.Steps[0].Position != 1 || r.Steps[0].GetDelayMs() != 3_600_000 {
		t.Errorf("the waiting steps are %v", r.Steps)
	}
	if !slices.Equal(deferred, []string{"recovered <nil>", "outer"}) || after.Load() || len(p.calls) != 1 {
		t.Errorf("deferred functions: %v; went on after the wait: %v; %d calls", deferred, after.Load(), len(p.calls))
	}
}

// What is left of a sleep is waited for again; one that is over is recorded with
// what comes next.
func TestSleepIsCarriedOn(t *testing.T) {
	fn := func(ctx context.Context) (int, error) {
		if err := handlers.Sleep(ctx, "nap", time.Hour); err != nil {
			return 0, err
		}
		return value(ctx, "a", 1)
	}
	left := func(ms int64) *handlerpb.Job {
		return &handlerpb.Job{Steps: []*handlerpb.Step{{Name: "nap", Kind: "sleep", State: waiting, DelayMs: &ms}}}
	}
	p := workflow(t, fn)
	if r := p.lease(left(60_000)); r.Outcome != wait || r.Wait.DelayMs > 60_000 || r.Wait.DelayMs < 50_000 || len(r.Steps) > 0 {
		t.Errorf("the run is %v", r)
	}
	p = workflow(t, fn)
	if r := p.lease(left(0)); r.Outcome != done || len(p.calls) != 1 {
		t.Errorf("the run is %v, with %d calls", r, len(p.calls))
	}
	if names := p.names(); !slices.Equal(names, []string{"nap[0]@0", "a[0]@1"}) || p.steps()[0].State != recorded {
		t.Errorf("recorded are %v", p.steps())
	}
	// With nothing after it, it goes with the result.
	p = workflow(t, func(ctx context.Context) (int, error) { return 1, handlers.Sleep(ctx, "nap", 0) })
	if r := p.lease(&handlerpb.Job{}); r.Outcome != done || len(r.Steps) != 1 || r.Steps[0].State != recorded {
		t.Errorf("the run is %v", r)
	}
}

func TestTenThousandSteps(t *testing.T) {
	const n = 10_000
	var bodies int
	fn := func(ctx context.Context) (int, error) {
		sum := 0
		for i := range n {
			v, err := handlers.Step(ctx, "add", func(context.Context) (int, error) { bodies++; return i, nil })
			if err != nil {
				return 0, err
			}
			sum += v
		}
		return sum, nil
	}
	p := workflow(t, fn)
	if r := p.lease(&handlerpb.Job{}); r.Outcome != done || string(r.Output) != fmt.Sprint(n*(n-1)/2) || bodies != n {
		t.Fatalf("the run is %v after %d bodies", r, bodies)
	}
	steps := p.steps()
	p = workflow(t, fn)
	if r := p.lease(&handlerpb.Job{Steps: steps}); r.Outcome != done || bodies != n || len(p.calls) > 0 {
		t.Errorf("the replay is %v after %d bodies", r, bodies)
	}
}

// The goroutines of a run are gone with its result, however it ends.
func TestNoGoroutineIsLeft(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		g := handlers.NewGroup(ctx)
		for range 5 {
			g.Go("b", func(ctx context.Context) error {
				if _, err := value(ctx, "s", 1); err != nil {
					return err
				}
				return handlers.Sleep(ctx, "nap", time.Hour)
			})
		}
		return 0, g.Wait()
	})
	p.lease(&handlerpb.Job{})
	before := runtime.NumGoroutine()
	for id := range int64(50) {
		p.send(&handlerpb.HostFrame{Jobs: []*handlerpb.Job{{Id: id + 2, Claim: 1, Queue: "q", Payload: []byte("null")}}})
	}
	p.untilResults(51)
	for id, r := range p.results {
		if r.Outcome != wait {
			t.Fatalf("run %d is %v", id, r)
		}
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+4; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
		}
	}
}
