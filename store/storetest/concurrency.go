package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pgqrs/pgqrsd/store"
)

func concurrencyCases() []testCase {
	return []testCase{
		{"EachMessageSettledOnce", settledOnce},
		{"OneConsumerManyGoroutines", oneConsumerManyGoroutines},
		{"EnqueueWhileLeasing", enqueueWhileLeasing},
		{"SettleRacesTakeBack", settleRacesTakeBack},
		{"ExtendRacesTakeBack", extendRacesTakeBack},
		{"SettleRacesItself", settleRacesItself},
		{"SettleRacesReleaseWorker", settleRacesReleaseWorker},
		{"GiveBackRacesDequeue", giveBackRacesDequeue},
		{"ReplayRacesItself", replayRacesItself},
		{"PromoteRacesItself", promoteRacesItself},
		{"EveryWriteAtOnce", everyWriteAtOnce},
	}
}

// crew runs consumers until a number of messages is settled as done, and
// watches that no message is leased twice at the same time.
type crew struct {
	f       *fixture
	mu      sync.Mutex
	holder  map[int64]store.Lease
	settled map[int64]int
	done    atomic.Int64
	want    int64
	failed  atomic.Pointer[error]
}

func newCrew(f *fixture, want int) *crew {
	return &crew{f: f, holder: map[int64]store.Lease{}, settled: map[int64]int{}, want: int64(want)}
}

func (c *crew) fail(err error) { c.failed.CompareAndSwap(nil, &err) }

func (c *crew) over() bool {
	return c.done.Load() >= c.want || c.failed.Load() != nil || c.f.ctx.Err() != nil
}

func (c *crew) hold(got []store.LeasedMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range got {
		if other, held := c.holder[l.ID]; held {
			c.fail(fmt.Errorf("message %d is leased as %+v while it is held as %+v", l.ID, l.Lease, other))
		}
		c.holder[l.ID] = l.Lease
	}
}

// letGo says that leases are about to be settled. It comes before the call, as
// another may hold the message before the call has returned.
func (c *crew) letGo(got []store.LeasedMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range got {
		delete(c.holder, l.ID)
	}
}

// work leases and settles until all is done. The first attempt at every fifth
// message is released or retried.
func (c *crew) work(consumer store.Consumer, batch int) {
	for !c.over() {
		got, err := consumer.Dequeue(c.f.ctx, batch, lease)
		if err != nil {
			c.fail(err)
			return
		}
		if len(got) == 0 {
			continue
		}
		c.hold(got)
		outcomes := make([]store.Outcome, len(got))
		c.mu.Lock()
		for i, l := range got {
			kind := store.OutcomeDone
			if c.settled[l.ID]++; c.settled[l.ID] == 1 && l.ID%5 == 0 {
				kind = []store.OutcomeKind{store.OutcomeRelease, store.OutcomeRetry}[l.ID/5%2]
			}
			outcomes[i] = outcome(l, kind)
		}
		c.mu.Unlock()
		c.letGo(got)
		results, err := consumer.Settle(c.f.ctx, outcomes)
		if err != nil {
			c.fail(err)
			return
		}
		for i, r := range results {
			if r.Err != nil {
				c.fail(fmt.Errorf("settle of %+v: %w", outcomes[i], r.Err))
			}
			if r.State == store.Done {
				c.done.Add(1)
			}
		}
	}
}

// check ends the case unless every message is done, once.
func (c *crew) check() {
	c.f.Helper()
	if err := c.failed.Load(); err != nil {
		c.f.Fatal(*err)
	}
	c.f.ok(c.f.ctx.Err())
	equal(c.f, "messages settled as done", c.done.Load(), c.want)
	all := c.f.ledger()
	equal(c.f, "messages in all", int64(len(all)), c.want)
	for id, m := range all {
		want := 0
		if id%5 == 0 && id/5%2 == 1 {
			want = 1
		}
		if m.State != store.Done || m.Attempts != want {
			c.f.Fatalf("message %d is %s with %d failed attempts, want done with %d", id, m.State, m.Attempts, want)
		}
	}
}

func settledOnce(f *fixture) {
	const n = 5000
	q := f.queue("q")
	f.enqueue(q, n)
	c := newCrew(f, n)
	var wg sync.WaitGroup
	for _, g := range []*fixture{f, f.on(f.second())} {
		for i := range 3 {
			consumer := g.consumer(q)
			wg.Go(func() { c.work(consumer, 40+30*i) })
		}
	}
	wg.Wait()
	c.check()
}

func oneConsumerManyGoroutines(f *fixture) {
	const n = 600
	q := f.queue("q")
	f.enqueue(q, n)
	c, consumer := newCrew(f, n), f.consumer(q)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { c.work(consumer, 10) })
	}
	wg.Wait()
	c.check()
}

// enqueueWhileLeasing makes ids commit late and out of order, beside consumers
// that have already seen higher ones.
func enqueueWhileLeasing(f *fixture) {
	const producers, rounds, batch = 4, 25, 10
	q := f.queue("q")
	c := newCrew(f, producers*rounds*batch)
	handles := []store.Store{f.s, f.second()}
	var wg sync.WaitGroup
	for _, s := range handles {
		consumer := f.on(s).consumer(q)
		wg.Go(func() { c.work(consumer, 25) })
	}
	for p := range producers {
		wg.Go(func() {
			for range rounds {
				if _, err := handles[p%2].Messages().Insert(f.ctx, messages(q, batch)); err != nil {
					c.fail(err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.check()
}

// race runs two calls at the same time.
func race(a, b func()) {
	var wg sync.WaitGroup
	wg.Go(a)
	wg.Go(b)
	wg.Wait()
}

const races = 15

// settleRacesTakeBack: either the late settle is written and nobody gets the
// message, or somebody gets it and the settle is lost.
func settleRacesTakeBack(f *fixture) {
	q := f.queue("q", attempts(100))
	a, b := f.consumer(q), f.on(f.second()).consumer(q)
	for range races {
		id := f.enqueue1(q)
		l := f.take1(a)
		f.runOut()
		var settled []store.Settled
		var got []store.LeasedMessage
		var errA, errB error
		race(
			func() { settled, errA = a.Settle(f.ctx, []store.Outcome{outcome(l, store.OutcomeDone)}) },
			func() { got, errB = b.Dequeue(f.ctx, 1, lease) },
		)
		f.ok(errors.Join(errA, errB))
		if wrote := settled[0].Err == nil; wrote == (len(got) == 1) {
			f.Fatalf("settle: %+v; dequeue at the same time: %v", settled[0], leasedIDs(got))
		}
		if len(got) == 1 {
			f.is(settled[0].Err, store.ErrLeaseLost)
			f.done(b, got...)
		}
		f.state(id, store.Done, 0)
	}
}

// extendRacesTakeBack: either the claim is renewed, or another has its messages.
func extendRacesTakeBack(f *fixture) {
	q := f.queue("q")
	a, b := f.consumer(q), f.on(f.second()).consumer(q)
	for range races {
		f.enqueue(q, 1)
		l := f.take1(a)
		f.runOut()
		var errs []error
		var got []store.LeasedMessage
		var errA, errB error
		race(
			func() { errs, errA = a.Extend(f.ctx, lease, l.Lease) },
			func() { got, errB = b.Dequeue(f.ctx, 1, lease) },
		)
		f.ok(errors.Join(errA, errB))
		if renewed := errs[0] == nil; renewed == (len(got) == 1) {
			f.Fatalf("extend: %v; dequeue at the same time: %v", errs[0], leasedIDs(got))
		}
		if len(got) == 1 {
			f.is(errs[0], store.ErrLeaseLost)
			f.done(b, got...)
		} else {
			f.done(a, l)
		}
	}
}

// settleRacesItself: of two settles of one batch each item is written by one.
func settleRacesItself(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	c := f.consumer(q)
	twin := f.on(f.second()).consumer(q)
	for range races {
		f.enqueue(q, 5)
		var outcomes []store.Outcome
		for _, l := range f.take(c, 5) {
			o := outcome(l, store.OutcomeDone)
			o.Enqueue = messages(other, 1)
			outcomes = append(outcomes, o)
		}
		back := slices.Clone(outcomes)
		slices.Reverse(back) // locks taken in another order must not deadlock
		var first, second []store.Settled
		var errA, errB error
		race(
			func() { first, errA = c.Settle(f.ctx, outcomes) },
			func() { second, errB = twin.Settle(f.ctx, back) },
		)
		f.ok(errors.Join(errA, errB))
		slices.Reverse(second)
		for i := range first {
			if (first[i].Err == nil) == (second[i].Err == nil) {
				f.Fatalf("item %d settled twice at the same time: %+v and %+v", i, first[i], second[i])
			}
		}
	}
	f.take(f.consumer(other), 5*races)
	f.takeNone(f.consumer(other))
}

func settleRacesReleaseWorker(f *fixture) {
	q := f.queue("q")
	a, c := f.on(f.second()).admin(), f.consumer(q)
	for range races {
		id := f.enqueue1(q)
		l := f.take1(c)
		var settled []store.Settled
		var released int64
		var errA, errB error
		race(
			func() { settled, errA = c.Settle(f.ctx, []store.Outcome{outcome(l, store.OutcomeDone)}) },
			func() { released, errB = a.ReleaseWorker(f.ctx, c.ID()) },
		)
		f.ok(errors.Join(errA, errB))
		if (settled[0].Err == nil) == (released == 1) {
			f.Fatalf("settle: %+v; released at the same time: %d", settled[0], released)
		}
		if released == 1 {
			f.done(c, f.take1(c))
		}
		f.state(id, store.Done, 0)
	}
}

// giveBackRacesDequeue: a started attempt that ran out is counted once.
func giveBackRacesDequeue(f *fixture) {
	q := f.queue("q", attempts(100))
	a, c := f.on(f.second()).admin(), f.consumer(q)
	f.enqueue(q, 1)
	for n := range races {
		l := f.take1(c)
		equal(f, "attempt", l.Attempt, n+1)
		f.start(c, l)
		f.runOut()
		var errA, errB error
		race(
			func() { _, errA = a.GiveBack(f.ctx) },
			func() {
				var got []store.LeasedMessage
				if got, errB = c.Dequeue(f.ctx, 1, lease); errB == nil && len(got) > 0 {
					_, errB = c.Release(f.ctx, leases(got)...)
				}
			},
		)
		f.ok(errors.Join(errA, errB))
	}
}

func replayRacesItself(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	other := f.second()
	for range races {
		id := f.enqueue1(q)
		f.settle(c, outcome(f.take1(c), store.OutcomeDiscard))
		var first, second []error
		var errA, errB error
		race(
			func() { first, errA = f.s.Archive().Replay(f.ctx, id) },
			func() { second, errB = other.Archive().Replay(f.ctx, id) },
		)
		f.ok(errors.Join(errA, errB))
		if (first[0] == nil) == (second[0] == nil) {
			f.Fatalf("one dead letter replayed twice at the same time: %v and %v", first[0], second[0])
		}
		f.done(c, f.take1(c))
		f.takeNone(c)
	}
}

func promoteRacesItself(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 100, withDelay(lease))
	f.clock.Advance(lease)
	a, b := f.admin(), f.on(f.second()).admin()
	var n, m int64
	var errA, errB error
	for n+m < 100 {
		var i, j int64
		race(
			func() { i, _, errA = a.Promote(f.ctx, 30) },
			func() { j, _, errB = b.Promote(f.ctx, 30) },
		)
		f.ok(errors.Join(errA, errB))
		n, m = n+i, m+j
	}
	equal(f, "messages promoted", n+m, 100)
	equal(f, "messages in all", len(f.ledger()), 100)
	f.take(f.consumer(q), 100)
}
