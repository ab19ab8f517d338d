package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// world is what the steps of a workflow find outside: broken at first, whole
// when it is retried.
type world struct {
	broken bool
	late   chan struct{} // closed when a step has failed
}

// works is a step that succeeds.
func (w *world) works(ctx context.Context, name string) error {
	_, err := value(ctx, name, 1)
	return err
}

// breaks is a step that fails while the world is broken.
func (w *world) breaks(ctx context.Context, name string) error {
	_, err := handlers.Step(ctx, name, func(context.Context) (int, error) {
		if w.broken {
			return 0, errBroken
		}
		return 1, nil
	})
	return err
}

// slow is a step that succeeds once another one has failed, or works.
func (w *world) slow(ctx context.Context, name string) error {
	_, err := handlers.Step(ctx, name, func(context.Context) (int, error) {
		if w.broken {
			<-w.late
		}
		return 1, nil
	})
	return err
}

// group runs branches called a, b and so on.
func group(ctx context.Context, fns ...func(context.Context) error) error {
	g := handlers.NewGroup(ctx)
	for i, fn := range fns {
		g.Go(string(rune('a'+i)), fn)
	}
	return g.Wait()
}

// retried is what is left of recorded steps when the run is retried.
func retried(steps []*handlerpb.Step, from []*handlerpb.Place) []*handlerpb.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s *handlerpb.Step) bool {
		branch := ""
		if at := strings.LastIndexByte(s.Name, '/'); at >= 0 {
			branch = s.Name[:at]
		}
		return slices.ContainsFunc(from, func(p *handlerpb.Place) bool { return p.Branch == branch && s.Position >= p.Position })
	})
}

func TestARetryForgetsWhatCameOfTheFailure(t *testing.T) {
	tests := map[string]struct {
		fn   func(w *world, ctx context.Context) error
		from string // where the failure begins
		keep string // the steps that stay, by name
	}{
		"a step and what makes up for it": {func(w *world, ctx context.Context) error {
			_ = w.works(ctx, "before")
			if err := w.breaks(ctx, "pay"); err != nil {
				_ = w.works(ctx, "refund")
				return fmt.Errorf("pay: %w", err)
			}
			return w.works(ctx, "ship")
		}, ":1", "before"},
		"a failure before it that was come to terms with": {func(w *world, ctx context.Context) error {
			_ = w.breaks(ctx, "nice to have")
			_ = w.works(ctx, "charge")
			return w.breaks(ctx, "pay")
		}, ":2", "charge,nice to have"},
		"two failures in one error": {func(w *world, ctx context.Context) error {
			_ = w.works(ctx, "before")
			first := w.breaks(ctx, "one")
			return errors.Join(w.breaks(ctx, "two"), first)
		}, ":1", "before"},
		"a branch, and the main line behind it": {func(w *world, ctx context.Context) error {
			g := handlers.NewGroup(ctx)
			g.Go("left", func(ctx context.Context) error {
				_ = w.works(ctx, "a")
				err := w.breaks(ctx, "b")
				close(w.late)
				return err
			})
			g.Go("right", func(ctx context.Context) error { return w.slow(ctx, "charge") })
			_ = w.slow(ctx, "beside")
			if err := g.Wait(); err != nil {
				_ = w.works(ctx, "refund")
				return err
			}
			return w.works(ctx, "ship")
		}, ":1 left:1", "beside,left/a,right/charge"},
		"a group that makes up for it": {func(w *world, ctx context.Context) error {
			if err := group(ctx, func(ctx context.Context) error { return w.breaks(ctx, "x") }); err != nil {
				undo := handlers.NewGroup(ctx)
				undo.Go("undo", func(ctx context.Context) error {
					return group(ctx, func(ctx context.Context) error { return w.works(ctx, "y") })
				})
				return errors.Join(undo.Wait(), err)
			}
			return w.works(ctx, "ship")
		}, ":0 a:0 undo:0 undo/a:0", ""},
		"all branches that failed": {func(w *world, ctx context.Context) error {
			return group(ctx,
				func(ctx context.Context) error { return w.works(ctx, "charge") },
				func(ctx context.Context) error { return w.breaks(ctx, "x") },
				func(ctx context.Context) error { _ = w.works(ctx, "x"); return w.breaks(ctx, "y") },
				func(ctx context.Context) error { _ = w.breaks(ctx, "x"); return w.works(ctx, "y") },
			)
		}, ":0 b:0 c:1", "a/charge,c/x,d/x,d/y"},
		"a branch of a branch": {func(w *world, ctx context.Context) error {
			err := group(ctx, func(ctx context.Context) error {
				_ = w.works(ctx, "before")
				err := group(ctx,
					func(ctx context.Context) error { return w.breaks(ctx, "x") },
					func(ctx context.Context) error { return w.works(ctx, "charge") },
				)
				_ = w.works(ctx, "after")
				return err
			}, func(ctx context.Context) error { return w.works(ctx, "charge") })
			_ = w.works(ctx, "end")
			return err
		}, ":0 a:1 a/a:0", "a/b/charge,a/before,b/charge"},
		"branches before and behind the step": {func(w *world, ctx context.Context) error {
			early := handlers.NewGroup(ctx)
			early.Go("early", func(ctx context.Context) error { return w.slow(ctx, "charge") })
			err := w.breaks(ctx, "pay")
			close(w.late)
			_ = group(ctx, func(ctx context.Context) error { return w.works(ctx, "x") })
			return errors.Join(early.Wait(), err)
		}, ":0 a:0", "early/charge"},
		"an error that its branch kept for itself": {func(w *world, ctx context.Context) (err error) {
			_ = group(ctx, func(ctx context.Context) error { err = w.breaks(ctx, "x"); return nil })
			_ = w.works(ctx, "after")
			return err
		}, ":0 a:0", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := &world{broken: true, late: make(chan struct{})}
			p := workflow(t, func(ctx context.Context) (int, error) { return 0, tt.fn(w, ctx) })
			r := p.lease(&handlerpb.Job{})
			if r.Outcome != discard || !strings.Contains(r.Error, "broken") {
				t.Fatalf("the run is %v", r)
			}
			var from []string
			for _, at := range r.Failed {
				from = append(from, fmt.Sprint(at.Branch, ":", at.Position))
			}
			if got := strings.Join(from, " "); got != tt.from {
				t.Errorf("the failure begins at %q, want %q", got, tt.from)
			}
			kept := retried(p.steps(), r.Failed)
			names := make([]string, len(kept))
			for i, s := range kept {
				names[i] = s.Name
			}
			slices.Sort(names)
			if got := strings.Join(names, ","); got != tt.keep {
				t.Errorf("kept are %q, want %q", got, tt.keep)
			}

			// The world is mended: the run comes to a good end, and no kept step runs again.
			w = &world{late: make(chan struct{})}
			p = workflow(t, func(ctx context.Context) (int, error) { return 0, tt.fn(w, ctx) })
			if r := p.lease(&handlerpb.Job{Steps: kept}); r.Outcome != done {
				t.Fatalf("retried the run is %v", r)
			}
			for _, s := range p.steps() {
				if slices.Contains(names, s.Name) {
					t.Errorf("%s was recorded and ran again", s.Name)
				}
			}
		})
	}
}

// A run that has ended for another reason than a step's failure keeps them all.
func TestARetryForgetsNothingWithoutAFailedStep(t *testing.T) {
	over := int64(0)
	timedOut := &handlerpb.Step{Name: "go", Kind: "signal", Topic: "go", State: failed, Error: "timed out", DelayMs: &over}
	charge := &handlerpb.Step{Name: "charge", Position: 1, Output: []byte("1")}
	handled := func(ctx context.Context) {
		if _, err := handlers.Receive[int](ctx, "go", time.Hour); !errors.Is(err, handlers.ErrTimeout) {
			t.Errorf("the error is %v", err)
		}
	}
	var other *handlers.StepError
	tests := map[string]func(ctx context.Context) (int, error){
		"it diverged": func(ctx context.Context) (int, error) { handled(ctx); return value(ctx, "another", 1) },
		"it panicked": func(ctx context.Context) (int, error) { handled(ctx); panic("boom") },
		"it gave up":  func(ctx context.Context) (int, error) { handled(ctx); return 0, handlers.Discard(errBroken) },
		"its error says only what the step's said": func(ctx context.Context) (int, error) {
			_, err := handlers.Receive[int](ctx, "go", time.Hour)
			return 0, fmt.Errorf("go: %v", err) //nolint:errorlint // that is the case
		},
		"its error is one that it made by itself": func(ctx context.Context) (int, error) {
			handled(ctx)
			return 0, &handlers.StepError{Name: "charge"}
		},
		"its error is another run's": func(ctx context.Context) (int, error) { handled(ctx); return 0, other },
	}
	p := workflow(t, func(ctx context.Context) (int, error) {
		_, err := handlers.Step(ctx, "a", func(context.Context) (int, error) { return 0, errBroken })
		errors.As(err, &other)
		return 0, err
	})
	if p.lease(&handlerpb.Job{}); other == nil {
		t.Fatal("the other run has not failed")
	}
	for name, fn := range tests {
		t.Run(name, func(t *testing.T) {
			p := workflow(t, fn)
			r := p.lease(&handlerpb.Job{Steps: []*handlerpb.Step{timedOut, charge}})
			if r.Outcome != discard && r.Outcome != retry || len(r.Failed) > 0 {
				t.Errorf("the run is %v", r)
			}
		})
	}
}
