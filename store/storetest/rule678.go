package storetest

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 6: a long job is not a dead one. The store's part is that a claim lives
// as long as it is renewed.
func longJobCases() []testCase {
	return []testCase{
		{"RenewedManyTimes", renewedManyTimes},
		{"OneLeaseRenewsItsClaim", oneRenewsClaim},
		{"ManyClaimsInOneCall", manyClaimsInOneCall},
		{"ShowsTheNewEnd", extendShowsEnd},
		{"OnlyItsOwnClaim", extendOnlyOwn},
		{"WhileSuspended", extendWhileSuspended},
	}
}

func renewedManyTimes(f *fixture) {
	q := f.queue("q", attempts(1))
	f.enqueue(q, 1)
	a, b := f.consumer(q), f.consumer(q)
	l := f.take1(a)
	f.start(a, l)
	for range 50 {
		f.clock.Advance(lease - time.Millisecond)
		errs, err := a.Extend(f.ctx, lease, l.Lease)
		f.allOK(errs, err)
		f.takeNone(b)
	}
	f.done(a, l)
	f.state(l.ID, store.Done, 0)
}

func oneRenewsClaim(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 20)
	a, b := f.consumer(q), f.consumer(q)
	got := f.take(a, 20)
	for i := range 5 {
		f.clock.Advance(lease - time.Millisecond)
		errs, err := a.Extend(f.ctx, lease, got[i*4].Lease)
		f.allOK(errs, err)
		f.takeNone(b)
	}
	f.done(a, got...)
}

func manyClaimsInOneCall(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 12)
	a, b := f.consumer(q), f.consumer(q)
	var all []store.LeasedMessage
	for range 4 {
		all = append(all, f.take(a, 3)...)
	}
	f.clock.Advance(lease - time.Millisecond)
	// Every lease of two claims, one of the third, none of the fourth.
	errs, err := a.Extend(f.ctx, lease, leases(all[:7])...)
	f.allOK(errs, err)
	equal(f, "results", len(errs), 7)
	f.clock.Advance(time.Second)
	equalIDs(f, "messages that came back", leasedIDs(f.drain(b, 10)), leasedIDs(all[9:]))
	f.done(a, all[:9]...)
}

func extendShowsEnd(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	at := f.clock.Now()
	f.clock.Advance(lease / 2)
	errs, err := c.Extend(f.ctx, 3*lease, l.Lease)
	f.allOK(errs, err)
	m := f.get(l.ID)
	equalTime(f, "lease's end", m.LeaseExpiresAt, f.clock.Now().Add(3*lease))
	equalTime(f, "leased at", m.LeasedAt, at)
}

func extendOnlyOwn(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	a, b := f.consumer(q), f.consumer(q)
	la, lb := f.take1(a), f.take1(b)
	f.clock.Advance(lease - time.Millisecond)
	errs, err := a.Extend(f.ctx, lease, la.Lease)
	f.allOK(errs, err)
	f.clock.Advance(time.Second)
	equal(f, "message that came back", f.take1(f.consumer(q)).ID, lb.ID)
}

func extendWhileSuspended(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	f.ok(c.Suspend(f.ctx))
	errs, err := c.Extend(f.ctx, 2*lease, l.Lease)
	f.allOK(errs, err)
	f.start(c, l)
	f.runOut()
	f.takeNone(f.consumer(q))
	f.done(c, l)
}

// Rule 7: time is the database's clock, with an injected clock for tests. That
// the injected one is used for everything shows in every other group too.
func timeCases() []testCase {
	return []testCase{
		{"EveryStampIsTheClocks", stampsAreTheClocks},
		{"Waited", waited},
		{"TheDatabasesOwnClock", databaseClock},
	}
}

func stampsAreTheClocks(f *fixture) {
	t0 := f.clock.Now()
	q := f.queue("q")
	got, err := f.s.Queues().Get(f.ctx, q)
	f.ok(err)
	equalTime(f, "created at", got.CreatedAt, t0)

	t1 := f.clock.Advance(time.Hour)
	c := f.consumer(q)
	equalTime(f, "worker started at", f.worker(c.ID()).StartedAt, t1)
	equalTime(f, "heartbeat at", f.worker(c.ID()).HeartbeatAt, t1)

	t2 := f.clock.Advance(time.Hour)
	f.ok(c.Heartbeat(f.ctx))
	equalTime(f, "heartbeat at", f.worker(c.ID()).HeartbeatAt, t2)
	id := f.enqueue1(q)
	equalTime(f, "enqueued at", f.get(id).EnqueuedAt, t2)

	t3 := f.clock.Advance(time.Hour)
	l := f.take1(c)
	equalTime(f, "enqueued at", l.EnqueuedAt, t2)
	m := f.get(id)
	equalTime(f, "leased at", m.LeasedAt, t3)
	equalTime(f, "lease's end", m.LeaseExpiresAt, t3.Add(lease))

	t4 := f.clock.Advance(time.Second)
	f.settleAs(c, store.Delayed, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: "no", Delay: lease})
	m = f.get(id)
	equalTime(f, "available at", m.AvailableAt, t4.Add(lease))
	equalTime(f, "failed at", m.Errors[0].At, t4)
	equalTime(f, "enqueued at", m.EnqueuedAt, t2)

	f.clock.Advance(lease)
	_, _, err = f.admin().Promote(f.ctx, 10)
	f.ok(err)
	t5 := f.clock.Advance(time.Second)
	f.done(c, f.take1(c))
	equalTime(f, "finished at", f.get(id).FinishedAt, t5)
	equalTime(f, "enqueued at", f.get(id).EnqueuedAt, t2)
}

// waited follows one message: what it waits for is its turn, not a time.
func waited(f *fixture) {
	q := f.queue("q", attempts(9))
	a, c := f.admin(), f.consumer(q)
	f.enqueue(q, 1, withDelay(time.Hour))
	f.clock.Advance(time.Hour + 10*time.Second)
	f.promote(a, 1, 1, -1)
	take := func(want time.Duration) store.LeasedMessage {
		f.Helper()
		equal(f, "oldest ready", f.metrics(a, q).OldestReady, want)
		l := f.take1(c)
		equal(f, "waited", l.Waited, want)
		return l
	}
	l := take(10 * time.Second) // since it was due
	f.clock.Advance(5 * time.Second)
	f.settle(c, outcome(l, store.OutcomeRelease))
	l = take(15 * time.Second) // it has waited on
	f.clock.Advance(time.Second)
	f.settle(c, outcome(l, store.OutcomeRetry))
	f.clock.Advance(3 * time.Second)
	l = take(3 * time.Second) // since it failed
	f.settle(c, outcome(l, store.OutcomeDiscard))
	f.clock.Advance(time.Hour)
	errs, err := f.s.Archive().Replay(f.ctx, l.ID)
	f.allOK(errs, err)
	f.clock.Advance(7 * time.Second)
	take(7 * time.Second) // since it was replayed
	f.runOut()
	f.gaveBack(a, store.GivenBack{Ready: 1})
	l = take(7*time.Second + lease + time.Millisecond) // it had not started
	f.start(c, l)
	f.runOut()
	f.gaveBack(a, store.GivenBack{Ready: 1})
	f.clock.Advance(time.Second)
	take(time.Second) // since it failed for want of a lease
}

// databaseClock is the one case without an injected clock.
func databaseClock(f *fixture) {
	g := f.on(f.open(f.T, nil))
	q := g.queue("q")
	before := time.Now()
	id := g.enqueue1(q)
	if at := g.get(id).EnqueuedAt; at.Before(before.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
		f.Fatalf("enqueued at %s by the database's clock, and %s by the machine's", at, before)
	}
	a, b := g.consumer(q), g.consumer(q)
	got, err := a.Dequeue(g.ctx, 1, time.Hour)
	g.ok(err)
	equal(g, "messages leased", len(got), 1)
	g.takeNone(b)
	errs, err := a.Extend(g.ctx, time.Millisecond, got[0].Lease)
	g.allOK(errs, err)
	for g.ctx.Err() == nil {
		if back := g.dequeue(b, 1); len(back) == 1 {
			g.done(b, back...)
			return
		}
	}
	f.Fatal("a lease of a millisecond never ran out by the database's clock")
}

// Rule 8: batch insert, claim, settle and extend are each a constant number of
// statements. The backends count them; here batches of every size are right.
func batchCases() []testCase {
	var cases []testCase
	for _, n := range []int{1, 2, 1000} {
		cases = append(cases, testCase{fmt.Sprintf("Of%d", n), func(f *fixture) { batchOf(f, n) }})
	}
	return cases
}

func batchOf(f *fixture, n int) {
	q, other := f.queue("q", attempts(3)), f.queue("other")
	p, c := f.producer(), f.consumer(q)
	ids, err := p.EnqueueBatch(f.ctx, messages(q, n))
	f.ok(err)
	got := f.take(c, n)
	equalIDs(f, "messages leased", leasedIDs(got), ids)
	for i, l := range got {
		equal(f, "payload", string(l.Payload), string(payload(i)))
	}
	f.start(c, got...)
	errs, err := c.Extend(f.ctx, 2*lease, leases(got)...)
	f.allOK(errs, err)
	equal(f, "results", len(errs), n)

	kinds := []store.OutcomeKind{store.OutcomeRetry, store.OutcomeDone, store.OutcomeRelease, store.OutcomeDiscard}
	outcomes := make([]store.Outcome, n)
	for i, l := range got {
		outcomes[i] = outcome(l, kinds[i%4])
		outcomes[i].Enqueue = messages(other, 1)
	}
	for i, s := range f.settle(c, outcomes...) {
		want := []store.State{store.Ready, store.Done, store.Ready, store.Dead}[i%4]
		if s.Err != nil || s.State != want {
			f.Fatalf("outcome %d of %d: %+v, want %s", i, n, s, want)
		}
	}
	f.take(f.consumer(other), n)
	back := f.drain(c, n)
	equal(f, "messages that are ready again", len(back), (n+3)/4+(n+1)/4)
	released, err := c.ReleaseAll(f.ctx)
	f.ok(err)
	equal(f, "messages released", released, int64(len(back)))
	equal(f, "messages in all", len(f.ledger()), 2*n)
}
