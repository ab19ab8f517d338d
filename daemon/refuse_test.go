package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/store"
)

// tooMuch hands on more than may be, in each way that there is, and returns what
// it was told.
func (p plan) tooMuch(ctx context.Context) (json.RawMessage, error) {
	payload, huge := strings.Repeat("x", 2<<20), strings.Repeat("x", 17<<20)
	child := func(ctx context.Context, name, input string) error {
		_, err := handlers.Child[string](ctx, name, "flow", input)
		return err
	}
	g := handlers.NewGroup(ctx)
	var beside error
	g.Go("side", func(ctx context.Context) error {
		beside = child(ctx, "kid", payload)
		return nil
	})
	g.Go("other", func(ctx context.Context) error { return p.note(ctx, "busy", nothing) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// This goes with what is recorded next, which is refused.
	if err := handlers.Sleep(ctx, "doze", 1); err != nil {
		return nil, err
	}
	_, output := handlers.Step(ctx, "raw", func(context.Context) (json.RawMessage, error) { return json.RawMessage(`"\u0000"`), nil })
	var said []string
	for _, err := range []error{
		beside,
		handlers.Send(ctx, "shout", 1, "go", payload),
		handlers.Send(ctx, "roar", 1, "go", huge),
		handlers.Send(ctx, "nobody", 987654321, "go", 1),
		handlers.SetEvent(ctx, "seen", huge),
		child(ctx, "kid", payload),
		child(ctx, "kid", huge),
		output,
	} {
		var failed *handlers.StepError
		if err != nil && !errors.As(err, &failed) {
			return nil, err
		}
		said = append(said, fmt.Sprint(err))
	}
	// The replay after this gets the same.
	if err := handlers.Sleep(ctx, "nap", 1); err != nil {
		return nil, err
	}
	return json.Marshal(said)
}

// swell makes steps of 15 MB until one of them fails.
func (p plan) swell(ctx context.Context) (json.RawMessage, error) {
	for i := range p.N {
		_, err := handlers.Step(ctx, "big", func(context.Context) (string, error) { return strings.Repeat("x", 15<<20), nil })
		var failed *handlers.StepError
		if errors.As(err, &failed) {
			if err := handlers.Sleep(ctx, "nap", 1); err != nil { // it must be possible to lease it again
				return nil, err
			}
			return json.Marshal(fmt.Sprintf("%d: %s", i, failed))
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// What is too large, or breaks another rule, to be sent, published, handed to a
// child or returned, makes the step fail, which the function hears of; it costs no
// attempt, and a replay sees the same.
func TestWhatCannotBeHandedOnFailsItsStep(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.MaxAttempts = 1
		f := run(t, cfg)
		r := f.reaches(f.begin(plan{Do: "too much"}), store.RunSucceeded)
		var said []string
		if err := json.Unmarshal(r.Output, &said); err != nil || len(r.Errors) > 0 {
			t.Fatalf("output %s: %v; errors %+v", r.Output, err, r.Errors)
		}
		for i, want := range []string{
			"step side/kid failed: workflow \"flow\" cannot be started with its input: ",
			"step shout failed: the signal to run 1 cannot be sent: ",
			"step roar failed: the signal's payload is 17825794 bytes long, the limit is 16777216; keep what is large elsewhere and tell where it is",
			"<nil>",
			"step seen failed: the event's value is 17825794 bytes long, the limit is 16777216; keep what is large elsewhere and tell where it is",
			"step kid failed: workflow \"flow\" cannot be started with its input: ",
			"step kid#1 failed: the input is 17825794 bytes long, the limit is 16777216; keep what is large elsewhere and tell where it is",
			"step raw failed: the step cannot be recorded: ",
		} {
			if !strings.HasPrefix(said[i], want) {
				t.Errorf("the function was told %q, want %q", said[i], want)
			}
			if ours := strings.Contains(want, "cannot be s"); ours && !strings.HasSuffix(said[i], "2097154 bytes, the limit is 1048576; keep what is large elsewhere and tell where it is") {
				t.Errorf("the function was told %q, not the limit and what to do", said[i])
			}
		}
		steps := f.steps(r.ID)
		for _, want := range []string{"doze succeeded", "side/kid failed", "shout failed", "roar failed", "nobody failed", "seen failed", "kid failed", "raw failed", "after succeeded"} {
			if !slices.Contains(steps, want) {
				t.Errorf("the steps are %q, without %q", steps, want)
			}
		}
		if runs, err := s.Workflows().List(t.Context(), store.RunFilter{Workflow: "flow"}); err != nil || len(runs) != 1 {
			t.Errorf("there are %d runs, want no child: %v", len(runs), err)
		}
	})
}

// A run that its steps' outputs have made too large to be sent to a handler again
// would be lost with all its work. The step that crosses the limit fails instead.
func TestStepThatMakesARunTooLargeFails(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.MaxAttempts = 1
		f := run(t, cfg)
		r := f.reaches(f.begin(plan{Do: "swell", N: 6}), store.RunSucceeded)
		want := `"4: step big#4 failed: with its 15728642 bytes the recorded steps of the run would come to`
		if !strings.HasPrefix(string(r.Output), want) || !strings.Contains(string(r.Output), "the limit is 65011712 (62 MiB)") || len(r.Errors) > 0 {
			t.Errorf("output %s, want %s...; errors %+v", r.Output, want, r.Errors)
		}
		if got := f.steps(r.ID); !slices.Equal(got[1:], []string{
			"big succeeded", "big succeeded", "big succeeded", "big succeeded", "big failed", "nap succeeded", "after succeeded",
		}) {
			t.Errorf("steps %q", got)
		}
	})
}
