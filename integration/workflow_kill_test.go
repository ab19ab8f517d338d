package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	killSteps = 10 // of each run
	suicides  = 3  // steps whose first try kills its own process
)

// killRuns is how many runs the kill tests have: 100, or PGQRS_TEST_RUNS.
func killRuns(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PGQRS_TEST_RUNS")
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// seed makes the choice of victims and moments the same every time, as far as
// processes that run at once allow.
const seed = 20240229

// createTens starts runs of ten steps, one of which is a sleep.
func (w *flows) createTens(rng *rand.Rand, n int) []int64 {
	w.t.Helper()
	runs := make([][]op, n)
	for i := range runs {
		for s := range killSteps {
			runs[i] = append(runs[i], step(fmt.Sprintf("s%d", s)))
		}
		runs[i][rng.IntN(killSteps)] = op{"op": "sleep", "name": "nap", "ms": 1 + rng.IntN(300)}
	}
	for range suicides {
		runs[rng.IntN(n)][rng.IntN(killSteps)].with("die", 1)
	}
	var ids []int64
	for _, ops := range runs {
		ids = append(ids, w.createMany(1, ops...)...)
	}
	return ids
}

// Runs of ten steps go on through SIGKILL of the handler and of the daemon at
// random moments: every run ends right, with the results that were recorded
// first, and no recorded step's body runs again.
func TestWorkflowsThroughKills(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := w.settings("concurrency = 20\nmax_attempts = 1000")
		d := w.up("first", s)
		n := killRuns(t)
		ids := w.createTens(rng, n)
		for i := range n / 8 {
			w.goesOn(10 + rng.IntN(2*8*killSteps))
			// A handler that dies often is started again ever more rarely.
			if i%3 == 2 || rng.IntN(2) == 0 {
				d.kill()
				d = w.start(fmt.Sprint("after kill ", i), s)
				continue
			}
			for _, pid := range d.children() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have died by itself
			}
		}
		d.stop() // a deploy, while runs go on
		d = w.start("last", s)
		w.allEndRight(ids)
		d.stop()
		w.noneLeased()
	})
}

// Postgres crashes and comes back while runs go on.
func TestWorkflowsThroughPostgresCrash(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	w := newFlows(t, newWorld(t, cluster.DSN(), "pgqrs"))
	rng := rand.New(rand.NewPCG(seed, 2))
	d := w.up("a", w.settings("concurrency = 20\nmax_attempts = 1000"))
	ids := w.createTens(rng, killRuns(t))
	for range 3 {
		w.goesOn(50 + rng.IntN(200))
		cluster.StopImmediate()
		w.eventually("readyz to say that the database is away", func() bool { return d.get("/readyz") == 503 })
		cluster.Start()
		w.eventually("readyz to be well again", func() bool { return d.get("/readyz") == 200 })
	}
	w.allEndRight(ids)
	d.stop()
	w.noneLeased()
}

// goesOn waits until the journal has grown by n lines, or all runs have ended.
func (w *flows) goesOn(n int) {
	w.t.Helper()
	until := len(w.lines()) + n
	w.eventually("the runs to go on", func() bool {
		return len(w.lines()) >= until || w.unfinishedRuns() == 0
	})
}

func (w *flows) unfinishedRuns() int64 { return w.unfinishedOf("flow") }

// unfinishedOf counts a workflow's runs that have not ended; -1 while the database is away.
func (w *world) unfinishedOf(workflow string) int64 {
	n, err := w.store.Messages().Count(w.t.Context(), store.MessageFilter{Queue: workflow})
	if err != nil {
		return -1
	}
	return n
}

// allEndRight waits for the runs' end and checks what they and their steps came to.
func (w *flows) allEndRight(ids []int64) {
	w.t.Helper()
	w.eventually("every run to end", func() bool { return w.unfinishedRuns() == 0 })
	for _, id := range ids {
		r := w.run(id)
		if r.Status != store.RunSucceeded {
			w.t.Errorf("run %d is %s: %v", id, r.Status, r.Errors)
			continue
		}
		var out []string
		must(w.t, json.Unmarshal(r.Output, &out))
		if recorded := w.outputs(id); !slices.Equal(out, recorded) {
			w.t.Errorf("run %d returned %v, its steps recorded %v", id, out, recorded)
		}
	}
	w.noneRanAgain(ids...)
}

// outputs are what a run's steps recorded, in order.
func (w *flows) outputs(id int64) []string {
	w.t.Helper()
	steps, err := w.store.Workflows().Steps(w.t.Context(), id)
	must(w.t, err)
	if len(steps) != killSteps {
		w.t.Errorf("run %d has %d recorded steps, want %d", id, len(steps), killSteps)
	}
	slices.SortFunc(steps, func(a, b store.StepRecord) int { return a.Position - b.Position })
	out := make([]string, len(steps))
	for i, s := range steps {
		if s.Position != i || s.State != store.StepSucceeded {
			w.t.Errorf("run %d: step %s at position %d is %s", id, s.Name, s.Position, s.State)
		}
		if out[i] = "slept"; s.Kind == store.StepBody {
			out[i] = strings.Trim(string(s.Output), `"`)
		}
	}
	return out
}
