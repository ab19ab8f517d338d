package storetest

import (
	"fmt"
	"strings"
	"sync"

	"github.com/pgqrs/pgqrsd/store"
)

func keyIdempotent(f *fixture) {
	q, other := f.flow("flow"), f.flow("other")
	id := f.run(q, "k")
	same := func() {
		f.Helper()
		again, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(1), Key: "k"})
		f.ok(err)
		if created || again != id {
			f.Fatalf("run %d, created %t, want run %d again", again, created, id)
		}
	}
	same()
	c := f.consumer(q)
	l := f.take1(c)
	same()
	f.done(c, l)
	same() // also when it is finished
	f.takeNone(c)
	equal(f, "messages", len(f.ledger()), 1)

	// A key is its workflow's own, and no key is no key.
	f.run(other, "k")
	f.run(q, "l")
	f.run(q, "")
	f.run(q, "")
}

func keyConflict(f *fixture) {
	q := f.flow("flow")
	f.run(q, "k")
	_, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(2), Key: "k"})
	f.is(err, store.ErrKeyConflict)
	equal(f, "created", created, false)
	equal(f, "messages", len(f.ledger()), 1)
}

// keySpaces: an input that differs in white space alone is the same.
func keySpaces(f *fixture) {
	q := f.flow("flow")
	start := func(input string) (int64, bool) {
		f.Helper()
		id, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: []byte(input), Key: "k"})
		f.ok(err)
		return id, created
	}
	first, _ := start(`{"a": [1, "x y"]}`)
	again, created := start(" {\"a\":[1,\"x y\"]}\n")
	equal(f, "run", again, first)
	equal(f, "created", created, false)
	_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: []byte(`{"a": [1, "xy"]}`), Key: "k"})
	f.is(err, store.ErrKeyConflict)
}

func keyLength(f *fixture) {
	q := f.flow("flow")
	f.run(q, strings.Repeat("k", store.MaxRunKey))
	_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Key: strings.Repeat("k", store.MaxRunKey+1)})
	f.is(err, store.ErrInvalid)
	equal(f, "messages", len(f.ledger()), 1)
}

func keyRaces(f *fixture) {
	q := f.flow("flow")
	handles := []store.Store{f.s, f.second()}
	for round := range 5 {
		ids, made, errs := make([]int64, 6), make([]bool, 6), make([]error, 6)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				ids[i], made[i], errs[i] = handles[i%2].CreateWorkflow(f.ctx,
					store.NewRun{Workflow: q, Input: payload(1), Key: fmt.Sprint(round)})
			})
		}
		wg.Wait()
		f.allOK(errs, nil)
		n := 0
		for i := range ids {
			equal(f, "run", ids[i], ids[0])
			if made[i] {
				n++
			}
		}
		equal(f, "runs created", n, 1)
		equal(f, "messages", len(f.ledger()), round+1)
	}
}
