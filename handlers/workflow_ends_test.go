package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

var errBroken = errors.New("broken")

// tried is a step whose body fails with err.
func tried(err error, opts ...handlers.StepOption) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		return handlers.Step(ctx, "a", func(context.Context) (int, error) { return 0, err }, opts...)
	}
}

func TestTriesOfAStep(t *testing.T) {
	three := []handlers.StepOption{handlers.Tries(3), handlers.Backoff(time.Minute, time.Hour)}
	before := func(tries uint32) *handlerpb.Job {
		return &handlerpb.Job{Steps: []*handlerpb.Step{{Name: "a", State: waiting, Tries: tries, Error: "broken", DelayMs: new(int64)}}}
	}
	tests := map[string]struct {
		fn    func(context.Context) (int, error)
		job   *handlerpb.Job
		tries uint32
		// How long it waits for the next try, in seconds; none is that the step has failed.
		least, most int64
	}{
		"one try by default": {tried(errBroken), &handlerpb.Job{}, 1, 0, 0},
		"first of three":     {tried(errBroken, three...), &handlerpb.Job{}, 1, 48, 72},
		"second of three":    {tried(errBroken, three...), before(1), 2, 96, 144},
		"third of three":     {tried(errBroken, three...), before(2), 3, 0, 0},
		"a delay of its own": {tried(fmt.Errorf("x: %w", handlers.Retry(errBroken, 7*time.Second)), three...), &handlerpb.Job{}, 1, 6, 7},
		"discarded":          {tried(handlers.Discard(errBroken), three...), &handlerpb.Job{}, 1, 0, 0},
		"at once, and again": {tried(handlers.Retry(errBroken, 0), handlers.Tries(5)), &handlerpb.Job{}, 5, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, tt.fn)
			r := p.lease(tt.job)
			var last *handlerpb.Step
			if tt.most > 0 {
				if r.Outcome != wait || r.Wait.Kind != "retry" || r.Wait.For != "a" || len(r.Steps) != 1 {
					t.Fatalf("the run is %v", r)
				}
				last = r.Steps[0]
				if ms := last.GetDelayMs(); ms < tt.least*1000 || ms > tt.most*1000 || last.State != waiting {
					t.Errorf("the step waits as %v", last)
				}
			} else {
				if r.Outcome != discard || !strings.Contains(r.Error, "step a failed") {
					t.Fatalf("the run is %v", r)
				}
				steps := p.steps()
				if last = steps[len(steps)-1]; last.State != failed {
					t.Errorf("the step is %v", last)
				}
			}
			if last.Tries != tt.tries || !strings.Contains(last.Error, "broken") {
				t.Errorf("after %d tries the step is %v", tt.tries, last)
			}
		})
	}
}

func TestAnErrorOfTheFunctionIsAFailedAttempt(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		if err := handlers.Sleep(ctx, "nap", 0); err != nil {
			return 0, err
		}
		return 0, errBroken
	})
	if r := p.lease(&handlerpb.Job{}); r.Outcome != retry || r.DelayMs != nil || r.Error != "broken" || len(r.Steps) != 1 {
		t.Errorf("the run is %v", r)
	}
}

// A panic records nothing, whatever the function does about it.
func TestPanicRecordsNothing(t *testing.T) {
	boom := func(context.Context) (int, error) { panic("boom") }
	tests := map[string]func(ctx context.Context) (int, error){
		"in a body": func(ctx context.Context) (int, error) {
			defer func() { _ = recover() }()
			return handlers.Step(ctx, "b", boom)
		},
		"in a body of a branch": func(ctx context.Context) (int, error) {
			g := handlers.NewGroup(ctx)
			g.Go("x", func(ctx context.Context) error { _, err := handlers.Step(ctx, "b", boom); return err })
			g.Go("y", func(ctx context.Context) error { return handlers.Sleep(ctx, "nap", time.Hour) })
			_ = g.Wait()
			return 1, nil
		},
		"in a branch": func(ctx context.Context) (int, error) {
			g := handlers.NewGroup(ctx)
			g.Go("x", func(context.Context) error { panic("boom") })
			return 1, g.Wait()
		},
		"while it unwinds": func(ctx context.Context) (int, error) {
			defer func() { panic("boom") }()
			return 0, handlers.Sleep(ctx, "nap", time.Hour)
		},
		"in the function": func(ctx context.Context) (int, error) {
			handlers.NewGroup(ctx).Go("x", func(ctx context.Context) error { return handlers.Sleep(ctx, "nap", time.Hour) })
			panic("boom")
		},
	}
	for name, fn := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, func(ctx context.Context) (int, error) {
				if _, err := value(ctx, "a", 1); err != nil {
					return 0, err
				}
				return fn(ctx)
			})
			r := p.lease(&handlerpb.Job{})
			if r.Outcome != retry || !strings.HasPrefix(r.Error, "panic: boom\n") || !strings.Contains(r.Error, "workflow_ends_test.go") {
				t.Fatalf("the run is %v", r)
			}
			for _, s := range append(p.steps(), r.Steps...) {
				if s.Name == "b" || s.Name == "x/b" {
					t.Errorf("recorded is %v", s)
				}
			}
		})
	}
}

// What the host says with a reply, or by a frame of its own, stops the run at
// its next step.
func TestHalts(t *testing.T) {
	tests := map[string]struct {
		reply *handlerpb.StepReply
		check func(r *handlerpb.Result) bool
	}{
		"cancel":  {&handlerpb.StepReply{Halt: "cancel"}, func(r *handlerpb.Result) bool { return r.Outcome == cancel }},
		"release": {&handlerpb.StepReply{Halt: "release"}, func(r *handlerpb.Result) bool { return r.Outcome == release && len(r.Steps) == 0 }},
		"pause": {&handlerpb.StepReply{Halt: "pause"}, func(r *handlerpb.Result) bool {
			return r.Outcome == wait && r.Wait.Kind == "pause" && r.Wait.DelayMs < 0 && r.Wait.News == 3
		}},
		"error": {&handlerpb.StepReply{Error: "no room"}, func(r *handlerpb.Result) bool {
			return r.Outcome == retry && strings.Contains(r.Error, "record step a: no room")
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, func(ctx context.Context) (int, error) {
				_, _ = value(ctx, "a", 1)
				t.Error("the run went on")
				return 0, nil
			})
			p.reply = func(*handlerpb.StepCall) *handlerpb.StepReply { return tt.reply }
			if r := p.lease(&handlerpb.Job{News: 3}); !tt.check(r) {
				t.Errorf("the run is %v", r)
			}
		})
	}
}

// stopped runs two steps, and interrupts the first one's body by stop.
func stopped(t *testing.T, job *handlerpb.Job, body error, stop *handlerpb.HostFrame) (*peer, *handlerpb.Result) {
	t.Helper()
	began, goOn := make(chan struct{}), make(chan struct{})
	p := workflow(t, func(ctx context.Context) (int, error) {
		if err := handlers.Sleep(ctx, "nap", 0); err != nil {
			return 0, err
		}
		if _, err := handlers.Step(ctx, "a", func(context.Context) (int, error) {
			close(began)
			<-goOn
			return 1, body
		}); err != nil {
			return 0, err
		}
		return value(ctx, "b", 1)
	})
	p.begin(job)
	select {
	case <-began:
	case <-time.After(time.Minute):
		t.Fatal("the step's body did not begin")
	}
	if stop != nil {
		p.send(stop)
		// The pong says that the frame before it was read.
		p.send(&handlerpb.HostFrame{Ping: &handlerpb.Ping{Number: 1}})
		p.until("the pong is there", func() bool {
			return slices.ContainsFunc(p.frames, func(f *handlerpb.HandlerFrame) bool { return f.Pong != nil })
		})
	} else {
		<-time.After(time.Duration(job.TimeoutMs) * time.Millisecond)
	}
	close(goOn)
	p.untilResults(1)
	return p, p.results[1]
}

func TestStopsAtTheBoundary(t *testing.T) {
	drain := &handlerpb.HostFrame{Drain: true}
	cancel := &handlerpb.HostFrame{Cancels: []*handlerpb.Cancel{{Id: 1, Claim: 1, Reason: "shutdown"}}}
	tests := map[string]struct {
		timeout  int64
		body     error
		stop     *handlerpb.HostFrame
		outcome  handlerpb.Outcome
		recorded []string
	}{
		"drain":                    {0, nil, drain, release, []string{"nap[0]@0", "a[0]@1"}},
		"drain, and a failed step": {0, errBroken, drain, discard, []string{"nap[0]@0", "a[0]@1"}},
		"cancel":                   {0, nil, cancel, release, []string{"nap[0]@0", "a[0]@1"}},
		"cancel, and an error":     {0, errBroken, cancel, release, nil},
		"timeout":                  {500, nil, nil, retry, []string{"nap[0]@0", "a[0]@1"}},
		"timeout, and an error":    {500, errBroken, nil, retry, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, r := stopped(t, &handlerpb.Job{TimeoutMs: tt.timeout}, tt.body, tt.stop)
			if r.Outcome != tt.outcome || !slices.Equal(p.names(), tt.recorded) {
				t.Errorf("the run is %v, recorded are %v", r, p.names())
			}
			if tt.timeout > 0 && !strings.HasPrefix(r.Error, "timed out after") {
				t.Errorf("the error is %q", r.Error)
			}
			if tt.outcome == release && len(r.Steps) > 0 {
				t.Errorf("a released run records %v", r.Steps)
			}
		})
	}
}

// A call that is open when the host goes is not waited for.
func TestStreamEndsWhileAStepIsRecorded(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) { return value(ctx, "a", 1) })
	p.reply = nil
	p.begin(&handlerpb.Job{})
	p.until("the call is there", func() bool { return len(p.calls) == 1 })
	if err := p.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	p.untilResults(1)
	if p.outcome(1) != release {
		t.Errorf("the run is %v", p.results[1])
	}
}

func TestReceive(t *testing.T) {
	fn := func(ctx context.Context) (string, error) {
		first, err := handlers.Receive[string](ctx, "word", time.Hour)
		if errors.Is(err, handlers.ErrTimeout) {
			return "none", nil
		} else if err != nil {
			return "", err
		}
		second, err := handlers.Receive[string](ctx, "word", 0)
		return first + second, err
	}
	signal := func(id int64, topic, payload string) *handlerpb.Signal {
		return &handlerpb.Signal{Id: id, Topic: topic, Payload: []byte(payload)}
	}
	waits := func(ms int64) []*handlerpb.Step {
		return []*handlerpb.Step{{Name: "word", Kind: "signal", State: waiting, DelayMs: &ms, Topic: "word"}}
	}
	t.Run("both are there", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Signals: []*handlerpb.Signal{signal(3, "x", "1"), signal(4, "word", `"a"`), signal(5, "word", `"b"`)}})
		if r.Outcome != done || string(r.Output) != `"ab"` {
			t.Errorf("the run is %v", r)
		}
		if s := p.steps(); len(s) != 2 || s[0].Signal != 4 || s[1].Signal != 5 || s[1].Occurrence != 1 || s[0].Topic != "word" || s[0].Kind != "signal" {
			t.Errorf("recorded are %v", s)
		}
	})
	t.Run("one is there", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Steps: waits(5000), Signals: []*handlerpb.Signal{signal(4, "word", `"a"`)}, News: 1})
		if r.Outcome != wait || r.Wait.DelayMs >= 0 || r.Wait.Kind != "signal" || r.Wait.For != "word" || r.Wait.News != 1 || r.Steps[0].DelayMs != nil {
			t.Errorf("the run is %v", r)
		}
	})
	t.Run("none", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{})
		if r.Outcome != wait || r.Wait.DelayMs < 3_500_000 || r.Steps[0].GetDelayMs() != 3_600_000 {
			t.Errorf("the run is %v", r)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Steps: waits(0)})
		if s := p.steps(); r.Outcome != done || string(r.Output) != `"none"` || s[0].State != failed || s[0].Error != "timed out" {
			t.Errorf("the run is %v, recorded are %v", r, s)
		}
		p = workflow(t, fn)
		if again := p.lease(&handlerpb.Job{Steps: []*handlerpb.Step{{Name: "word", Kind: "signal", State: failed, Error: "timed out"}}}); string(again.Output) != `"none"` {
			t.Errorf("the replay is %v", again)
		}
	})
	t.Run("without a payload", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Signals: []*handlerpb.Signal{signal(4, "word", ""), signal(5, "word", "null")}})
		if r.Outcome != done || string(r.Output) != `""` {
			t.Errorf("the run is %v", r)
		}
	})
	t.Run("of another type", func(t *testing.T) {
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Signals: []*handlerpb.Signal{signal(4, "word", `{}`)}})
		if r.Outcome != discard || !strings.Contains(r.Error, "payload of signal word into string") || len(p.calls) != 1 {
			t.Errorf("the run is %v", r)
		}
	})
}

func TestChildrenSignalsAndEvents(t *testing.T) {
	fn := func(ctx context.Context) (int, error) {
		if err := handlers.SetEvent(ctx, "status", "begun"); err != nil {
			return 0, err
		}
		if err := handlers.Send(ctx, "tell", 42, "topic", 1, handlers.SendKey("k")); err != nil {
			return 0, err
		}
		return handlers.Child[int](ctx, "sub", "other", json.RawMessage(`[1]`), handlers.Delay(time.Second))
	}
	p := workflow(t, fn)
	r := p.lease(&handlerpb.Job{})
	if r.Outcome != wait || r.Wait.Kind != "child" || r.Wait.DelayMs >= 0 || len(r.Steps) != 1 {
		t.Fatalf("the run is %v", r)
	}
	if c := r.Steps[0].Child; c.GetQueue() != "other" || string(c.GetPayload()) != "[1]" || c.GetDelayMs() != 1000 || r.Steps[0].DelayMs != nil {
		t.Errorf("the child is %v", r.Steps[0])
	}
	s := p.steps()
	if s[0].Kind != "event" || s[0].Topic != "status" || string(s[0].Output) != `"begun"` ||
		s[1].Kind != "send" || s[1].Run != 42 || s[1].Key != "k" || s[1].Topic != "topic" || string(s[1].Output) != "1" {
		t.Errorf("recorded are %v", s)
	}
	for end, want := range map[*handlerpb.Step]handlerpb.Outcome{
		{State: recorded, Output: []byte("5")}:   done,
		{State: failed, Error: "out of stock"}:   discard,
		{State: waiting}:                         wait,
		{State: recorded, Output: []byte(`"x"`)}: discard,
	} {
		end.Name, end.Kind, end.Position = "sub", "child", 2
		p := workflow(t, fn)
		r := p.lease(&handlerpb.Job{Steps: append(slices.Clone(s), end)})
		if r.Outcome != want || len(p.calls) > 0 || len(r.Steps) > 0 || !strings.Contains(r.Error, end.Error) {
			t.Errorf("with %v the run is %v", end, r)
		}
	}
}
