package storetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func signalCases() []testCase {
	return []testCase{
		{"BeforeTheRunBegins", signalBefore},
		{"WhileItIsLeased", signalDuring},
		{"WhileItWaits", signalWakes},
		{"KeyIsIdempotent", signalKey},
		{"TakenOnce", signalTakenOnce},
		{"TakenAgain", signalTakenAgain},
		{"OfAnotherRun", signalOfAnother},
		{"TimesOut", signalTimesOut},
		{"ToNoRun", signalToNoRun},
		{"Bad", signalBad},
		{"Full", signalsFull},
		{"Many", signalsMany},
		{"List", signalList},
		{"SentByAStep", signalByStep},
		{"SentByTwoSteps", signalByTwoSteps},
		{"SentByAStepOnce", signalByStepOnce},
		{"SentByAStepToNobody", signalByStepToNobody},
		{"SentToItself", signalToItself},
		{"Events", events},
		{"EventsOnce", eventsOnce},
		{"GoWithTheRun", signalsGo},
		{"NoneLost", signalsRace},
		{"RacesTheWait", signalRacesWait},
	}
}

// send sends a signal that was not sent before.
func (f *fixture) send(run int64, topic, payload, key string) int64 {
	f.Helper()
	id, created, err := f.s.Workflows().Send(f.ctx, store.NewSignal{Run: run, Topic: topic, Payload: []byte(payload), Key: key})
	f.ok(err)
	if !created || id <= 0 {
		f.Fatalf("signal %d, created %t", id, created)
	}
	return id
}

// receiving is the step that takes a signal.
func receiving(name string, s store.Signal) store.StepResult {
	return store.StepResult{StepKey: key(name), Kind: store.StepSignal, Topic: s.Topic, Signal: s.ID, Output: s.Payload}
}

// oneSignal returns the only signal that a run has not taken.
func (f *fixture) oneSignal(run int64) store.Signal {
	f.Helper()
	signals := f.load(run).Signals
	equal(f, fmt.Sprintf("signals of run %d", run), len(signals), 1)
	return signals[0]
}

func signalBefore(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "")
	sent := f.clock.Now()
	sid := f.send(id, "approved", `{"by": "me"}`, "")
	c := f.consumer(q)
	l := f.take1(c)
	s := f.oneSignal(id)
	equal(f, "id", s.ID, sid)
	equal(f, "run", s.Run, id)
	equal(f, "topic", s.Topic, "approved")
	equal(f, "payload", string(s.Payload), `{"by": "me"}`)
	equal(f, "taken", s.Taken, false)
	equalTime(f, "sent at", s.SentAt, sent)
	f.record(c, l, receiving("receive", s))
	equal(f, "output", string(f.oneStep(id).Output), `{"by": "me"}`)
	equal(f, "signals left", len(f.load(id).Signals), 0)
}

func signalDuring(f *fixture) {
	c, l := f.leasedRun()
	before := f.load(l.ID).News
	f.send(l.ID, "approved", `1`, "")
	if after := f.load(l.ID).News; after <= before {
		f.Fatalf("news were %d and are %d", before, after)
	}
	// It waits by what it saw before, and so it does not.
	o := waiting(l, -1)
	o.Wait.News = before
	f.settleAs(c, store.Ready, o)
	l = f.take1(c)
	f.record(c, l, receiving("receive", f.oneSignal(l.ID)))
	o = waiting(l, -1)
	o.Wait.News = f.load(l.ID).News
	f.settleAs(c, store.Delayed, o)
}

func signalWakes(f *fixture) {
	c, l := f.leasedRun()
	for _, delay := range []time.Duration{time.Hour, -1} {
		o := waiting(l, delay)
		o.Wait.News = f.load(l.ID).News
		f.settleAs(c, store.Delayed, o)
		f.clock.Advance(time.Minute)
		f.send(l.ID, "approved", `1`, "")
		f.status(l.ID, store.RunQueued)
		l = f.take1(c)
		equal(f, "waited", l.Waited, 0) // it is ready since it was woken
	}
	equal(f, "signals", len(f.load(l.ID).Signals), 2)
	f.takeNone(c)
}

func signalKey(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	first := f.send(l.ID, "approved", `1`, "k")
	news := f.load(l.ID).News
	again, created, err := f.s.Workflows().Send(f.ctx, store.NewSignal{Run: l.ID, Topic: "approved", Payload: []byte(`2`), Key: "k"})
	f.ok(err)
	if created || again != first {
		f.Fatalf("signal %d, created %t, want %d again", again, created, first)
	}
	equal(f, "news", f.load(l.ID).News, news)
	equal(f, "payload", string(f.oneSignal(l.ID).Payload), `1`)
	f.record(c, l, receiving("receive", f.oneSignal(l.ID)))
	_, created, err = f.s.Workflows().Send(f.ctx, store.NewSignal{Run: l.ID, Topic: "approved", Key: "k"})
	f.ok(err)
	equal(f, "created after it was taken", created, false)
	f.send(other, "approved", `1`, "k")
	f.send(l.ID, "approved", `1`, "")
	f.send(l.ID, "approved", `1`, "")
}

func signalTakenOnce(f *fixture) {
	c, l := f.leasedRun()
	f.send(l.ID, "approved", `1`, "")
	s := f.oneSignal(l.ID)
	got := f.settle(c, stepping(l, receiving("one", s)), stepping(l, receiving("two", s)))
	f.ok(got[0].Err)
	f.is(got[1].Err, store.ErrInvalid)
	f.settleIs(c, store.ErrInvalid, stepping(l, receiving("three", s)))
	equal(f, "step", f.oneStep(l.ID).Name, "one")
	f.send(l.ID, "approved", `2`, "")
	two := stepping(l, receiving("two", f.oneSignal(l.ID)), receiving("three", f.oneSignal(l.ID)))
	f.settleIs(c, store.ErrInvalid, two)
	f.oneSignal(l.ID) // neither step of a bad outcome has it
	equal(f, "step", f.oneStep(l.ID).Name, "one")
}

// signalTakenAgain records a step again that has its signal: nothing changes,
// also not for a signal that it does not have.
func signalTakenAgain(f *fixture) {
	c, l := f.leasedRun()
	f.send(l.ID, "approved", `1`, "")
	s := f.oneSignal(l.ID)
	f.record(c, l, receiving("one", s))
	f.record(c, l, receiving("one", s))
	f.send(l.ID, "approved", `2`, "")
	f.record(c, l, receiving("one", f.oneSignal(l.ID)))
	f.oneSignal(l.ID)
	equal(f, "output", string(f.oneStep(l.ID).Output), `1`)
}

func signalOfAnother(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	f.send(other, "approved", `1`, "")
	s := f.oneSignal(other)
	f.settleIs(c, store.ErrInvalid, stepping(l, receiving("one", s)))
	s.ID = missing
	f.settleIs(c, store.ErrInvalid, stepping(l, receiving("one", s)))
	equal(f, "steps", len(f.steps(l.ID)), 0)
	f.oneSignal(other)
}

func signalTimesOut(f *fixture) {
	c, l := f.leasedRun()
	wait := store.StepResult{StepKey: key("receive"), Kind: store.StepSignal, Topic: "approved", State: store.StepWaiting, Delay: time.Hour}
	f.settleAs(c, store.Delayed, waiting(l, time.Hour, wait))
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 1, 1, -1)
	l = f.take1(c)
	f.record(c, l, store.StepResult{StepKey: key("receive"), Kind: store.StepSignal, Topic: "approved", State: store.StepFailed, Error: "timed out"})
	s := f.oneStep(l.ID)
	equal(f, "state", s.State, store.StepFailed)
	equal(f, "error", s.Error, "timed out")
	equal(f, "kind", s.Kind, store.StepSignal)
}

func signalToNoRun(f *fixture) {
	table := f.s.Workflows()
	_, _, err := table.Send(f.ctx, store.NewSignal{Run: missing, Topic: "approved"})
	f.is(err, store.ErrNotFound)
	_, _, err = table.Send(f.ctx, store.NewSignal{Run: f.enqueue1(f.queue("jobs")), Topic: "approved"})
	f.is(err, store.ErrNotFound)
	_, id := f.finishedRun("")
	_, created, err := table.Send(f.ctx, store.NewSignal{Run: id, Topic: "approved"})
	f.is(err, store.ErrTerminal)
	equal(f, "created", created, false)
	signals, err := table.Signals(f.ctx, id)
	f.ok(err)
	equal(f, "signals", len(signals), 0)
}

func signalBad(f *fixture) {
	id := f.run(f.flow("flow"), "")
	for _, s := range []store.NewSignal{
		{Run: id}, {Run: id, Topic: "a/b"}, {Run: id, Topic: "a", Key: strings.Repeat("k", store.MaxSignalKey+1)}, {Run: id, Topic: "a\x00"}, {Run: id, Topic: strings.Repeat("a", store.MaxTopic+1)},
		{Run: id, Topic: "a", Key: "\xff"}, {Run: id, Topic: "a", Payload: []byte(`{`)}, {Run: id, Topic: "a", Payload: []byte(`"\u0000"`)},
	} {
		_, _, err := f.s.Workflows().Send(f.ctx, s)
		f.is(err, store.ErrInvalid)
	}
	equal(f, "news", f.load(id).News, 0)
}

func signalList(f *fixture) {
	c, l := f.leasedRun()
	for i, topic := range []string{"b", "a", "b"} {
		f.send(l.ID, topic, fmt.Sprint(i), fmt.Sprint("k", i))
	}
	_, _, err := f.s.Workflows().Send(f.ctx, store.NewSignal{Run: l.ID, Topic: "empty"})
	f.ok(err)
	f.record(c, l, receiving("receive", f.load(l.ID).Signals[1]))
	f.done(c, l)
	signals, err := f.s.Workflows().Signals(f.ctx, l.ID) // also when it has ended
	f.ok(err)
	var all []string
	for _, s := range signals {
		all = append(all, fmt.Sprintf("%s %s %s %t", s.Topic, s.Key, s.Payload, s.Taken))
	}
	equal(f, "signals", strings.Join(all, "; "), "b k0 0 false; a k1 1 true; b k2 2 false; empty  null false")
	_, err = f.s.Workflows().Signals(f.ctx, missing)
	f.is(err, store.ErrNotFound)
	_, err = f.s.Workflows().Events(f.ctx, missing)
	f.is(err, store.ErrNotFound)
}

// sending is the step that sends a signal.
func sending(name string, to int64, payload string) store.StepResult {
	return store.StepResult{StepKey: key(name), Kind: store.StepSend, Topic: "hello",
		Send: &store.NewSignal{Run: to, Topic: "hello", Payload: []byte(payload)}}
}

func signalByStep(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	lo := f.take1(c)
	f.settleAs(c, store.Delayed, waiting(lo, -1))
	f.record(c, l, sending("greet", other, `"hi"`))
	s := f.oneStep(l.ID)
	equal(f, "state", s.State, store.StepSucceeded)
	equal(f, "kind", s.Kind, store.StepSend)
	equal(f, "payload", string(f.oneSignal(other).Payload), `"hi"`)
	f.status(other, store.RunQueued)
	equal(f, "run that was woken", f.take1(c).ID, other)
}

func signalByTwoSteps(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	lo := f.take1(c)
	f.settleAs(c, store.Delayed, waiting(lo, -1))
	f.record(c, l, sending("greet", other, `1`), sending("greet again", other, `2`))
	lo = f.take1(c)
	s := f.load(lo.ID)
	equal(f, "signals", len(s.Signals), 2)
	o := waiting(lo, -1)
	o.Wait.News = s.News
	f.settleAs(c, store.Delayed, o)
}

// signalByStepOnce: the same step recorded again sends nothing; nor does a step
// of a lease that is lost.
func signalByStepOnce(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	got := f.settle(c, stepping(l, sending("greet", other, `1`)), stepping(l, sending("greet", other, `2`)))
	f.ok(got[0].Err)
	f.ok(got[1].Err)
	f.record(c, l, sending("greet", other, `3`))
	f.runOut()
	f.drain(c, 10)
	f.settleIs(c, store.ErrLeaseLost, stepping(l, sending("more", other, `4`)))
	equal(f, "payload", string(f.oneSignal(other).Payload), `1`)
}

func signalByStepToNobody(f *fixture) {
	_, ended := f.finishedRun("")
	id := f.run("flow", "")
	c := f.consumer("flow")
	l := f.take1(c)
	for i, to := range []int64{ended, missing, f.enqueue1(f.queue("jobs"))} {
		f.record(c, l, sending(fmt.Sprint(i), to, `1`))
		s := f.steps(id)[i]
		equal(f, "state", s.State, store.StepFailed)
		if s.Error == "" {
			f.Fatalf("step %s failed without an error", s.Name)
		}
	}
	signals, err := f.s.Workflows().Signals(f.ctx, ended)
	f.ok(err)
	equal(f, "signals", len(signals), 0)
}

// signalToItself sends in the batch in which the run waits.
func signalToItself(f *fixture) {
	c, l := f.leasedRun()
	got := f.settle(c, stepping(l, sending("note", l.ID, `1`)), waiting(l, -1))
	f.ok(got[0].Err)
	f.ok(got[1].Err)
	f.status(l.ID, store.RunQueued)
	f.take1(c)
	f.oneSignal(l.ID)
}

// signalsGo: whatever removes a run removes all that it has.
func signalsGo(f *fixture) {
	q := f.flow("flow")
	table := f.s.Workflows()
	full := func() (store.Consumer, store.LeasedMessage) {
		f.Helper()
		id := f.run(q, "k")
		c := f.consumer(q)
		l := f.take1(c)
		f.send(id, "approved", `1`, "k")
		f.record(c, l, result("one", `1`), publishing("two", "stage", `1`))
		return c, l
	}
	check := func(id int64) {
		f.Helper()
		f.gone(id)
		f.noSteps(id)
		s := f.load(id)
		if len(s.Steps) != 0 || len(s.Signals) != 0 || s.News != 0 {
			f.Fatalf("of run %d, which is gone, there is %+v", id, s)
		}
	}
	c, l := full()
	f.done(c, l)
	f.ok(table.Delete(f.ctx, l.ID))
	check(l.ID)
	c, l = full()
	f.done(c, l)
	f.clock.Advance(time.Second)
	_, err := f.s.Archive().Purge(f.ctx, q, 0)
	f.ok(err)
	check(l.ID)
	c, l = full()
	f.settleAs(c, "", outcome(l, store.OutcomeDelete))
	check(l.ID)
	c, l = full()
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
	_, err = f.s.Queues().Purge(f.ctx, q)
	f.ok(err)
	check(l.ID)
	c, l = full()
	o := waiting(l, -1)
	o.Wait.News = f.load(l.ID).News
	f.settleAs(c, store.Delayed, o)
	f.ok(f.s.Messages().Delete(f.ctx, l.ID))
	check(l.ID)
	c, l = full()
	f.done(c, l)
	f.clock.Advance(2 * store.DefaultRetention)
	n, err := f.admin().PurgeExpired(f.ctx, 100)
	f.ok(err)
	equal(f, "runs purged", n, 1)
	check(l.ID)
	c, l = full()
	f.done(c, l)
	f.ok(f.s.Queues().Delete(f.ctx, q, true))
	check(l.ID)
}
