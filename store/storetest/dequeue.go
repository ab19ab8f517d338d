package storetest

import (
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// dequeueCases ask which messages a consumer gets, and in what order.
func dequeueCases() []testCase {
	return []testCase{
		{"ShowsTheMessage", dequeueShows},
		{"HonoursItsLimit", dequeueLimit},
		{"Nothing", dequeueNothing},
		{"OnlyItsQueue", dequeueOnlyItsQueue},
		{"FirstInFirstOut", dequeueFIFO},
		{"PriorityFirst", dequeuePriority},
		{"UrgentAfterManyWereLeased", dequeueUrgent},
		{"ReleasedComeBack", dequeueReleased},
		{"EveryReadyMessageIsFound", dequeueFindsHoles},
		{"ComesBackBelowNewerOnes", dequeueBelow},
		{"OldOneIsNotStarvedByALongLine", dequeueNotStarved},
		{"DelayedDoNotStandInFront", dequeuePastDelayed},
	}
}

func dequeueShows(f *fixture) {
	q := f.queue("q", attempts(9))
	id := f.enqueue1(q, withPriority(7), func(_ int, m *store.NewMessage) {
		m.Headers = map[string]string{"traceparent": "00-1"}
		m.Payload = []byte(`{"path": "/etc"}`)
	})
	at := f.clock.Now()
	f.clock.Advance(time.Second)
	c := f.consumer(q)
	l := f.take1(c)
	equal(f, "id", l.ID, id)
	equal(f, "worker", l.Worker, c.ID())
	equal(f, "attempt", l.Attempt, 1)
	equal(f, "max attempts", l.MaxAttempts, 9)
	equal(f, "priority", l.Priority, 7)
	equal(f, "header", l.Headers["traceparent"], "00-1")
	equal(f, "payload", string(l.Payload), `{"path": "/etc"}`)
	equal(f, "waited", l.Waited, time.Second)
	equalTime(f, "enqueued at", l.EnqueuedAt, at)
}

func dequeueLimit(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 10)
	c := f.consumer(q)
	f.take(c, 1)
	f.take(c, 4)
	equal(f, "messages left", len(f.dequeue(c, 100)), 5)
}

func dequeueNothing(f *fixture) {
	c := f.consumer(f.queue("q"))
	for range 3 {
		got, err := c.Dequeue(f.ctx, 10, lease)
		f.ok(err)
		equal(f, "messages", len(got), 0)
	}
}

func dequeueOnlyItsQueue(f *fixture) {
	a, b := f.queue("a"), f.queue("b")
	f.enqueue(a, 3)
	f.takeNone(f.consumer(b))
	f.take(f.consumer(a), 3)
}

func dequeueFIFO(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 40)
	a, b := f.consumer(q), f.on(f.second()).consumer(q)
	var got []int64
	for range 4 {
		got = append(got, leasedIDs(f.take(a, 3))...)
		got = append(got, leasedIDs(f.take(b, 7))...)
	}
	equalIDs(f, "messages in the order of leasing", got, ids)
}

func dequeuePriority(f *fixture) {
	q := f.queue("q")
	want := make([]int64, 12)
	// Three of each priority, enqueued mixed.
	for i, id := range f.enqueue(q, 12, func(i int, m *store.NewMessage) { m.Priority = []int{5, -5, 0, -1000}[i%4] }) {
		want[[]int{3, 1, 2, 0}[i%4]*3+i/4] = id
	}
	c := f.consumer(q)
	var got []int64
	for _, n := range []int{2, 5, 5} {
		got = append(got, leasedIDs(f.take(c, n))...)
	}
	equalIDs(f, "messages by priority", got, want)
}

// dequeueUrgent: an urgent message goes before those that wait, however many
// of the usual priority were leased before it came.
func dequeueUrgent(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 300)
	c := f.consumer(q)
	f.done(c, f.take(c, 100)...)
	f.take(c, 50)
	for _, p := range []int{-1, -2, -1000} {
		urgent := f.enqueue1(q, withPriority(p))
		equal(f, "message", f.take1(c).ID, urgent)
	}
	f.take(c, 150)
	f.takeNone(c)
}

func dequeueReleased(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 30)
	a, b := f.consumer(q), f.consumer(q)
	first, second := f.take(a, 10), f.take(b, 10)
	errs, err := a.Release(f.ctx, leases(first[3:6])...)
	f.allOK(errs, err)
	f.done(b, second...)
	got := leasedIDs(f.drain(b, 4))
	slices.Sort(got)
	want := append(slices.Clone(ids[3:6]), ids[20:]...)
	equalIDs(f, "messages leased", got, want)
	f.done(a, slices.Concat(first[:3], first[6:])...)
}

// dequeueFindsHoles gives back every third message of a long line that is
// leased to the end: none may be overlooked.
func dequeueFindsHoles(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 300)
	a, b := f.consumer(q), f.on(f.second()).consumer(q)
	var back []int64
	var outcomes []store.Outcome
	for i, l := range f.take(a, 300) {
		kind := store.OutcomeDone
		if i%3 == 0 {
			kind = store.OutcomeRelease
			back = append(back, l.ID)
		}
		outcomes = append(outcomes, outcome(l, kind))
	}
	f.takeNone(b)
	f.settle(a, outcomes...)
	got := f.dequeue(b, 1000)
	equalIDs(f, "messages that came back", leasedIDs(got), back)
}

// dequeueBelow brings old messages back, in every way there is, below a long
// line of newer ones that are leased: each is found at once.
func dequeueBelow(f *fixture) {
	q := f.queue("q")
	a, c, other := f.admin(), f.consumer(q), f.consumer(q)
	for way, back := range map[string]func(l store.LeasedMessage){
		"promoted": func(l store.LeasedMessage) {
			o := outcome(l, store.OutcomeSnooze)
			o.Delay = time.Second
			f.settleAs(other, store.Delayed, o)
			f.takeNone(c)
			f.clock.Advance(time.Second)
			f.promote(a, 10, 1, -1)
		},
		"released":        func(l store.LeasedMessage) { f.settleAs(other, store.Ready, outcome(l, store.OutcomeRelease)) },
		"retried":         func(l store.LeasedMessage) { f.settleAs(other, store.Ready, outcome(l, store.OutcomeRetry)) },
		"worker released": func(store.LeasedMessage) { _, err := a.ReleaseWorker(f.ctx, other.ID()); f.ok(err) },
		"all released":    func(store.LeasedMessage) { _, err := other.ReleaseAll(f.ctx); f.ok(err) },
		"replayed": func(l store.LeasedMessage) {
			f.settleAs(other, store.Dead, outcome(l, store.OutcomeDiscard))
			f.takeNone(c)
			errs, err := f.s.Archive().Replay(f.ctx, l.ID)
			f.allOK(errs, err)
		},
		"reclaimed": func(store.LeasedMessage) {
			dead := f.consumer(q, store.WorkerOptions{Name: "host/0", Slot: "host-0"})
			_, err := other.ReleaseAll(f.ctx)
			f.ok(err)
			f.take1(dead)
			f.takeNone(c)
			f.reclaimSlot(a, "host-0", store.GivenBack{Workers: 1, Ready: 1})
		},
	} {
		f.enqueue(q, 1)
		old := f.take1(other)
		f.enqueue(q, 50)
		newer := f.take(c, 50)
		f.takeNone(c)
		back(old)
		got := f.dequeue(c, 10)
		if len(got) != 1 || got[0].ID != old.ID {
			f.Fatalf("dequeue after message %d was %s returned %v", old.ID, way, leasedIDs(got))
		}
		f.done(c, append(newer, got...)...)
	}
}

// dequeueNotStarved promotes an old message below a line of newer ones that is
// never leased to its end. A backend may look below what it has leased at
// intervals only, but it looks.
func dequeueNotStarved(f *fixture) {
	q := f.queue("q")
	a, c := f.admin(), f.consumer(q)
	old := f.enqueue1(q, withDelay(time.Second))
	f.enqueue(q, 600)
	f.done(c, f.take(c, 100)...)
	f.clock.Advance(time.Second)
	f.promote(a, 1, 1, -1)
	for range 400 {
		f.clock.Advance(time.Second)
		l := f.take1(c)
		f.done(c, l)
		if l.ID == old {
			return
		}
	}
	f.Fatalf("message %d was passed over 400 times", old)
}

func dequeuePastDelayed(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 500, withDelay(lease), withPriority(-10))
	ids := f.enqueue(q, 3)
	equalIDs(f, "messages leased", leasedIDs(f.dequeue(f.consumer(q), 10)), ids)
}
