package storetest

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 1: a lease that runs out gives its messages back by itself, at latest
// with the next claim on the queue: ready again, or dead if it was the last
// attempt. No operator, no admin call.
func leaseRunsOutCases() []testCase {
	return []testCase{
		{"ComesBackWithTheNextClaim", runOutComesBack},
		{"NotBeforeItsTime", runOutNotEarly},
		{"UnstartedKeepsItsAttempt", runOutUnstarted},
		{"StartedLosesAnAttempt", runOutStarted},
		{"StartedAndUnstartedOfOneClaim", runOutMixed},
		{"LastAttemptIsDeadWithItsError", runOutLastAttempt},
		{"AfterManyTimesDead", runOutUntilDead},
		{"SettledMessagesStay", runOutSettledStay},
		{"SameConsumerGetsItBack", runOutSameConsumer},
		{"KeepsPriorityAndOrder", runOutOrder},
		{"GiveBackSweepsEveryQueue", giveBackSweeps},
		{"GiveBackLeavesLiveLeases", giveBackLeavesLive},
		{"GiveBackSuspendedConsumer", giveBackSuspended},
	}
}

func (f *fixture) runOut() { f.clock.Advance(lease + time.Millisecond) }

func runOutComesBack(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 3)
	f.take(f.consumer(q), 3)
	b := f.consumer(q)
	f.takeNone(b)
	f.runOut()
	equalIDs(f, "messages that came back", leasedIDs(f.take(b, 3)), ids)
	f.takeNone(b)
}

func runOutNotEarly(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	f.take(f.consumer(q), 1)
	f.clock.Advance(lease - time.Millisecond)
	b := f.consumer(q)
	f.takeNone(b)
	f.clock.Advance(2 * time.Millisecond)
	f.take(b, 1)
}

func runOutUnstarted(f *fixture) {
	q := f.queue("q", attempts(1))
	id := f.enqueue1(q)
	f.take1(f.consumer(q))
	b := f.consumer(q)
	for range 3 {
		f.runOut()
		equal(f, "attempt", f.take1(b).Attempt, 1)
		f.state(id, store.Leased, 0)
	}
	if errs := f.get(id).Errors; len(errs) != 0 {
		f.Fatalf("attempts that had not started left errors: %+v", errs)
	}
}

func runOutStarted(f *fixture) {
	q := f.queue("q", attempts(3))
	id := f.enqueue1(q)
	a := f.consumer(q)
	f.start(a, f.take1(a))
	f.runOut()
	b := f.consumer(q)
	equal(f, "attempt", f.take1(b).Attempt, 2)
	m := f.state(id, store.Leased, 1)
	f.hasErrors(m, 1)
	equal(f, "worker of the lost attempt", m.Errors[0].Worker, a.ID())
}

// hasErrors checks that a message has n errors, numbered from 1, each with a text.
func (f *fixture) hasErrors(m store.Message, n int) {
	f.Helper()
	equal(f, "errors kept", len(m.Errors), n)
	for i, e := range m.Errors {
		if e.Attempt != i+1 || e.Error == "" || e.At.IsZero() {
			f.Fatalf("error %d of message %d is %+v", i, m.ID, e)
		}
	}
}

func runOutMixed(f *fixture) {
	q := f.queue("q", attempts(3))
	f.enqueue(q, 3)
	a := f.consumer(q)
	got := f.take(a, 3)
	f.start(a, got[1])
	f.runOut()
	for i, m := range f.take(f.consumer(q), 3) {
		want := 1
		if i == 1 {
			want = 2
		}
		equal(f, "attempt", m.Attempt, want)
	}
}

func runOutLastAttempt(f *fixture) {
	q := f.queue("q", attempts(1))
	id := f.enqueue1(q)
	a := f.consumer(q)
	f.start(a, f.take1(a))
	f.runOut()
	f.takeNone(f.consumer(q))
	m := f.state(id, store.Dead, 1)
	f.hasErrors(m, 1)
	equal(f, "worker", m.Worker, a.ID())
	equalTime(f, "finished at", m.FinishedAt, f.clock.Now())
	n, err := f.s.Archive().Count(f.ctx, store.MessageFilter{Queue: q, State: store.Dead})
	f.ok(err)
	equal(f, "dead letters", n, 1)
}

func runOutUntilDead(f *fixture) {
	q := f.queue("q", attempts(3))
	id := f.enqueue1(q)
	c := f.consumer(q)
	for n := 1; n <= 3; n++ {
		m := f.take1(c)
		equal(f, "attempt", m.Attempt, n)
		f.start(c, m)
		f.runOut()
	}
	f.takeNone(c)
	f.hasErrors(f.state(id, store.Dead, 3), 3)
}

func runOutSettledStay(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 3)
	a := f.consumer(q)
	got := f.take(a, 3)
	f.done(a, got[0], got[2])
	f.runOut()
	equalIDs(f, "messages that came back", leasedIDs(f.drain(f.consumer(q), 10)), ids[1:2])
	f.state(ids[0], store.Done, 0)
	f.state(ids[2], store.Done, 0)
}

func runOutSameConsumer(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	first := f.take1(c)
	f.runOut()
	second := f.take1(c)
	if first.Lease == second.Lease {
		f.Fatalf("the fence %+v came back", first.Lease)
	}
	equal(f, "message", second.ID, first.ID)
}

func runOutOrder(f *fixture) {
	q := f.queue("q")
	low := f.enqueue1(q, withPriority(5))
	high := f.enqueue1(q, withPriority(-5))
	usual := f.enqueue1(q)
	f.take(f.consumer(q), 3)
	f.runOut()
	equalIDs(f, "messages that came back", leasedIDs(f.take(f.consumer(q), 3)), []int64{high, usual, low})
}

func giveBackSweeps(f *fixture) {
	a := f.admin()
	q1, q2 := f.queue("q1", attempts(2)), f.queue("q2", attempts(1))
	ids1, ids2 := f.enqueue(q1, 2), f.enqueue(q2, 3)
	c1, c2 := f.consumer(q1), f.consumer(q2)
	got1, got2 := f.take(c1, 2), f.take(c2, 3)
	f.start(c1, got1[0])
	f.start(c2, got2[1])
	f.runOut()
	f.gaveBack(a, store.GivenBack{Ready: 4, Dead: 1})
	f.state(ids1[0], store.Ready, 1)
	f.state(ids1[1], store.Ready, 0)
	f.state(ids2[0], store.Ready, 0)
	f.state(ids2[1], store.Dead, 1)
	f.gaveBack(a, store.GivenBack{})
}

// gaveBack calls GiveBack and checks its counts.
func (f *fixture) gaveBack(a store.Admin, want store.GivenBack) {
	f.Helper()
	got, err := a.GiveBack(f.ctx)
	f.ok(err)
	equal(f, "given back", got, want)
}

func giveBackLeavesLive(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	f.enqueue(q, 2)
	c := f.consumer(q)
	old := f.take1(c)
	f.clock.Advance(lease / 2)
	live := f.take1(c)
	f.clock.Advance(lease/2 + time.Millisecond)
	f.gaveBack(a, store.GivenBack{Ready: 1})
	f.state(old.ID, store.Ready, 0)
	f.state(live.ID, store.Leased, 0)
	f.done(c, live)
}

func giveBackSuspended(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	id := f.enqueue1(q)
	c := f.consumer(q)
	f.take1(c)
	f.ok(c.Suspend(f.ctx))
	f.runOut()
	f.gaveBack(a, store.GivenBack{Ready: 1})
	f.state(id, store.Ready, 0)
	f.ok(c.Shutdown(f.ctx))
}
