package storetest

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func controlCases() []testCase {
	return append([]testCase{
		{"CancelQueued", cancelQueued},
		{"CancelWaiting", cancelWaiting},
		{"CancelLeased", cancelLeased},
		{"CancelledOverEverything", cancelOverAll},
		{"CancelledRunWaitsForNothing", cancelNoWait},
		{"ReleaseOfACancelling", cancelReleased},
		{"CancellingRunsOutOfAttempts", cancelGivenBack},
		{"CompleteOverACancellation", cancelComplete},
		{"CancelAgain", cancelAgain},
		{"OutcomeCancel", cancelByItself},
		{"PauseQueued", pauseQueued},
		{"PauseWaiting", pauseWaiting},
		{"PauseLeased", pauseLeased},
		{"PauseCostsNoAttempt", pauseCostsNothing},
		{"ResumeBeforeItStops", resumeEarly},
		{"ResumeKeepsDelays", resumeKeepsDelays},
		{"ResumeKeepsADelayFromBeforeThePause", resumeKeepsBackoff},
		{"ResumeWakesStranded", resumeStranded},
		{"CancelPaused", cancelPaused},
		{"CancelRacesTheEnd", cancelRacesEnd},
		{"NoRun", controlNoRun},
		{"JobIsNoRun", jobIsNoRun},
		{"NoWorkflow", noWorkflow},
		{"RefusalsSayWhy", refusalTexts},
		{"PauseOfACancelling", pauseCancelling},
		{"Ended", controlEnded},
		{"StatusFilter", statusFilter},
	}, againCases()...)
}

// cancel cancels a run and checks the status after it.
func (f *fixture) cancel(id int64, descend bool, want store.RunStatus) {
	f.Helper()
	got, err := f.s.Workflows().Cancel(f.ctx, id, descend)
	f.ok(err)
	equal(f, fmt.Sprintf("status of run %d after its cancellation", id), got, want)
	f.status(id, want)
}

func (f *fixture) pause(id int64) {
	f.Helper()
	f.ok(f.s.Workflows().Pause(f.ctx, id))
}

func (f *fixture) resume(id int64) {
	f.Helper()
	f.ok(f.s.Workflows().Resume(f.ctx, id))
}

func cancelQueued(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "k")
	f.cancel(id, false, store.RunCancelled)
	f.state(id, store.Cancelled, 0)
	f.takeNone(f.consumer(q))
}

func cancelWaiting(f *fixture) {
	c, l := f.leasedRun()
	f.settleAs(c, store.Delayed, waiting(l, -1, result("one", `1`)))
	f.cancel(l.ID, false, store.RunCancelled)
	r := f.getRun(l.ID)
	equal(f, "steps", r.Steps, 1)
	equal(f, "errors", len(r.Errors), 0) // a cancellation is no failure
	f.takeNone(c)
}

func cancelLeased(f *fixture) {
	c, l := f.leasedRun()
	f.cancel(l.ID, false, store.RunCancelling)
	f.state(l.ID, store.Leased, 0)
	equal(f, "halt", f.record(c, l, result("one", `1`)), store.HaltCancel)
	equal(f, "output", string(f.oneStep(l.ID).Output), `1`) // the step that ran is recorded
	equal(f, "halt", f.load(l.ID).Halt, store.HaltCancel)
	f.settleAs(c, store.Cancelled, store.Outcome{Lease: l.Lease, Kind: store.OutcomeCancel})
	equal(f, "worker", f.status(l.ID, store.RunCancelled).Worker, c.ID())
	f.takeNone(c)
}

func cancelOverAll(f *fixture) {
	q := f.flow("flow")
	c := f.consumer(q)
	for _, kind := range []store.OutcomeKind{store.OutcomeDone, store.OutcomeRetry, store.OutcomeSnooze, store.OutcomeDiscard, store.OutcomeWait} {
		id := f.run(q, "")
		l := f.take1(c)
		f.cancel(id, false, store.RunCancelling)
		o := outcome(l, kind)
		if kind == store.OutcomeWait {
			o = waiting(l, time.Hour)
		}
		o.Enqueue = messages(q, 1)
		o.Steps = []store.StepResult{result("one", `1`)}
		f.settleAs(c, store.Cancelled, o)
		f.status(id, store.RunCancelled)
		equal(f, "step", f.oneStep(id).Name, "one")
		f.takeNone(c)
	}
}

// cancelNoWait: a run that is being cancelled starts no child that the
// cancellation would miss.
func cancelNoWait(f *fixture) {
	c, l := f.leasedRun()
	f.cancel(l.ID, true, store.RunCancelling)
	equal(f, "halt", f.record(c, l, f.starting("child", "flow"), result("one", `1`)), store.HaltCancel)
	equal(f, "step", f.oneStep(l.ID).Name, "one")
	f.settleAs(c, store.Cancelled, waiting(l, -1, f.starting("other", "flow")))
	equal(f, "steps", len(f.steps(l.ID)), 1)
	equal(f, "runs", len(f.ledger()), 1)
}

func cancelReleased(f *fixture) {
	c, l := f.leasedRun()
	f.cancel(l.ID, false, store.RunCancelling)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
	f.status(l.ID, store.RunCancelling)
	l = f.take1(c)
	equal(f, "halt", f.load(l.ID).Halt, store.HaltCancel)
	f.settleAs(c, store.Cancelled, store.Outcome{Lease: l.Lease, Kind: store.OutcomeCancel})
	id := f.run(c.Queue(), "")
	l = f.take1(c)
	f.cancel(id, false, store.RunCancelling)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
	f.cancel(id, false, store.RunCancelled) // nobody has it now
	f.takeNone(c)
}

// cancelGivenBack: a run that is being cancelled does not fail because its
// worker died on the last attempt.
func cancelGivenBack(f *fixture) {
	q := f.queue("flow", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1})
	id := f.run(q, "")
	c := f.consumer(q)
	l := f.take1(c)
	f.start(c, l)
	f.cancel(id, false, store.RunCancelling)
	f.runOut()
	for _, l := range f.drain(c, 1) {
		equal(f, "halt", f.load(l.ID).Halt, store.HaltCancel)
		f.settleAs(c, store.Cancelled, store.Outcome{Lease: l.Lease, Kind: store.OutcomeCancel})
	}
	f.status(id, store.RunCancelled)
}

func cancelComplete(f *fixture) {
	_, l := f.leasedRun()
	f.cancel(l.ID, false, store.RunCancelling)
	f.is(f.s.Workflow(l.ID).Complete(f.ctx, l.Lease, []byte(`1`)), store.ErrTerminal)
	equal(f, "output", string(f.status(l.ID, store.RunCancelled).Output), "")
}

func cancelAgain(f *fixture) {
	c, l := f.leasedRun()
	f.cancel(l.ID, false, store.RunCancelling)
	f.cancel(l.ID, false, store.RunCancelling)
	f.settleAs(c, store.Cancelled, outcome(l, store.OutcomeDone))
	at := f.getRun(l.ID).FinishedAt
	f.clock.Advance(time.Second)
	f.cancel(l.ID, false, store.RunCancelled)
	equalTime(f, "finished at", f.getRun(l.ID).FinishedAt, at)
}

func cancelByItself(f *fixture) {
	c, l := f.leasedRun()
	o := store.Outcome{Lease: l.Lease, Kind: store.OutcomeCancel, Steps: []store.StepResult{result("one", `1`)}}
	f.settleAs(c, store.Cancelled, o)
	f.status(l.ID, store.RunCancelled)
	equal(f, "step", f.oneStep(l.ID).Name, "one")
}

func pauseQueued(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "")
	f.pause(id)
	f.pause(id)
	f.status(id, store.RunPaused)
	c := f.consumer(q)
	f.takeNone(c)
	f.clock.Advance(365 * 24 * time.Hour)
	f.promote(f.admin(), 1, 0, -1)
	f.send(id, "approved", `1`, "") // it is kept, and wakes nobody
	f.takeNone(c)
	f.resume(id)
	f.resume(id)
	f.status(id, store.RunQueued)
	equal(f, "run", f.take1(c).ID, id)
	f.takeNone(c)
	f.oneSignal(id)
}

func pauseWaiting(f *fixture) {
	c, l := f.leasedRun()
	f.settleAs(c, store.Delayed, waiting(l, time.Minute))
	f.pause(l.ID)
	f.status(l.ID, store.RunPaused)
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 1, 0, -1)
	f.send(l.ID, "approved", `1`, "")
	f.takeNone(c)
	f.resume(l.ID)
	l = f.take1(c)
	// What it waits for is decided anew, by the news that it sees now.
	o := waiting(l, time.Minute)
	o.Wait.News = f.load(l.ID).News
	f.settleAs(c, store.Delayed, o)
}

func pauseLeased(f *fixture) {
	c, l := f.leasedRun()
	equal(f, "pausing", f.getRun(l.ID).Pausing, false)
	f.pause(l.ID)
	equal(f, "pausing", f.status(l.ID, store.RunRunning).Pausing, true)
	equal(f, "halt", f.record(c, l, result("one", `1`)), store.HaltPause)
	equal(f, "halt", f.load(l.ID).Halt, store.HaltPause)
	o := waiting(l, 0) // whatever it says
	o.Wait.News = f.load(l.ID).News + 7
	f.settleAs(c, store.Delayed, o)
	equal(f, "pausing", f.status(l.ID, store.RunPaused).Pausing, false)
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 1, 0, -1)
	f.takeNone(c)
	f.resume(l.ID)
	l = f.take1(c)
	equal(f, "halt", f.load(l.ID).Halt, store.HaltNone)
	equal(f, "halt", f.record(c, l, result("two", `1`)), store.HaltNone)
}

func pauseCostsNothing(f *fixture) {
	c, l := f.leasedRun()
	for range 5 {
		f.start(c, l)
		f.pause(l.ID)
		f.settleAs(c, store.Delayed, waiting(l, -1))
		f.resume(l.ID)
		l = f.take1(c)
		equal(f, "attempt", l.Attempt, 1)
	}
}

// cancelRacesEnd: a run that is cancelled while it is settled ends once, and as
// both were told.
func cancelRacesEnd(f *fixture) {
	q := f.flow("flow")
	c, other := f.consumer(q), f.second()
	for range races {
		id := f.run(q, "")
		l := f.take1(c)
		var got []store.Settled
		var errSettle, errCancel error
		race(
			func() { got, errSettle = c.Settle(f.ctx, []store.Outcome{outcome(l, store.OutcomeDone)}) },
			func() { _, errCancel = other.Workflows().Cancel(f.ctx, id, false) },
		)
		f.ok(errSettle)
		f.ok(got[0].Err)
		if errCancel != nil {
			f.is(errCancel, store.ErrTerminal)
			equal(f, "state", got[0].State, store.Done)
		} else {
			equal(f, "state", got[0].State, store.Cancelled)
		}
		equal(f, "state", f.get(id).State, got[0].State)
	}
}

func cancelPaused(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "")
	f.pause(id)
	f.cancel(id, false, store.RunCancelled)
	f.is(f.s.Workflows().Resume(f.ctx, id), store.ErrTerminal)
	c := f.consumer(q)
	f.takeNone(c)
	// A cancellation comes before a pause.
	id = f.run(q, "")
	l := f.take1(c)
	f.pause(id)
	f.cancel(id, false, store.RunCancelling)
	equal(f, "halt", f.record(c, l, result("one", `1`)), store.HaltCancel)
	f.settleAs(c, store.Cancelled, waiting(l, -1))
}

// controls calls every method that changes a run.
func (f *fixture) controls(id int64) map[string]error {
	table := f.s.Workflows()
	_, _, send := table.Send(f.ctx, store.NewSignal{Run: id, Topic: "t"})
	_, cancel := table.Cancel(f.ctx, id, true)
	return map[string]error{
		"send": send, "cancel": cancel, "pause": table.Pause(f.ctx, id), "resume": table.Resume(f.ctx, id),
	}
}

func controlNoRun(f *fixture) {
	for _, id := range []int64{missing, f.enqueue1(f.queue("jobs"))} {
		errs := f.controls(id)
		errs["retry"] = f.s.Workflows().Retry(f.ctx, id)
		_, errs["fork"] = f.s.Workflows().Fork(f.ctx, id, store.StepKey{})
		_, errs["signals"] = f.s.Workflows().Signals(f.ctx, id)
		_, errs["events"] = f.s.Workflows().Events(f.ctx, id)
		for what, err := range errs {
			f.Log(what)
			f.is(err, store.ErrNotFound)
		}
	}
}

func controlEnded(f *fixture) {
	_, id := f.finishedRun("")
	for what, err := range f.controls(id) {
		f.Log(what)
		f.is(err, store.ErrTerminal)
	}
	f.status(id, store.RunSucceeded)
}

// statusFilter has a run of every status and asks for each.
func statusFilter(f *fixture) {
	q := f.flow("flow")
	c := f.consumer(q)
	ids := make(map[store.RunStatus]int64)
	next := func(s store.RunStatus) store.LeasedMessage {
		f.Helper()
		ids[s] = f.run(q, "")
		return f.take1(c)
	}
	f.done(c, next(store.RunSucceeded))
	f.settleAs(c, store.Dead, outcome(next(store.RunFailed), store.OutcomeDiscard))
	f.settleAs(c, store.Cancelled, store.Outcome{Lease: next(store.RunCancelled).Lease, Kind: store.OutcomeCancel})
	f.settleAs(c, store.Delayed, waiting(next(store.RunWaiting), time.Hour))
	f.settleAs(c, store.Delayed, waiting(next(store.RunPaused), time.Hour))
	f.pause(ids[store.RunPaused])
	f.record(c, next(store.RunRunning), result("one", `1`))
	next(store.RunCancelling)
	f.cancel(ids[store.RunCancelling], false, store.RunCancelling)
	ids[store.RunQueued] = f.run(q, "")
	table := f.s.Workflows()
	for status, id := range ids {
		f.status(id, status)
		filter := store.RunFilter{Workflow: q, Status: status}
		n, err := table.Count(f.ctx, filter)
		f.ok(err)
		equal(f, "runs "+string(status), n, 1)
		runs, err := table.List(f.ctx, filter)
		f.ok(err)
		if len(runs) != 1 || runs[0].ID != id || runs[0].Status != status {
			f.Fatalf("runs that are %s: %+v, want run %d", status, runs, id)
		}
		filter.After = id
		runs, err = table.List(f.ctx, filter)
		f.ok(err)
		equal(f, "runs on the next page", len(runs), 0)
	}
	n, err := table.Count(f.ctx, store.RunFilter{Status: store.RunWaiting, State: store.Ready})
	f.ok(err)
	equal(f, "runs that are waiting and ready", n, 0)
	n, err = table.Count(f.ctx, store.RunFilter{})
	f.ok(err)
	equal(f, "runs", n, int64(len(ids)))
	_, err = table.List(f.ctx, store.RunFilter{Status: "lost"})
	f.is(err, store.ErrInvalid)
	_, err = table.Count(f.ctx, store.RunFilter{Status: "lost"})
	f.is(err, store.ErrInvalid)
}
