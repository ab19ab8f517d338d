package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Branches run at the same time, several calls are open at once, and what is
// recorded does not depend on who comes first.
func TestBranchesRunAtTheSameTime(t *testing.T) {
	const n = 3
	fn := func(ctx context.Context) (int, error) {
		var together sync.WaitGroup // all bodies are open
		together.Add(n)
		g := handlers.NewGroup(ctx)
		for i := range n {
			g.Go("part", func(ctx context.Context) error {
				if _, err := handlers.Step(ctx, "meet", func(context.Context) (int, error) {
					together.Done()
					together.Wait()
					return i, nil
				}); err != nil {
					return err
				}
				_, err := value(ctx, "s", i)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return 0, err
		}
		return value(ctx, "s", 1)
	}
	p := workflow(t, fn)
	p.reply = nil
	p.begin(&handlerpb.Job{})
	p.until("three calls are open", func() bool { return len(p.calls) == n })
	// Answer the last first.
	p.reply = accept
	slices.Reverse(p.calls)
	open := p.calls
	p.calls = nil
	for _, c := range open {
		p.called([]*handlerpb.StepCall{c})
	}
	p.untilResults(1)
	if p.outcome(1) != done {
		t.Fatalf("the run is %v", p.results[1])
	}
	names := p.names()
	slices.Sort(names)
	want := []string{"part#1/meet[0]@0", "part#1/s[0]@1", "part#2/meet[0]@0", "part#2/s[0]@1", "part/meet[0]@0", "part/s[0]@1", "s[0]@0"}
	if !slices.Equal(names, want) {
		t.Errorf("recorded are %v", names)
	}
	// In whatever order they were recorded, nothing runs again.
	steps := p.steps()
	slices.SortFunc(steps, func(a, b *handlerpb.Step) int { return int(a.Position) - int(b.Position) })
	p = workflow(t, fn)
	if r := p.lease(&handlerpb.Job{Steps: steps}); r.Outcome != done || len(p.calls) > 0 {
		t.Errorf("the replay is %v", r)
	}
}

func TestBranchesOfBranchesAndTheirErrors(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (string, error) {
		g := handlers.NewGroup(ctx)
		g.Go("a", func(ctx context.Context) error {
			inner := handlers.NewGroup(ctx)
			for range 2 {
				inner.Go("b", func(ctx context.Context) error { _, err := value(ctx, "s", 1); return err })
			}
			return errors.Join(inner.Wait(), errors.New("first"))
		})
		g.Go("c", func(context.Context) error { return errors.New("second") })
		return g.Wait().Error(), nil
	})
	if r := p.lease(&handlerpb.Job{}); string(r.Output) != `"first"` {
		t.Errorf("the run is %v", r)
	}
	names := p.names()
	slices.Sort(names)
	if want := []string{"a/b#1/s[0]@0", "a/b/s[0]@0"}; !slices.Equal(names, want) {
		t.Errorf("recorded are %v", names)
	}
}

// A branch that waits is recorded at once while others go on; when all wait the
// run does, for what comes first.
func TestTheRunWaitsWhenAllBranchesDo(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		g := handlers.NewGroup(ctx)
		for i, d := range []time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour} {
			g.Go(fmt.Sprint("b", i), func(ctx context.Context) error { return handlers.Sleep(ctx, "nap", d) })
		}
		g.Go("r", func(ctx context.Context) error { _, err := handlers.Receive[int](ctx, "topic", 0); return err })
		err := g.Wait()
		t.Error("the run went on")
		return 0, err
	})
	r := p.lease(&handlerpb.Job{})
	if r.Outcome != wait || r.Wait.Kind != "sleep" || r.Wait.For != "b1/nap" || r.Wait.DelayMs > 3_600_000 || r.Wait.DelayMs < 3_500_000 {
		t.Fatalf("the run is %v", r)
	}
	var names []string
	for _, s := range append(p.steps(), r.Steps...) {
		if s.State != waiting {
			t.Errorf("recorded is %v", s)
		}
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if want := []string{"b0/nap", "b1/nap", "b2/nap", "r/topic"}; !slices.Equal(names, want) {
		t.Errorf("recorded are %v", names)
	}
	if len(r.Steps) > 1 {
		t.Errorf("%d steps were left to the end", len(r.Steps))
	}
}

// A sleep that is over while other branches still run goes on in its place.
func TestShortSleepBesideALongStep(t *testing.T) {
	slept := make(chan struct{})
	p := workflow(t, func(ctx context.Context) (int, error) {
		g := handlers.NewGroup(ctx)
		g.Go("long", func(ctx context.Context) error {
			_, err := handlers.Step(ctx, "s", func(context.Context) (int, error) { <-slept; return 1, nil })
			return err
		})
		g.Go("short", func(ctx context.Context) error {
			if err := handlers.Sleep(ctx, "nap", 5*time.Millisecond); err != nil {
				return err
			}
			tries := 0
			_, err := handlers.Step(ctx, "s", func(context.Context) (int, error) {
				if tries++; tries == 1 {
					return 0, errBroken
				}
				return tries, nil
			}, handlers.Tries(2), handlers.Backoff(time.Millisecond, 0))
			close(slept)
			return err
		})
		return 1, g.Wait()
	})
	r := p.lease(&handlerpb.Job{})
	if r.Outcome != done {
		t.Fatalf("the run is %v", r)
	}
	last := make(map[string]*handlerpb.Step)
	for _, s := range append(p.steps(), r.Steps...) {
		last[s.Name] = s
	}
	if len(last) != 3 || last["short/nap"].State != recorded || last["long/s"].State != recorded || last["short/s"].Tries != 2 {
		t.Errorf("recorded are %v", p.steps())
	}
}

// Whatever stops one branch stops all, at their next steps, and what is done by
// then is recorded.
func TestOneBranchStopsAll(t *testing.T) {
	began, asleep, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	p := workflow(t, func(ctx context.Context) (int, error) {
		g := handlers.NewGroup(ctx)
		g.Go("slow", func(ctx context.Context) error {
			if _, err := handlers.Step(ctx, "s", func(context.Context) (int, error) { close(began); <-goOn; return 1, nil }); err != nil {
				return err
			}
			_, err := value(ctx, "never", 1)
			return err
		})
		g.Go("halted", func(ctx context.Context) error {
			<-began
			<-asleep
			defer close(goOn)
			_, err := value(ctx, "s", 1)
			return err
		})
		g.Go("asleep", func(ctx context.Context) error { return handlers.Sleep(ctx, "nap", time.Hour) })
		return 1, g.Wait()
	})
	p.reply = func(c *handlerpb.StepCall) *handlerpb.StepReply {
		switch c.Steps[0].Name {
		case "asleep/nap":
			close(asleep)
		case "halted/s":
			return &handlerpb.StepReply{Halt: "cancel"}
		}
		return &handlerpb.StepReply{}
	}
	if r := p.lease(&handlerpb.Job{}); r.Outcome != cancel {
		t.Errorf("the run is %v", r)
	}
	names := p.names()
	slices.Sort(names)
	if want := []string{"asleep/nap[0]@0", "halted/s[0]@0", "slow/s[0]@0"}; !slices.Equal(names, want) {
		t.Errorf("recorded are %v", names)
	}
}

func TestGroupElsewhere(t *testing.T) {
	g := handlers.NewGroup(context.Background())
	g.Go("a", func(context.Context) error { t.Error("it runs"); return nil })
	if err := g.Wait(); err == nil || err.Error() != "group: the context is not a workflow's" {
		t.Errorf("the error is %v", err)
	}
}

// A branch of another name cannot be told from a new one before it is too late.
func TestRecordedStepsThatAreNotComeByAreToldOf(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		g := handlers.NewGroup(ctx)
		g.Go("new", func(ctx context.Context) error { _, err := value(ctx, "s", 1); return err })
		return 1, g.Wait()
	})
	r := p.lease(&handlerpb.Job{Steps: []*handlerpb.Step{{Name: "old/s"}, {Name: "old/t", Position: 1}}})
	if r.Outcome != done {
		t.Errorf("the run is %v", r)
	}
	var lines []string
	for _, f := range p.frames {
		for _, l := range f.Logs {
			lines = append(lines, string(l.Attrs))
		}
	}
	if !slices.Equal(lines, []string{`{"steps":2,"first":"old/s"}`}) {
		t.Errorf("the log says %v", lines)
	}
}
