package storetest

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// resumeEarly: a run that was resumed before it stopped does not wait for ever.
func resumeEarly(f *fixture) {
	c, l := f.leasedRun()
	news := f.load(l.ID).News
	f.pause(l.ID)
	equal(f, "halt", f.record(c, l, result("one", `1`)), store.HaltPause)
	f.resume(l.ID)
	o := waiting(l, -1)
	o.Wait.News = news
	f.settleAs(c, store.Ready, o)
	f.take1(c)
}

// resumeKeepsDelays: a pause does not hurry a run's start, or its next attempt.
func resumeKeepsDelays(f *fixture) {
	c, l := f.leasedRun()
	o := outcome(l, store.OutcomeRetry)
	o.Delay = time.Hour
	f.settleAs(c, store.Delayed, o)
	later, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: c.Queue(), Delay: time.Hour})
	f.ok(err)
	due := f.clock.Now().Add(time.Hour)
	for id, kind := range map[int64]store.WaitKind{l.ID: store.WaitRetry, later: store.WaitStart} {
		for range 2 { // the second pause finds what the first one left
			f.pause(id)
			f.pause(id)
			f.clock.Advance(time.Minute)
			f.resume(id)
			f.resume(id)
			r := f.status(id, store.RunWaiting)
			equal(f, "wait's kind", r.Wait.Kind, kind)
			equalTime(f, "until", r.Wait.Until, due)
		}
		f.send(id, "hurry", `1`, "")
		f.status(id, store.RunWaiting)
		f.pause(id)
	}
	f.takeNone(c)
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 10, 0, -1)
	for _, id := range []int64{l.ID, later} {
		f.resume(id) // its time has passed meanwhile
		f.status(id, store.RunQueued)
	}
	f.take(c, 2)
}

// resumeKeepsBackoff: nor does a pause of an attempt that then failed.
func resumeKeepsBackoff(f *fixture) {
	c, l := f.leasedRun()
	f.pause(l.ID)
	o := outcome(l, store.OutcomeRetry)
	o.Delay = time.Hour
	f.settleAs(c, store.Delayed, o)
	f.status(l.ID, store.RunPaused)
	f.resume(l.ID)
	equalTime(f, "until", f.status(l.ID, store.RunWaiting).Wait.Until, f.clock.Now().Add(time.Hour))
	f.takeNone(c)
	f.clock.Advance(time.Hour)
	f.promote(f.admin(), 10, 1, -1)
	f.take1(c)
}

// resumeStranded: a run that waits for a handler of its version is ready at once.
func resumeStranded(f *fixture) {
	c, l := f.leasedRun()
	f.strand(c, l, "v1")
	f.resume(l.ID)
	f.status(l.ID, store.RunQueued)
	f.resume(l.ID)
	l = f.take1(c)
	equal(f, "attempt", l.Attempt, 1)
	// What it saw before it was resumed lets it not wait.
	o := waiting(l, time.Hour)
	o.Wait.Kind = store.WaitVersion
	f.settleAs(c, store.Ready, o)
	l = f.take1(c)
	f.strand(c, l, "v1")
	f.pause(l.ID)
	f.status(l.ID, store.RunPaused)
	f.resume(l.ID)
	f.take1(c)
}

// strand lets a leased run wait for an hour for a handler of a version.
func (f *fixture) strand(c store.Consumer, l store.LeasedMessage, version string) {
	f.Helper()
	o := waiting(l, time.Hour)
	o.Wait.Kind, o.Wait.For, o.Wait.News = store.WaitVersion, version, f.load(l.ID).News
	f.settleAs(c, store.Delayed, o)
	equal(f, "wait's kind", f.status(l.ID, store.RunWaiting).Wait.Kind, store.WaitVersion)
}
