package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// waitVersion: a run that no handler carries on waits, is counted, and keeps its
// own version.
func waitVersion(f *fixture) {
	c, l := f.leasedRun()
	o := stepping(l, result("one", `1`))
	o.Version = "v1"
	f.settleAs(c, store.Leased, o)
	o = waiting(l, time.Minute)
	o.Version, o.Wait.Kind, o.Wait.For = "v2", store.WaitVersion, "v1"
	f.settleAs(c, store.Delayed, o)
	r := f.status(l.ID, store.RunWaiting)
	equal(f, "version", r.Version, "v1")
	equal(f, "wait's kind", r.Wait.Kind, store.WaitVersion)
	equal(f, "what for", r.Wait.For, "v1")
	a := f.admin()
	stats, err := a.SystemStats(f.ctx)
	f.ok(err)
	equal(f, "stranded", stats.Stranded, 1)
	f.clock.Advance(time.Minute)
	f.promote(a, 1, 1, -1)
	equal(f, "attempt", f.take1(c).Attempt, 1)
	stats, err = a.SystemStats(f.ctx)
	f.ok(err)
	equal(f, "stranded", stats.Stranded, 0)
}

// wakeStranded: a handler that comes finds the runs that wait for it, and no others.
func wakeStranded(f *fixture) {
	q := f.flow("flow")
	c := f.consumer(q)
	other := f.flow("other")
	oc := f.consumer(other)
	of := make(map[string]int64)
	for _, version := range []string{"v1", "v2", "v3", "paused"} {
		of[version] = f.run(q, "")
		f.strand(c, f.take1(c), version)
	}
	elsewhere := f.run(other, "")
	f.strand(oc, f.take1(oc), "v1")
	asleep := f.run(q, "")
	f.settleAs(c, store.Delayed, waiting(f.take1(c), time.Hour))
	f.pause(of["paused"])
	wake := func(limit int, want int64, versions ...string) {
		f.Helper()
		n, err := f.s.Workflows().WakeStranded(f.ctx, q, versions, limit)
		f.ok(err)
		equal(f, fmt.Sprintf("woken of %q", versions), n, want)
	}
	wake(10, 0, "v0")
	wake(10, 2, "v1", "v2", "v9")
	wake(10, 0, "v1", "v2", "v9")
	f.status(of["v1"], store.RunQueued)
	f.status(of["v2"], store.RunQueued)
	f.status(of["v3"], store.RunWaiting)
	// What it saw before it was woken lets it not wait.
	for _, l := range f.take(c, 2) {
		o := waiting(l, time.Hour)
		o.Wait.Kind, o.Wait.For = store.WaitVersion, "v1"
		f.settleAs(c, store.Ready, o)
	}
	for _, l := range f.take(c, 2) {
		f.strand(c, l, "v1")
	}
	wake(2, 2)
	wake(2, 1)
	wake(2, 0)
	f.status(of["paused"], store.RunPaused)
	f.status(asleep, store.RunWaiting)
	f.status(elsewhere, store.RunWaiting)
	var unknown *store.UnknownQueueError
	if _, err := f.s.Workflows().WakeStranded(f.ctx, "missing", nil, 1); !errors.As(err, &unknown) {
		f.Errorf("the runs of no workflow are woken with %v", err)
	}
}

// unserved: runs of a workflow that has no consumer anywhere are counted.
func unserved(f *fixture) {
	q := f.flow("flow")
	a := f.admin()
	count := func(want int64) {
		f.Helper()
		stats, err := a.SystemStats(f.ctx)
		f.ok(err)
		equal(f, "unserved", stats.Unserved, want)
	}
	f.enqueue1(f.queue("jobs"))
	f.run(q, "")
	f.run(q, "")
	_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Delay: time.Hour})
	f.ok(err)
	count(2)
	c := f.consumer(q)
	count(0)
	f.ok(c.Suspend(f.ctx)) // it may come back
	count(0)
	f.ok(c.Shutdown(f.ctx))
	count(2)
}
