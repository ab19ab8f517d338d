package storetest

import (
	"errors"
	"math"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func consumerCases() []testCase {
	return []testCase{
		{"BadArguments", dequeueBadArguments},
		{"Suspended", consumerSuspended},
		{"QueueDeleted", consumerQueueDeleted},
		{"QueueMadeAgain", consumerQueueRemade},
		{"Started", consumerStarted},
		{"Progress", consumerProgress},
		{"ArchiveDeleteRelease", consumerBatches},
		{"ReleaseAll", consumerReleaseAll},
	}
}

func dequeueBadArguments(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	_, err := c.Dequeue(f.ctx, 0, lease)
	f.is(err, store.ErrInvalid)
	_, err = c.Dequeue(f.ctx, -1, lease)
	f.is(err, store.ErrInvalid)
	_, err = c.Dequeue(f.ctx, 1, 0)
	f.is(err, store.ErrInvalid)
	_, err = c.Dequeue(f.ctx, 1, -lease)
	f.is(err, store.ErrInvalid)
	f.take1(c)
}

func consumerSuspended(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 4)
	c := f.consumer(q)
	got := f.take(c, 2)
	f.ok(c.Suspend(f.ctx))
	_, err := c.Dequeue(f.ctx, 1, lease)
	f.notReady(err, c.ID(), store.WorkerSuspended)
	// What it holds it may still write.
	f.start(c, got...)
	f.ok(c.Progress(f.ctx, map[store.Lease]store.Progress{got[0].Lease: {Percent: 1}}))
	f.done(c, got[0])
	f.settleAs(c, store.Ready, outcome(got[1], store.OutcomeRetry))
	f.ok(c.Resume(f.ctx))
	f.take(c, 3)
	_, err = c.ReleaseAll(f.ctx)
	f.ok(err)
	f.stop(c.ID())
	_, err = c.Dequeue(f.ctx, 1, lease)
	f.notReady(err, c.ID(), store.WorkerStopped)
}

func consumerQueueDeleted(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	f.enqueue(q, 1)
	f.done(c, f.take1(c))
	f.ok(f.on(f.second()).s.Queues().Delete(f.ctx, q, true))
	_, err := c.Dequeue(f.ctx, 1, lease)
	f.unknownQueue(err, q)
}

// consumerQueueRemade: a queue that is made again is another one. A consumer of
// the old one may serve it or go on failing; a new one serves it.
func consumerQueueRemade(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	f.enqueue(q, 10)
	f.done(c, f.take(c, 10)...)
	other := f.on(f.second())
	f.ok(other.s.Queues().Delete(f.ctx, q, true))
	_, err := c.Dequeue(f.ctx, 1, lease)
	f.unknownQueue(err, q)
	other.queue(q, attempts(2))
	ids := other.enqueue(q, 2)
	left := 2
	if got, err := c.Dequeue(f.ctx, 1, lease); err == nil {
		f.done(c, got...)
		left -= len(got)
	} else if _, stopped := errors.AsType[*store.NotReadyError](err); !stopped {
		f.unknownQueue(err, q)
	}
	b := f.consumer(q)
	got := f.take(b, left)
	equal(f, "max attempts", got[0].MaxAttempts, 2)
	f.done(b, got...)
	f.state(ids[0], store.Done, 0)
	f.state(ids[1], store.Done, 0)
}

func consumerStarted(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 3)
	c := f.consumer(q)
	got := f.take(c, 3)
	f.start(c, got[0])
	f.start(c, got[0], got[2]) // again changes nothing
	for i, l := range got {
		equal(f, "started", f.get(l.ID).Started, i != 1)
	}
	errs, err := c.Release(f.ctx, leases(got)...)
	f.allOK(errs, err)
	for i, l := range f.take(c, 3) {
		equal(f, "attempt", l.Attempt, 1)
		equal(f, "started", f.get(got[i].ID).Started, false)
	}
}

func consumerProgress(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 3)
	c := f.consumer(q)
	got := f.take(c, 3)
	f.ok(c.Progress(f.ctx, map[store.Lease]store.Progress{
		got[0].Lease: {Percent: 10, Message: "reading"},
		got[1].Lease: {Percent: -1, Message: "a\x00b"},
	}))
	p := f.get(got[0].ID).Progress
	if p == nil || p.Percent != 10 || p.Message != "reading" {
		f.Fatalf("progress is %+v", p)
	}
	p = f.get(got[1].ID).Progress
	if p == nil || p.Percent != -1 || p.Message != store.CleanText("a\x00b") {
		f.Fatalf("progress is %+v", p)
	}
	if p := f.get(got[2].ID).Progress; p != nil {
		f.Fatalf("progress of a message that published none is %+v", p)
	}
	at := f.clock.Advance(time.Second)
	f.ok(c.Progress(f.ctx, map[store.Lease]store.Progress{
		got[0].Lease: {Percent: 20}, got[1].Lease: {Percent: math.NaN()}, got[2].Lease: {Percent: math.Inf(1)},
	}))
	p = f.get(got[0].ID).Progress
	equal(f, "percent", p.Percent, 20)
	equal(f, "message", p.Message, "")
	equalTime(f, "progress's time", p.At, at)
	for _, l := range got[1:] { // what is no number is unknown
		if p := f.get(l.ID).Progress; p == nil || p.Percent >= 0 {
			f.Fatalf("progress is %+v", p)
		}
	}
	errs, err := c.Release(f.ctx, got[0].Lease)
	f.allOK(errs, err)
	f.take1(c)
	if p := f.get(got[0].ID).Progress; p != nil {
		f.Fatalf("progress of an earlier lease is %+v", p)
	}
}

func consumerBatches(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 7)
	c := f.consumer(q)
	got := f.take(c, 7)
	errs, err := c.Archive(f.ctx, got[0].Lease, got[1].Lease)
	f.eachIs(errs, err, nil, nil)
	errs, err = c.Delete(f.ctx, got[1].Lease, got[2].Lease, got[3].Lease)
	f.eachIs(errs, err, store.ErrLeaseLost, nil, nil)
	errs, err = c.Release(f.ctx, got[3].Lease, got[4].Lease, got[5].Lease)
	f.eachIs(errs, err, store.ErrLeaseLost, nil, nil)
	f.state(got[0].ID, store.Done, 0)
	f.state(got[1].ID, store.Done, 0)
	f.gone(got[2].ID)
	f.gone(got[3].ID)
	f.state(got[4].ID, store.Ready, 0)
	f.state(got[5].ID, store.Ready, 0)
	f.state(got[6].ID, store.Leased, 0)
}

func consumerReleaseAll(f *fixture) {
	q := f.queue("q", attempts(1))
	ids := f.enqueue(q, 6)
	c, other := f.consumer(q), f.consumer(q)
	got := append(f.take(c, 2), f.take(c, 3)...)
	f.take1(other)
	f.start(c, got[0], got[4])
	f.done(c, got[1])
	n, err := c.ReleaseAll(f.ctx)
	f.ok(err)
	equal(f, "messages released", n, 4)
	for _, i := range []int{0, 2, 3, 4} {
		f.state(ids[i], store.Ready, 0)
	}
	f.state(ids[5], store.Leased, 0)
	f.settleIs(c, store.ErrLeaseLost, outcome(got[2], store.OutcomeDone))
	n, err = c.ReleaseAll(f.ctx)
	f.ok(err)
	equal(f, "messages released", n, 0)
	for _, l := range f.take(c, 4) {
		equal(f, "attempt", l.Attempt, 1)
	}
}
