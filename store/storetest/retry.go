package storetest

import (
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

func retryRun(f *fixture) {
	c, l := f.leasedRun()
	failed := func(name string) store.StepResult { return store.StepResult{StepKey: key(name), Error: "no"} }
	f.record(c, l, failed("handled"), result("one", `1`), result("left/a", `1`), failed("left/b"), failed("two"),
		result("makeup", `3`), result("left/c", `1`), result("right/a", `1`))
	o := outcome(l, store.OutcomeDiscard)
	o.Version = "v1"
	f.settleAs(c, store.Dead, o)
	f.status(l.ID, store.RunFailed)
	f.ok(f.s.Workflows().Retry(f.ctx, l.ID))
	r := f.status(l.ID, store.RunQueued)
	equal(f, "failed attempts", r.Attempts, 0)
	equal(f, "errors", len(r.Errors), 1) // its history is kept
	equal(f, "steps", fmt.Sprint(stepNames(f.steps(l.ID))), "[handled one left/a right/a]")
	again := f.take1(c)
	equal(f, "attempt", again.Attempt, 1)
	f.record(c, again, result("two", `2`))
	f.settleAs(c, store.Done, outcome(again, store.OutcomeDone))
	f.status(l.ID, store.RunSucceeded)
}

func retryNotFailed(f *fixture) {
	c, l := f.leasedRun()
	table := f.s.Workflows()
	f.is(table.Retry(f.ctx, l.ID), store.ErrInvalid)
	f.done(c, l)
	f.is(table.Retry(f.ctx, l.ID), store.ErrInvalid)
	f.status(l.ID, store.RunSucceeded)
	id := f.run(c.Queue(), "")
	f.is(table.Retry(f.ctx, id), store.ErrInvalid)
	f.cancel(id, false, store.RunCancelled)
	f.is(table.Retry(f.ctx, id), store.ErrInvalid)
}

// failedRun is a run of three steps, a signal and an event that has failed.
func (f *fixture) failedRun() (store.Consumer, int64) {
	f.Helper()
	q := f.flow("flow")
	id, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: []byte(`{"order": 7}`), Key: "k", Headers: map[string]string{"a": "b"}})
	f.ok(err)
	c := f.consumer(q)
	l := f.take1(c)
	f.send(id, "approved", `1`, "")
	o := stepping(l, result("one", `1`), publishing("stage", "stage", `"paid"`), receiving("receive", f.oneSignal(id)))
	o.Version = "v1"
	f.settleAs(c, store.Leased, o)
	f.record(c, l, store.StepResult{StepKey: key("bad"), Error: "no", Position: 3}, result("last", `4`))
	f.settleAs(c, store.Dead, outcome(l, store.OutcomeDiscard))
	return c, id
}

func forkRun(f *fixture) {
	c, id := f.failedRun()
	before, _ := f.snapshot(id)
	fork, err := f.s.Workflows().Fork(f.ctx, id, key("bad"))
	f.ok(err)
	f.unchanged(before, false, id)
	r := f.status(fork, store.RunQueued)
	equal(f, "input", string(r.Payload), `{"order": 7}`)
	equal(f, "header", r.Headers["a"], "b")
	equal(f, "key", r.Key, "")
	equal(f, "version", r.Version, "v1")
	equal(f, "parent", r.Parent, 0)
	steps := f.steps(fork)
	equal(f, "steps", fmt.Sprint(stepNames(steps)), "[one stage receive]")
	equal(f, "output", string(steps[0].Output), `1`)
	equal(f, "run of the step", steps[0].Run, fork)
	equal(f, "kind", steps[2].Kind, store.StepSignal)
	got, err := f.s.Workflows().Events(f.ctx, fork)
	f.ok(err)
	equal(f, "events", len(got), 1) // the step that publishes it does not run again
	equal(f, "value", string(got[0].Value), `"paid"`)
	l := f.take1(c)
	equal(f, "run", l.ID, fork)
	f.record(c, l, result("bad", `"good"`))
	f.done(c, l)
	equal(f, "steps of the first", len(f.steps(id)), 5)
	f.status(id, store.RunFailed)
}

func forkStart(f *fixture) {
	c, id := f.failedRun()
	fork, err := f.s.Workflows().Fork(f.ctx, id, store.StepKey{})
	f.ok(err)
	equal(f, "steps", len(f.steps(fork)), 0)
	equal(f, "version", f.getRun(fork).Version, "")
	first, err := f.s.Workflows().Fork(f.ctx, id, key("one"))
	f.ok(err)
	equal(f, "steps", len(f.steps(first)), 0)
	running := f.take1(c)
	nap := store.StepResult{StepKey: key("nap"), Kind: store.StepSleep, State: store.StepWaiting, Delay: -1}
	f.record(c, running, result("a", `1`), nap, result("b", `2`))   // what waits is to be done again
	again, err := f.s.Workflows().Fork(f.ctx, running.ID, key("b")) // of one that has not ended
	f.ok(err)
	equal(f, "steps", fmt.Sprint(stepNames(f.steps(again))), "[a]")
}

func forkNoStep(f *fixture) {
	_, id := f.failedRun()
	_, err := f.s.Workflows().Fork(f.ctx, id, key("none"))
	f.is(err, store.ErrInvalid)
	_, err = f.s.Workflows().Fork(f.ctx, id, store.StepKey{Name: "one", Occurrence: 1})
	f.is(err, store.ErrInvalid)
	equal(f, "runs", len(f.ledger()), 1)
}
