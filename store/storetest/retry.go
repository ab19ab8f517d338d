package storetest

import (
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

// againCases are about runs that are carried on, or begun anew from another one.
func againCases() []testCase {
	return []testCase{
		{"Retry", retryRun},
		{"RetryForgetsByBranch", retryBranches},
		{"RetryForgetsNothing", retryNothing},
		{"RetryAfterAnotherEnd", retryAnotherEnd},
		{"RetryAfterAReplay", retryReplayed},
		{"RetryGivesSignalsBack", retrySignals},
		{"RetryStartsAnotherChild", retryChild},
		{"RetryOfWhatHasNotFailed", retryNotFailed},
		{"Fork", forkRun},
		{"ForkFromTheStart", forkStart},
		{"ForkKeepsSignals", forkSignals},
		{"ForkOfNoStep", forkNoStep},
	}
}

// in places steps of one branch at its positions from first on.
func in(first int, steps ...store.StepResult) []store.StepResult {
	for i := range steps {
		steps[i].Position = first + i
	}
	return steps
}

func failedStep(name string) store.StepResult {
	return store.StepResult{StepKey: key(name), Error: "no"}
}

// fails ends a run by a failure that begins at these places.
func (f *fixture) fails(c store.Consumer, l store.LeasedMessage, from ...store.Place) {
	f.Helper()
	o := outcome(l, store.OutcomeDiscard)
	o.Failed = from
	f.settleAs(c, store.Dead, o)
	f.status(l.ID, store.RunFailed)
}

// retry carries a run on and checks which steps it has kept.
func (f *fixture) retry(id int64, kept ...string) {
	f.Helper()
	f.ok(f.s.Workflows().Retry(f.ctx, id))
	f.status(id, store.RunQueued)
	equal(f, "steps", fmt.Sprint(stepNames(f.steps(id))), fmt.Sprint(kept))
}

func retryRun(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, in(0, result("one", `1`), failedStep("two"), result("makeup", `3`))...)
	f.fails(c, l, store.Place{Position: 1})
	f.retry(l.ID, "one")
	r := f.getRun(l.ID)
	equal(f, "failed attempts", r.Attempts, 0)
	equal(f, "errors", len(r.Errors), 1) // its history is kept
	again := f.take1(c)
	equal(f, "attempt", again.Attempt, 1)
	f.record(c, again, in(1, result("two", `2`))...)
	f.settleAs(c, store.Done, outcome(again, store.OutcomeDone))
	f.status(l.ID, store.RunSucceeded)
}

// retryBranches: what ran beside the failure stays, whenever it was recorded.
func retryBranches(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, in(0, result("one", `1`))...)
	f.record(c, l, in(0, result("left/a", `1`), failedStep("left/b"), result("left/c", `1`))...)
	f.record(c, l, in(0, result("right/a", `1`), failedStep("right/b"))...)
	f.record(c, l, in(0, result("left/in/a", `1`), result("undo/in/a", `1`))...)
	f.record(c, l, in(1, result("beside", `1`), result("refund", `1`))...)
	f.record(c, l, in(0, result("undo/a", `1`), result("undo/b", `1`))...)
	f.fails(c, l, store.Place{Position: 2}, store.Place{Branch: "left", Position: 1}, store.Place{Branch: "undo"},
		store.Place{Branch: "undo/in"}, store.Place{Branch: "none", Position: 7})
	f.retry(l.ID, "one", "left/a", "right/a", "right/b", "left/in/a", "beside")
	// The order of recording is kept too.
	l = f.take1(c)
	f.record(c, l, in(1, result("left/b", `1`))...)
	equal(f, "the last step", f.load(l.ID).Steps[6].Name, "left/b")
}

// retryNothing: a run that has ended for another reason than a step keeps the
// failures that it has come to terms with, and all that is behind them.
func retryNothing(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, in(0, failedStep("handled"), result("charge", `1`))...)
	f.fails(c, l)
	f.retry(l.ID, "handled", "charge")
}

// retryAnotherEnd: what ended a run once is of no account when it ends otherwise.
func retryAnotherEnd(f *fixture) {
	q := f.queue("flow", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1})
	c := f.consumer(q)
	f.run(q, "")
	l := f.take1(c)
	f.record(c, l, in(0, failedStep("one"))...)
	f.fails(c, l, store.Place{})
	f.retry(l.ID)
	l = f.take1(c)
	f.record(c, l, in(0, result("one", `1`), result("two", `2`))...)
	f.settleAs(c, store.Dead, outcome(l, store.OutcomeRetry)) // its last attempt
	f.retry(l.ID, "one", "two")
	l = f.take1(c)
	f.start(c, l)
	f.runOut()
	f.takeNone(c)
	f.status(l.ID, store.RunFailed)
	f.retry(l.ID, "one", "two")
}

// retryReplayed: so it is when its message was put back alone.
func retryReplayed(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, in(0, failedStep("one"))...)
	f.fails(c, l, store.Place{})
	_, err := f.s.Archive().Replay(f.ctx, l.ID)
	f.ok(err)
	l = f.take1(c)
	f.record(c, l, in(1, result("two", `2`))...)
	f.fails(c, l)
	f.retry(l.ID, "one", "two")
}

func retrySignals(f *fixture) {
	c, l := f.leasedRun()
	first, second := f.send(l.ID, "first", `1`, ""), f.send(l.ID, "second", `2`, "k")
	signals := f.load(l.ID).Signals
	f.record(c, l, in(0, receiving("first", signals[0]), failedStep("pay"), receiving("second", signals[1]))...)
	third := f.send(l.ID, "third", `3`, "")
	f.fails(c, l, store.Place{Position: 1})
	f.retry(l.ID, "first")
	list, err := f.s.Workflows().Signals(f.ctx, l.ID)
	f.ok(err)
	for i, want := range []store.Signal{{ID: first, Taken: true}, {ID: second}, {ID: third}} {
		if list[i].ID != want.ID || list[i].Taken != want.Taken {
			f.Errorf("signal %d is %+v, want %+v", i+1, list[i], want)
		}
	}
	l = f.take1(c)
	got := f.load(l.ID).Signals
	equal(f, "signals", len(got), 2)
	equal(f, "the oldest", got[0].ID, second)
	f.record(c, l, in(1, result("pay", `1`), receiving("second", got[0]))...)
	f.oneSignal(l.ID)
}

// retryChild: a step that started a run and is forgotten starts another one.
func retryChild(f *fixture) {
	parents, children, parent, child := f.family()
	f.settleAs(children, store.Dead, outcome(f.take1(children), store.OutcomeDiscard))
	l := f.take1(parents)
	f.fails(parents, l, store.Place{})
	// Carried on by itself it tells its parent nothing more.
	f.retry(child)
	f.done(children, f.take1(children))
	equal(f, "state of the step", f.oneStep(parent).State, store.StepFailed)
	f.retry(parent)
	l = f.take1(parents)
	o := waiting(l, -1, f.starting("part", "child"))
	o.Wait.News = f.load(parent).News
	f.settleAs(parents, store.Delayed, o)
	another := f.oneStep(parent).Child
	if another == child || another == 0 {
		f.Fatalf("the step has the child %d, as before", another)
	}
	f.done(children, f.take1(children))
	equal(f, "state of the step", f.oneStep(parent).State, store.StepSucceeded)
	f.status(parent, store.RunQueued)
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

// forkSignals: a copied step keeps what it has received, and a retry of the fork
// gives it back to the fork. The other signals are the first run's.
func forkSignals(f *fixture) {
	c, l := f.leasedRun()
	for i, topic := range []string{"first", "second", "third"} {
		f.send(l.ID, topic, fmt.Sprint(i+1), "key "+topic)
	}
	signals := f.load(l.ID).Signals
	f.record(c, l, in(0, failedStep("pay"), receiving("first", signals[0]), result("stop", `1`), receiving("second", signals[1]))...)
	before, _ := f.snapshot(l.ID)
	fork, err := f.s.Workflows().Fork(f.ctx, l.ID, key("stop"))
	f.ok(err)
	f.unchanged(before, false, l.ID)
	equal(f, "signals of the first", fmt.Sprint(f.taken(l.ID)), "[first second]")
	equal(f, "signals of the fork", fmt.Sprint(f.taken(fork)), "[first]")
	list, err := f.s.Workflows().Signals(f.ctx, fork)
	f.ok(err)
	equal(f, "signals of the fork", len(list), 1)
	equal(f, "payload", string(list[0].Payload), `1`)
	equal(f, "key", list[0].Key, "key first")
	l = f.take1(c)
	equal(f, "run", l.ID, fork)
	equal(f, "signals to take", len(f.load(fork).Signals), 0)
	f.fails(c, l, store.Place{})
	f.retry(fork)
	s := f.oneSignal(fork)
	equal(f, "topic", s.Topic, "first")
	l = f.take1(c)
	f.record(c, l, in(0, result("pay", `1`), receiving("first", s))...)
}

// taken are the topics of the signals that a run has taken.
func (f *fixture) taken(run int64) (topics []string) {
	f.Helper()
	list, err := f.s.Workflows().Signals(f.ctx, run)
	f.ok(err)
	for _, s := range list {
		if s.Taken {
			topics = append(topics, s.Topic)
		}
	}
	return topics
}

func forkNoStep(f *fixture) {
	_, id := f.failedRun()
	_, err := f.s.Workflows().Fork(f.ctx, id, key("none"))
	f.is(err, store.ErrInvalid)
	_, err = f.s.Workflows().Fork(f.ctx, id, store.StepKey{Name: "one", Occurrence: 1})
	f.is(err, store.ErrInvalid)
	equal(f, "runs", len(f.ledger()), 1)
}
