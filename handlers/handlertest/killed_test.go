package handlertest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

const (
	killedBranches = 3
	killedSteps    = 4
)

// counter counts the bodies that run in one lease, by their steps' keys.
type counter struct {
	mu     sync.Mutex
	runs   map[string]int
	failed map[string]bool // once, whatever lease it was
}

func (c *counter) body(n int) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		key := handlers.StepKey(ctx)
		c.runs[key]++
		if n == 2 && !c.failed[key] {
			c.failed[key] = true
			return 0, errors.New("once")
		}
		return n, nil
	}
}

// sum adds up what its branches' steps return, and sleeps in between.
func (c *counter) sum(ctx context.Context, _ struct{}) (int, error) {
	sums := make([]int, killedBranches)
	g := handlers.NewGroup(ctx)
	for i := range sums {
		g.Go("branch", func(ctx context.Context) error {
			for n := range killedSteps {
				v, err := handlers.Step(ctx, "add", c.body(n), handlers.Tries(2))
				if err == nil {
					sums[i] += v
					err = handlers.Sleep(ctx, "nap", time.Duration(n)*time.Minute)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	total := 0
	for _, s := range sums {
		total += s
	}
	return total, nil
}

// Whenever the process is lost, what was recorded does not run again, and the
// run ends right.
func TestKilledAtRandom(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		c := &counter{runs: make(map[string]int), failed: make(map[string]bool)}
		w := handlertest.NewWorkflow(t, handlers.Workflow("sum", c.sum), struct{}{})
		branches := []string{"branch", "branch#1", "branch#2"}
		recorded := make(map[string]bool)
		var r handlertest.Result
		for leases := 0; r.Outcome != handlertest.Done; leases++ {
			name := branches[rng.IntN(len(branches))] + []string{"/add", "/nap"}[rng.IntN(2)]
			switch rng.IntN(4) {
			case 0:
				w.KillBefore(name)
			case 1:
				w.KillAfter(name)
			case 2:
				w.Pass(time.Duration(rng.IntN(200)) * time.Second)
			}
			clear(c.runs)
			r = w.Lease()
			for key := range c.runs {
				if recorded[key] {
					t.Fatalf("seed %d: the body of step %s ran after it was recorded", seed, key)
				}
			}
			for _, s := range w.Steps() {
				if s.Kind == "step" && s.State == "succeeded" {
					recorded[fmt.Sprintf("1/%s/%d", s.Name, s.Occurrence)] = true
				}
			}
			if r.Outcome == handlertest.Discard || r.Outcome == handlertest.Retry || leases > 500 {
				t.Fatalf("seed %d: after %d leases the run is %+v", seed, leases, r)
			}
		}
		if want := killedBranches * (0 + 1 + 2 + 3); string(r.Output) != fmt.Sprint(want) || len(recorded) != killedBranches*killedSteps {
			t.Errorf("seed %d: the sum is %s, recorded are %d steps", seed, r.Output, len(recorded))
		}
	}
}
