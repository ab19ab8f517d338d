package storetest

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func childCases() []testCase {
	return []testCase{
		{"Starts", childStarts},
		{"StartsOnce", childOnce},
		{"Succeeds", childSucceeds},
		{"Fails", childFails},
		{"FailsOfItsLastAttempt", childLastAttempt},
		{"IsCancelled", childCancelled},
		{"DiesWithItsWorker", childGivenBack},
		{"DiesWithAReclaimedWorker", childReclaimed},
		{"IsMovedByHand", childByHand},
		{"IsDeleted", childDeleted},
		{"IsPurged", childPurged},
		{"GoesWithItsQueue", childQueueDeleted},
		{"IsDeletedByItsOutcome", childDeletedBySettle},
		{"EndsBeforeTheParentWaits", childEndsFirst},
		{"EndsInTheBatchOfTheWait", childEndsWithWait},
		{"TwoEndTogether", childrenEndTogether},
		{"EndRacesTheWait", childRacesWait},
		{"EndsAfterTheParent", childEndsAfter},
		{"UnknownWorkflow", childUnknown},
		{"KeyIsTaken", childKey},
		{"CancelDescends", cancelDescends},
		{"CancelAlone", cancelAlone},
	}
}

// starting is the step that starts a run and waits for it.
func (f *fixture) starting(name, workflow string) store.StepResult {
	return store.StepResult{StepKey: key(name), Kind: store.StepChild, State: store.StepWaiting, Delay: -1,
		Child: &store.NewRun{Workflow: workflow, Input: []byte(`{"part": 1}`), Headers: map[string]string{"a": "b"}}}
}

// family is a run that waits for the run that it started.
func (f *fixture) family() (parents, children store.Consumer, parent, child int64) {
	f.Helper()
	children = f.consumer(f.queue("child", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 2}))
	c, l := f.leasedRun()
	f.settleAs(c, store.Delayed, waiting(l, -1, f.starting("part", "child")))
	child = f.oneStep(l.ID).Child
	if child == 0 {
		f.Fatal("the step has no child")
	}
	return c, children, l.ID, child
}

// ended checks the parent's step after the child has ended, and that the parent
// was woken.
func (f *fixture) childEnded(parents store.Consumer, parent int64, state store.StepState, output, reason string) {
	f.Helper()
	s := f.oneStep(parent)
	equal(f, "state of the step", s.State, state)
	equal(f, "output of the step", string(s.Output), output)
	if reason != "any" {
		equal(f, "error of the step", s.Error, reason)
	} else if s.Error == "" {
		f.Fatal("the step failed without an error")
	}
	equalTime(f, "finished at", s.FinishedAt, f.clock.Now())
	f.status(parent, store.RunQueued)
	l := f.take1(parents)
	equal(f, "run that was woken", l.ID, parent)
	equal(f, "attempt", l.Attempt, 1)
	f.takeNone(parents)
}

func childStarts(f *fixture) {
	_, children, parent, child := f.family()
	s := f.oneStep(parent)
	equal(f, "kind", s.Kind, store.StepChild)
	equal(f, "state", s.State, store.StepWaiting)
	r := f.status(child, store.RunQueued)
	equal(f, "workflow", r.Queue, "child")
	equal(f, "parent", r.Parent, parent)
	equal(f, "input", string(r.Payload), `{"part": 1}`)
	equal(f, "header", r.Headers["a"], "b")
	equal(f, "child", f.take1(children).ID, child)
	equal(f, "parent of the parent", f.status(parent, store.RunWaiting).Parent, 0)
}

func childOnce(f *fixture) {
	parents, _, parent, child := f.family()
	f.send(parent, "wake", `1`, "")
	l := f.take1(parents)
	f.record(parents, l, f.starting("part", "child")) // as after a settle whose answer was lost
	got := f.settle(parents, stepping(l, f.starting("more", "child")), stepping(l, f.starting("more", "child")))
	f.ok(got[0].Err)
	f.ok(got[1].Err)
	o := waiting(l, -1, f.starting("part", "child"))
	o.Wait.News = f.load(parent).News
	f.settleAs(parents, store.Delayed, o)
	equal(f, "child", f.steps(parent)[0].Child, child)
	equal(f, "steps", len(f.steps(parent)), 2)
	n, err := f.s.Workflows().Count(f.ctx, store.RunFilter{Workflow: "child"})
	f.ok(err)
	equal(f, "children", n, 2)
}

func childSucceeds(f *fixture) {
	parents, children, parent, _ := f.family()
	f.clock.Advance(time.Minute)
	o := outcome(f.take1(children), store.OutcomeDone)
	o.Output = []byte(`{"made": true}`)
	f.settleAs(children, store.Done, o)
	f.childEnded(parents, parent, store.StepSucceeded, `{"made": true}`, "")
}

func childFails(f *fixture) {
	parents, children, parent, _ := f.family()
	f.settleAs(children, store.Ready, outcome(f.take1(children), store.OutcomeRetry))
	f.status(parent, store.RunWaiting) // it has another attempt
	o := outcome(f.take1(children), store.OutcomeDiscard)
	o.Error = "out of stock"
	f.settleAs(children, store.Dead, o)
	f.childEnded(parents, parent, store.StepFailed, "", "out of stock")
}

func childLastAttempt(f *fixture) {
	parents, children, parent, _ := f.family()
	f.settleAs(children, store.Ready, outcome(f.take1(children), store.OutcomeRetry))
	o := outcome(f.take1(children), store.OutcomeRetry)
	o.Error = "twice"
	f.settleAs(children, store.Dead, o)
	f.childEnded(parents, parent, store.StepFailed, "", "twice")
}

func childCancelled(f *fixture) {
	parents, children, parent, child := f.family()
	f.take1(children)
	f.cancel(child, false, store.RunCancelling)
	f.status(parent, store.RunWaiting)
	f.runOut()
	l := f.take1(children)
	f.settleAs(children, store.Cancelled, outcome(l, store.OutcomeDone))
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

// childGivenBack: the child's lease runs out on its last attempt.
func childGivenBack(f *fixture) {
	parents, children, parent, child := f.family()
	f.start(children, f.take1(children))
	f.runOut()
	f.start(children, f.take1(children))
	f.runOut()
	f.takeNone(children)
	f.status(child, store.RunFailed)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

func childReclaimed(f *fixture) {
	parents, children, parent, child := f.family()
	f.settleAs(children, store.Ready, outcome(f.take1(children), store.OutcomeRetry))
	f.start(children, f.take1(children))
	f.clock.Advance(lease / 2)
	f.ok(parents.Heartbeat(f.ctx))
	a := f.admin()
	given, err := a.Reclaim(f.ctx, lease/4)
	f.ok(err)
	equal(f, "dead", given.Dead, 1)
	f.status(child, store.RunFailed)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

func childByHand(f *fixture) {
	parents, _, parent, child := f.family()
	errs, err := f.s.Archive().Insert(f.ctx, "not wanted", child)
	f.allOK(errs, err)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
	l := f.drain(parents, 1)
	equal(f, "runs ready", len(l), 0)
}

func childDeleted(f *fixture) {
	parents, _, parent, child := f.family()
	f.ok(f.s.Messages().Delete(f.ctx, child))
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

func childPurged(f *fixture) {
	parents, _, parent, _ := f.family()
	n, err := f.s.Queues().Purge(f.ctx, "child")
	f.ok(err)
	equal(f, "runs purged", n, 1)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

func childQueueDeleted(f *fixture) {
	parents, _, parent, child := f.family()
	f.ok(f.s.Queues().Delete(f.ctx, "child", true))
	f.gone(child)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

func childDeletedBySettle(f *fixture) {
	parents, children, parent, child := f.family()
	f.settleAs(children, "", outcome(f.take1(children), store.OutcomeDelete))
	f.gone(child)
	f.childEnded(parents, parent, store.StepFailed, "", "any")
}

// childEndsFirst: the parent starts it with a step of its own, and waits when it
// has ended.
func childEndsFirst(f *fixture) {
	children := f.consumer(f.flow("child"))
	c, l := f.leasedRun()
	news := f.load(l.ID).News
	f.record(c, l, f.starting("part", "child"))
	f.done(children, f.take1(children))
	equal(f, "state", f.oneStep(l.ID).State, store.StepSucceeded)
	o := waiting(l, -1)
	o.Wait.News = news
	f.settleAs(c, store.Ready, o)
	equal(f, "state", f.load(f.take1(c).ID).Steps[0].State, store.StepSucceeded)
}

// childEndsWithWait: a workflow that starts runs of itself, so that both are
// settled by one consumer.
func childEndsWithWait(f *fixture) {
	for _, childFirst := range []bool{true, false} {
		q := f.flow(map[bool]string{true: "first", false: "last"}[childFirst])
		f.run(q, "")
		c := f.consumer(q)
		l := f.take1(c)
		f.record(c, l, f.starting("part", q))
		outcomes := []store.Outcome{outcome(f.take1(c), store.OutcomeDone), waiting(l, -1)}
		if !childFirst {
			outcomes[0], outcomes[1] = outcomes[1], outcomes[0]
		}
		for _, s := range f.settle(c, outcomes...) {
			f.ok(s.Err)
		}
		f.status(l.ID, store.RunQueued)
		equal(f, "state", f.oneStep(l.ID).State, store.StepSucceeded)
		equal(f, "run that was woken", f.take1(c).ID, l.ID)
	}
}

func childrenEndTogether(f *fixture) {
	children := f.consumer(f.flow("child"))
	c, l := f.leasedRun()
	f.settleAs(c, store.Delayed, waiting(l, -1, f.starting("left/part", "child"), f.starting("right/part", "child")))
	f.done(children, f.take(children, 2)...)
	for _, s := range f.steps(l.ID) {
		equal(f, "state of step "+s.Name, s.State, store.StepSucceeded)
	}
	equal(f, "run that was woken", f.take1(c).ID, l.ID)
	f.takeNone(c)
}

// childRacesWait: whichever comes first, the parent hears of its child's end.
func childRacesWait(f *fixture) {
	children := f.on(f.second()).consumer(f.flow("child"))
	c, l := f.leasedRun()
	for i := range races {
		news := f.load(l.ID).News
		f.record(c, l, f.starting(fmt.Sprint("part", i), "child"))
		child := f.take1(children)
		o := waiting(l, -1)
		o.Wait.News = news
		var waits, ends []store.Settled
		var errWait, errEnd error
		race(
			func() { waits, errWait = c.Settle(f.ctx, []store.Outcome{o}) },
			func() { ends, errEnd = children.Settle(f.ctx, []store.Outcome{outcome(child, store.OutcomeDone)}) },
		)
		f.ok(errWait)
		f.ok(errEnd)
		f.ok(waits[0].Err)
		f.ok(ends[0].Err)
		l = f.take1(c)
		equal(f, "state", f.steps(l.ID)[i].State, store.StepSucceeded)
	}
}

func childEndsAfter(f *fixture) {
	_, children, parent, child := f.family()
	f.cancel(parent, false, store.RunCancelled)
	f.done(children, f.take1(children))
	f.status(child, store.RunSucceeded)
	f.status(parent, store.RunCancelled)
	// And when the parent is gone.
	l := f.run("flow", "")
	c := f.consumer("flow")
	f.settleAs(c, store.Delayed, waiting(f.take1(c), -1, f.starting("part", "child")))
	f.cancel(l, false, store.RunCancelled)
	f.ok(f.s.Workflows().Delete(f.ctx, l))
	f.done(children, f.take1(children))
	f.gone(l)
	f.noSteps(l)
}

func childUnknown(f *fixture) {
	c, l := f.leasedRun()
	f.queue("jobs")
	f.unknownQueue(f.settle(c, stepping(l, result("one", `1`), f.starting("part", "flaw")))[0].Err, "flaw")
	f.settleIs(c, store.ErrInvalid, stepping(l, result("one", `1`), f.starting("part", "jobs")))
	bad := f.starting("part", "flow")
	bad.Child.Input = []byte(`{`)
	f.settleIs(c, store.ErrInvalid, stepping(l, result("one", `1`), bad))
	equal(f, "steps", len(f.steps(l.ID)), 0)
	equal(f, "messages", len(f.ledger()), 1)
	f.state(l.ID, store.Leased, 0)
}

// childKey: the key of a run that is there already is the step's failure.
func childKey(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(f.flow("child"), "k")
	s := f.starting("part", "child")
	s.Child.Key = "k"
	f.settleAs(c, store.Leased, stepping(l, s))
	equal(f, "state", f.oneStep(l.ID).State, store.StepFailed)
	equal(f, "parent", f.getRun(other).Parent, 0)
	s = f.starting("other", "child")
	s.Child.Key = "l"
	f.record(c, l, s)
	equal(f, "key", f.getRun(f.steps(l.ID)[1].Child).Key, "l")
}

func cancelDescends(f *fixture) {
	_, children, parent, child := f.family()
	l := f.take1(children)
	f.settleAs(children, store.Delayed, waiting(l, -1, f.starting("deeper", "child")))
	grandchild := f.oneStep(child).Child
	f.take1(children)
	f.cancel(parent, true, store.RunCancelled)
	f.status(child, store.RunCancelled)
	f.status(grandchild, store.RunCancelling) // a worker has it
	equal(f, "halt", f.load(grandchild).Halt, store.HaltCancel)
}

func cancelAlone(f *fixture) {
	_, _, parent, child := f.family()
	f.cancel(parent, false, store.RunCancelled)
	f.status(child, store.RunQueued)
}
