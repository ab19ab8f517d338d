package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func waitMoves(f *fixture) {
	c, l := f.leasedRun()
	now := f.clock.Now()
	f.settleAs(c, store.Delayed, waiting(l, time.Hour, result("one", `1`)))
	m := f.state(l.ID, store.Delayed, 0)
	equalTime(f, "available at", m.AvailableAt, now.Add(time.Hour))
	r := f.status(l.ID, store.RunWaiting)
	equal(f, "wait's kind", r.Wait.Kind, store.WaitSignal)
	equal(f, "what for", r.Wait.For, "approved")
	equalTime(f, "until", r.Wait.Until, now.Add(time.Hour))
	equal(f, "steps", r.Steps, 1)
	f.takeNone(c)
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 1, 1, -1)
	f.status(l.ID, store.RunQueued)
	l = f.take1(c)
	f.settleAs(c, store.Done, outcome(l, store.OutcomeDone))
}

func waitCostsNothing(f *fixture) {
	c, l := f.leasedRun() // with three attempts
	for range 10 {
		f.start(c, l)
		f.settleAs(c, store.Ready, waiting(l, 0))
		l = f.take1(c)
		equal(f, "attempt", l.Attempt, 1)
	}
	f.state(l.ID, store.Leased, 0)
}

func waitStale(f *fixture) {
	c, l := f.leasedRun()
	f.send(l.ID, "approved", `1`, "")
	f.settleAs(c, store.Ready, waiting(l, time.Hour))
	l = f.take1(c)
	o := waiting(l, time.Hour)
	o.Wait.News = f.load(l.ID).News
	f.settleAs(c, store.Delayed, o)
}

func waitForEver(f *fixture) {
	c, l := f.leasedRun()
	f.settleAs(c, store.Delayed, waiting(l, -1))
	equalTime(f, "available at", f.get(l.ID).AvailableAt, time.Time{})
	equalTime(f, "until", f.status(l.ID, store.RunWaiting).Wait.Until, time.Time{})
	f.clock.Advance(50 * 365 * 24 * time.Hour)
	f.promote(f.admin(), 1, 0, -1)
	f.takeNone(c)
	equal(f, "delayed", f.metrics(f.admin(), c.Queue()).Delayed, 1)
}

func waitNothing(f *fixture) {
	c, l := f.leasedRun()
	f.settleIs(c, store.ErrInvalid, store.Outcome{Lease: l.Lease, Kind: store.OutcomeWait})
	o := waiting(l, time.Hour)
	o.Wait.Kind = "rain"
	f.settleIs(c, store.ErrInvalid, o)
	f.state(l.ID, store.Leased, 0)
}

func stepWaits(f *fixture) {
	c, l := f.leasedRun()
	sleep := store.StepResult{StepKey: key("nap"), Kind: store.StepSleep, State: store.StepWaiting, Delay: time.Hour}
	f.settleAs(c, store.Delayed, waiting(l, time.Hour, sleep))
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 1, 1, -1)
	l = f.take1(c)
	sleep.State, sleep.Delay = store.StepSucceeded, 0
	f.record(c, l, sleep, result("next", `1`))
	steps := f.steps(l.ID)
	equal(f, "order", fmt.Sprint(stepNames(steps)), "[nap next]")
	equal(f, "state", steps[0].State, store.StepSucceeded)
	equal(f, "kind", steps[0].Kind, store.StepSleep)
	equalTime(f, "started at", steps[0].StartedAt, f.clock.Now().Add(-time.Hour))
	equalTime(f, "finished at", steps[0].FinishedAt, f.clock.Now())
}

func stepTries(f *fixture) {
	c, l := f.leasedRun()
	try := store.StepResult{StepKey: key("pay"), State: store.StepWaiting, Delay: time.Minute, Tries: 1, Error: "first"}
	f.settleAs(c, store.Ready, waiting(l, 0, try))
	s := f.oneStep(l.ID)
	equal(f, "tries", s.Tries, 1)
	equal(f, "error", s.Error, "first")
	began := s.StartedAt
	f.clock.Advance(time.Minute)
	l = f.take1(c)
	try.Tries, try.Error, try.Delay = 2, "second", 2*time.Minute
	f.settleAs(c, store.Ready, waiting(l, 0, try))
	s = f.oneStep(l.ID)
	equal(f, "state", s.State, store.StepWaiting)
	equal(f, "tries", s.Tries, 2)
	equal(f, "error", s.Error, "second")
	equal(f, "remaining", s.Remaining, 2*time.Minute)
	l = f.take1(c)
	f.record(c, l, store.StepResult{StepKey: key("pay"), Output: []byte(`"paid"`), Tries: 3})
	s = f.oneStep(l.ID)
	equal(f, "state", s.State, store.StepSucceeded)
	equal(f, "tries", s.Tries, 3)
	equal(f, "error", s.Error, "")
	equal(f, "output", string(s.Output), `"paid"`)
	equalTime(f, "started at", s.StartedAt, began)
}

// acquireWaiting: a step that waits for its next try is executed by AcquireStep.
func acquireWaiting(f *fixture) {
	c, l := f.leasedRun()
	try := store.StepResult{StepKey: key("pay"), State: store.StepWaiting, Delay: time.Minute, Error: "first"}
	f.settleAs(c, store.Ready, waiting(l, 0, try))
	l = f.take1(c)
	s := f.acquire(l, "pay", 0, true)
	equal(f, "tries", s.Record().Tries, 2)
	f.ok(s.Complete(f.ctx, []byte(`1`)))
	equal(f, "state", f.oneStep(l.ID).State, store.StepSucceeded)
}

// acquireOther: a step that waits for something else goes on waiting as it did.
func acquireOther(f *fixture) {
	c, l := f.leasedRun()
	due := f.clock.Now().Add(time.Hour)
	f.settleAs(c, store.Ready, waiting(l, 0,
		store.StepResult{StepKey: key("nap"), Kind: store.StepSleep, State: store.StepWaiting, Delay: time.Hour},
		store.StepResult{StepKey: key("go"), Kind: store.StepSignal, Topic: "go", Position: 1, State: store.StepWaiting, Delay: time.Hour}))
	l = f.take1(c)
	for _, name := range []string{"nap", "go"} {
		r := f.acquire(l, name, 0, false).Record()
		equal(f, "state", r.State, store.StepWaiting)
		equalTime(f, "due at", r.DueAt, due)
	}
	for _, s := range f.steps(l.ID) {
		equalTime(f, "due at", s.DueAt, due)
		equal(f, "tries", s.Tries, 1)
	}
}

// stepsOfNoRun: there are no steps of what is no run.
func stepsOfNoRun(f *fixture) {
	for _, id := range []int64{missing, f.enqueue1(f.queue("jobs"))} {
		_, err := f.s.Workflows().Steps(f.ctx, id)
		f.is(err, store.ErrNotFound)
	}
	steps, err := f.s.Workflows().Steps(f.ctx, f.run(f.flow("flow"), ""))
	f.ok(err)
	equal(f, "steps of a run that has not begun", len(steps), 0)
}

// acquireBegins: the first step says that the run's code has begun.
func acquireBegins(f *fixture) {
	_, l := f.leasedRun()
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, time.Time{})
	began := f.clock.Now()
	f.acquire(l, "one", 0, true)
	f.clock.Advance(time.Minute)
	f.acquire(l, "two", 0, true)
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, began)
}

// runRetryIsNoWait: a run that failed an attempt waits for its next one, which
// nothing hurries; nor does anything hurry its start.
func runRetryIsNoWait(f *fixture) {
	c, l := f.leasedRun()
	f.settleAs(c, store.Ready, waiting(l, 0))
	l = f.take1(c)
	o := outcome(l, store.OutcomeRetry)
	o.Delay = time.Minute
	f.settleAs(c, store.Delayed, o)
	equal(f, "wait's kind", f.status(l.ID, store.RunWaiting).Wait.Kind, store.WaitRetry)
	later, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: c.Queue(), Delay: time.Minute})
	f.ok(err)
	equal(f, "wait's kind", f.status(later, store.RunWaiting).Wait.Kind, store.WaitStart)
	for _, id := range []int64{l.ID, later} {
		f.send(id, "hurry", `1`, "")
		f.status(id, store.RunWaiting)
	}
	f.clock.Advance(time.Minute)
	f.promote(f.admin(), 10, 2, -1)
	got := f.take(c, 2)
	ids := leasedIDs(got)
	slices.Sort(ids)
	equalIDs(f, "runs", ids, []int64{l.ID, later})
	for _, m := range got {
		equal(f, "signals", len(f.load(m.ID).Signals), 1)
	}
}
