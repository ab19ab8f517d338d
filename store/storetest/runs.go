package storetest

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func runStepCases() []testCase {
	return []testCase{
		{"StaysLeased", stepStaysLeased},
		{"SeveralInOneBatch", stepsInOneBatch},
		{"RecordedOnce", stepAgainChangesNothing},
		{"LostLease", stepOfLostLease},
		{"OneBadItem", stepOneBadItem},
		{"NotOfJobs", runOutcomesOfJobs},
		{"EveryField", stepFields},
		{"LoadsWhatIsRecorded", runLoad},
		{"LoadOfNothing", runLoadNothing},
		{"Begins", runBegins},
		{"VersionOfTheFirst", runVersion},
		{"AfterACrash", stepAfterACrash},
		{"WaitMoves", waitMoves},
		{"WaitCostsNoAttempt", waitCostsNothing},
		{"WaitWithStaleNews", waitStale},
		{"WaitWithoutLimit", waitForEver},
		{"WaitOfNothing", waitNothing},
		{"WaitForAVersion", waitVersion},
		{"WakeStranded", wakeStranded},
		{"Unserved", unserved},
		{"StepWaits", stepWaits},
		{"StepTriesAgain", stepTries},
		{"AcquireAfterWaiting", acquireWaiting},
		{"AcquireOfWhatElseWaits", acquireOther},
		{"RunsOwnRetry", runRetryIsNoWait},
	}
}

// key is a step's key.
func key(name string) store.StepKey { return store.StepKey{Name: name} }

// result is a step that succeeded.
func result(name, output string) store.StepResult {
	return store.StepResult{StepKey: key(name), Output: []byte(output)}
}

// stepping is the outcome that records steps of a run.
func stepping(l store.LeasedMessage, steps ...store.StepResult) store.Outcome {
	return store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Steps: steps}
}

// waiting is the outcome that lets a run wait, of which nothing new has come.
func waiting(l store.LeasedMessage, delay time.Duration, steps ...store.StepResult) store.Outcome {
	return store.Outcome{Lease: l.Lease, Kind: store.OutcomeWait, Steps: steps,
		Wait: &store.Wait{Kind: store.WaitSignal, For: "approved", Delay: delay}}
}

// record records steps and checks that the run stays leased.
func (f *fixture) record(c store.Consumer, l store.LeasedMessage, steps ...store.StepResult) store.Halt {
	f.Helper()
	got := f.settle(c, stepping(l, steps...))[0]
	if got.Err != nil || got.State != store.Leased {
		f.Fatalf("record steps of run %d: %+v", l.ID, got)
	}
	return got.Halt
}

func (f *fixture) load(id int64) store.RunState {
	f.Helper()
	runs, err := f.s.Workflows().Load(f.ctx, id)
	f.ok(err)
	if len(runs) != 1 || runs[0].Run != id {
		f.Fatalf("load of run %d returned %+v", id, runs)
	}
	return runs[0]
}

// status checks how far a run is.
func (f *fixture) status(id int64, want store.RunStatus) store.Run {
	f.Helper()
	r := f.getRun(id)
	equal(f, fmt.Sprintf("status of run %d", id), r.Status, want)
	if (r.Wait != nil) != (want == store.RunWaiting) {
		f.Fatalf("run %d is %s and waits for %+v", id, want, r.Wait)
	}
	return r
}

// oneStep returns the only step of a run.
func (f *fixture) oneStep(run int64) store.StepRecord {
	f.Helper()
	steps := f.steps(run)
	equal(f, fmt.Sprintf("steps of run %d", run), len(steps), 1)
	return steps[0]
}

func stepStaysLeased(f *fixture) {
	c, l := f.leasedRun()
	equal(f, "halt", f.record(c, l, result("one", `1`)), store.HaltNone)
	f.state(l.ID, store.Leased, 0)
	f.status(l.ID, store.RunRunning)
	f.takeNone(c)
	equal(f, "output", string(f.oneStep(l.ID).Output), `1`)
	f.record(c, l, result("two", `2`))
	f.done(c, l)
	equal(f, "steps", f.status(l.ID, store.RunSucceeded).Steps, 2)
}

func stepsInOneBatch(f *fixture) {
	q := f.flow("flow")
	f.run(q, "")
	f.run(q, "")
	c := f.consumer(q)
	got := f.take(c, 2)
	a, b := got[0], got[1]
	settled := f.settle(c, stepping(a, result("a0", `0`)), stepping(b, result("b0", `0`)), stepping(a, result("a1", `1`), result("a2", `2`)),
		outcome(a, store.OutcomeDone), stepping(b, result("b1", `1`)), stepping(a, result("late", `1`)))
	for i, s := range settled[:3] {
		if s.Err != nil || s.State != store.Leased {
			f.Fatalf("outcome %d: %+v", i, s)
		}
	}
	equal(f, "state", settled[3].State, store.Done)
	f.is(settled[5].Err, store.ErrLeaseLost)
	f.state(a.ID, store.Done, 0)
	f.state(b.ID, store.Leased, 0)
	equal(f, "steps of a", fmt.Sprint(stepNames(f.steps(a.ID))), "[a0 a1 a2]")
	equal(f, "steps of b", fmt.Sprint(stepNames(f.steps(b.ID))), "[b0 b1]")
	f.done(c, b)
}

func stepNames(steps []store.StepRecord) []string {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Name
	}
	return names
}

func stepAgainChangesNothing(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, result("ok", `1`), store.StepResult{StepKey: key("bad"), Error: "no"})
	before := f.steps(l.ID)
	f.clock.Advance(time.Second)
	f.record(c, l, result("bad", `2`), store.StepResult{StepKey: key("ok"), Error: "no", Tries: 7},
		store.StepResult{StepKey: key("ok"), State: store.StepWaiting, Delay: time.Hour})
	for i, s := range f.steps(l.ID) {
		if s.State != before[i].State || string(s.Output) != string(before[i].Output) || s.Error != before[i].Error ||
			s.Tries != before[i].Tries || !s.FinishedAt.Equal(before[i].FinishedAt) {
			f.Fatalf("step %+v was %+v", s, before[i])
		}
	}
	// Of two results in one call the first is kept.
	f.record(c, l, result("twice", `1`), result("twice", `2`))
	equal(f, "output", string(f.steps(l.ID)[2].Output), `1`)
}

func stepOfLostLease(f *fixture) {
	c, l := f.leasedRun()
	f.runOut()
	again := f.take1(c)
	f.settleIs(c, store.ErrLeaseLost, stepping(l, result("one", `1`)))
	f.settleIs(c, store.ErrLeaseLost, waiting(l, time.Hour, result("one", `1`)))
	f.settleIs(c, store.ErrLeaseLost, store.Outcome{Lease: l.Lease, Kind: store.OutcomeCancel})
	equal(f, "steps", len(f.steps(l.ID)), 0)
	f.record(c, again, result("one", `2`))
	f.done(c, again)
	f.settleIs(c, store.ErrLeaseLost, stepping(again, result("two", `1`)))
	equal(f, "output", string(f.oneStep(l.ID).Output), `2`)
}

func stepOneBadItem(f *fixture) {
	q := f.flow("flow")
	f.run(q, "")
	f.run(q, "")
	c := f.consumer(q)
	got := f.take(c, 2)
	bad := stepping(got[0], result("one", `{`))
	settled := f.settle(c, bad, stepping(got[1], result("one", `1`)), stepping(got[0], result("two", `2`)))
	equal(f, "rule", as[*store.PayloadError](f, settled[0].Err).Rule, store.RuleJSON)
	equal(f, "state", settled[1].State, store.Leased)
	equal(f, "state", settled[2].State, store.Leased)
	equal(f, "name", f.oneStep(got[0].ID).Name, "two")
	f.done(c, got...)
}

func runOutcomesOfJobs(f *fixture) {
	q := f.queue("jobs")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	for _, o := range []store.Outcome{stepping(l, result("one", `1`)), waiting(l, time.Hour), {Lease: l.Lease, Kind: store.OutcomeCancel}} {
		f.settleIs(c, store.ErrInvalid, o)
		f.state(l.ID, store.Leased, 0)
	}
	f.done(c, l)
}

func stepFields(f *fixture) {
	c, l := f.leasedRun()
	now := f.clock.Now()
	f.record(c, l,
		store.StepResult{StepKey: store.StepKey{Name: "left/charge", Occurrence: 3}, Position: 5, Output: []byte(`{"b": 1}`), Tries: 4, Took: time.Second},
		store.StepResult{StepKey: key("pause"), Kind: store.StepSleep, Position: 6, State: store.StepWaiting, Delay: time.Minute},
		store.StepResult{StepKey: key("approved"), Kind: store.StepSignal, Position: 7, State: store.StepWaiting, Delay: -1, Topic: "approval"},
		store.StepResult{StepKey: key("refused"), Position: 8, Error: "card \x00 declined"})
	steps := f.steps(l.ID)
	s := steps[0]
	equal(f, "key", s.StepKey, store.StepKey{Name: "left/charge", Occurrence: 3})
	equal(f, "kind", s.Kind, store.StepBody)
	equal(f, "position", s.Position, 5)
	equal(f, "state", s.State, store.StepSucceeded)
	equal(f, "output", string(s.Output), `{"b": 1}`)
	equal(f, "tries", s.Tries, 4)
	equalTime(f, "started at", s.StartedAt, now.Add(-time.Second))
	equalTime(f, "finished at", s.FinishedAt, now)
	s = steps[1]
	equal(f, "kind", s.Kind, store.StepSleep)
	equal(f, "state", s.State, store.StepWaiting)
	equal(f, "tries", s.Tries, 1)
	equalTime(f, "due at", s.DueAt, now.Add(time.Minute))
	equal(f, "remaining", s.Remaining, time.Minute)
	equalTime(f, "finished at", s.FinishedAt, time.Time{})
	s = steps[2]
	equal(f, "kind", s.Kind, store.StepSignal)
	equal(f, "topic", s.Topic, "approval")
	equalTime(f, "due at", s.DueAt, time.Time{})
	if s.Remaining >= 0 {
		f.Fatalf("remaining of a step without limit is %s", s.Remaining)
	}
	equal(f, "state", steps[3].State, store.StepFailed)
	equal(f, "error", steps[3].Error, store.CleanText("card \x00 declined"))
}

func runLoad(f *fixture) {
	q := f.flow("flow")
	f.run(q, "")
	f.run(q, "")
	c := f.consumer(q)
	got := f.take(c, 2)
	f.record(c, got[0], result("c", `1`), result("a", `2`))
	f.acquire(got[0], "half done", 0, true) // of which nothing is recorded
	f.record(c, got[0], store.StepResult{StepKey: key("b"), Kind: store.StepSleep, State: store.StepWaiting, Delay: time.Minute})
	f.record(c, got[1], result("other", `3`))
	f.clock.Advance(20 * time.Second)
	states, err := f.s.Workflows().Load(f.ctx, got[1].ID, got[0].ID)
	f.ok(err)
	equal(f, "runs", len(states), 2)
	equal(f, "first", states[0].Run, got[1].ID)
	equal(f, "steps of the other", fmt.Sprint(stepNames(states[0].Steps)), "[other]")
	steps := states[1].Steps
	equal(f, "steps", fmt.Sprint(stepNames(steps)), "[c a b]")
	equal(f, "output", string(steps[1].Output), `2`)
	equal(f, "remaining", steps[2].Remaining, 40*time.Second)
	f.clock.Advance(time.Hour)
	if r := f.load(got[0].ID).Steps[2].Remaining; r > 0 {
		f.Fatalf("remaining of a step that is due is %s", r)
	}
}

func runLoadNothing(f *fixture) {
	states, err := f.s.Workflows().Load(f.ctx)
	f.ok(err)
	equal(f, "runs", len(states), 0)
	id := f.run(f.flow("flow"), "")
	s := f.load(id)
	if s.Version != "" || s.News != 0 || s.Halt != store.HaltNone || len(s.Steps) != 0 || len(s.Signals) != 0 {
		f.Fatalf("state of a new run is %+v", s)
	}
	equal(f, "news of no run", f.load(missing).News, 0)
}

// runBegins: a run has begun when something is recorded of it.
func runBegins(f *fixture) {
	c, l := f.leasedRun()
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, time.Time{})
	f.record(c, l, result("one", `1`))
	begun := f.getRun(l.ID).BegunAt
	if begun.IsZero() {
		f.Fatal("a run that has recorded a step has not begun")
	}
	f.clock.Advance(time.Hour)
	f.record(c, l, result("two", `1`))
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, begun)
}

func runVersion(f *fixture) {
	c, l := f.leasedRun()
	equal(f, "version", f.getRun(l.ID).Version, "")
	o := stepping(l, result("one", `1`))
	o.Version = "v1"
	f.settleAs(c, store.Leased, o)
	equal(f, "version", f.getRun(l.ID).Version, "v1")
	o = waiting(l, 0, result("two", `1`))
	o.Version = "v2"
	f.settleAs(c, store.Ready, o)
	equal(f, "version", f.load(l.ID).Version, "v1")
	l = f.take1(c)
	o = outcome(l, store.OutcomeDone)
	o.Version = "v2"
	f.settleAs(c, store.Done, o)
	equal(f, "version", f.getRun(l.ID).Version, "v1")
}

// stepAfterACrash: what was recorded is there for the next holder, and a body
// that was not recorded runs again.
func stepAfterACrash(f *fixture) {
	c, l := f.leasedRun()
	f.start(c, l)
	f.record(c, l, result("one", `1`))
	f.runOut()
	b := f.on(f.second()).consumer(c.Queue())
	again := f.take1(b)
	equal(f, "attempt", again.Attempt, 2)
	equal(f, "steps", fmt.Sprint(stepNames(f.load(l.ID).Steps)), "[one]")
	f.settleIs(c, store.ErrLeaseLost, stepping(l, result("two", `"late"`)))
	f.record(b, again, result("two", `"new"`))
	equal(f, "output", string(f.steps(l.ID)[1].Output), `"new"`)
}
