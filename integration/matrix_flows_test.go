package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// flowLoad is a workload of runs that do everything that runs can.
type flowLoad struct {
	*flows
	rng     *rand.Rand
	created int
}

func flowMatrix(t *testing.T, w *world) *matrix {
	t.Helper()
	m := newMatrix(w)
	f := newFlows(t, w)
	w.plugin("failing-testworkflow", "testworkflow")
	m.s = f.settings("concurrency = 20\nmax_attempts = 1000", "FAILPOINTS="+m.dir)
	m.work = &flowLoad{flows: f, rng: m.rng}
	return m
}

func (f *flowLoad) open() {
	f.t.Helper()
	f.queueThere("flow")
}

// load starts runs of everything: steps, tries, sleeps, branches, children,
// events, and signals to those in the returned list that receive them.
func (f *flowLoad) load() (ids []int64) {
	f.t.Helper()
	create := func(ops ...op) int64 {
		var id int64
		f.created++
		f.eventually("a run to be started", func() bool {
			made, err := f.tryCreate(fmt.Sprint("run ", f.created), ops...)
			id = made
			return err == nil
		})
		ids = append(ids, id)
		return id
	}
	for i := range 3 {
		receiver := create(step("a"), receive("go").with("ms", 600_000), step("b"))
		create(step("c"), op{"op": "send", "name": "go", "run": receiver, "payload": i}, step("d"))
		create(step("e").with("fail", 1).with("tries", 3), op{"op": "sleep", "name": "nap", "ms": 1 + f.rng.IntN(40)}, op{"op": "event", "name": "ev", "payload": i}, step("f"))
		create(op{"op": "child", "name": "kid", "ops": []op{step("k")}}, step("g"),
			op{"op": "branches", "name": "fork", "ops": []op{step("h"), step("i"), {"op": "sleep", "name": "j", "ms": 5}}}, step("l"))
	}
	return ids
}

func (f *flowLoad) progress() int { return len(f.lines()) }

func (f *flowLoad) check(what string, ids []int64) {
	f.t.Helper()
	for _, id := range ids {
		r := f.run(id)
		if r.Status != store.RunSucceeded {
			f.t.Errorf("%s: run %d is %s: %v", what, id, r.Status, r.Errors)
		}
	}
	for i := 0; i < len(ids); i += 4 { // the receivers
		if out := string(f.run(ids[i]).Output); !strings.Contains(out, fmt.Sprintf("%q", fmt.Sprint(i/4))) {
			f.t.Errorf("%s: run %d received something else than %d: %s", what, ids[i], i/4, out)
		}
	}
	f.noneRanAgain(ids...)
}
