package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pgqrs/pgqrsd/store"
)

func transitionCases() []testCase {
	cases := []testCase{
		{"ConsumerThatHoldsMessages", shutdownHolding},
		{"OneOfManyWins", transitionOneWins},
		{"ShutdownRacesDequeue", shutdownRacesDequeue},
		{"SeenByAnotherHandle", transitionSeen},
		{"ReclaimedIsStopped", transitionReclaimed},
		{"ToAnUnknownState", transitionUnknown},
	}
	for _, kind := range []store.WorkerKind{store.KindAdmin, store.KindProducer, store.KindConsumer} {
		cases = append(cases, testCase{"EveryPair_" + string(kind), func(f *fixture) {
			f.queue("q")
			for _, from := range workerStatesAll {
				for _, to := range workerStatesAll {
					f.tryTransition(kind, from, to)
				}
			}
		}})
	}
	return cases
}

var workerStatesAll = []store.WorkerState{store.WorkerReady, store.WorkerSuspended, store.WorkerStopped}

// allowed are the only transitions there are.
var allowed = map[[2]store.WorkerState]bool{
	{store.WorkerReady, store.WorkerSuspended}:   true,
	{store.WorkerSuspended, store.WorkerReady}:   true,
	{store.WorkerSuspended, store.WorkerStopped}: true,
}

// tryTransition tries one transition by the worker's own method and by the table's.
func (f *fixture) tryTransition(kind store.WorkerKind, from, to store.WorkerState) {
	for name, move := range map[string]func(w store.Worker) error{
		"table":  func(w store.Worker) error { return f.s.Workers().Transition(f.ctx, w.ID(), to) },
		"worker": func(w store.Worker) error { return moveSelf(f, w, to) },
	} {
		var w store.Worker
		switch kind {
		case store.KindAdmin:
			w = f.admin()
		case store.KindProducer:
			w = f.producer()
		default:
			w = f.consumer("q")
		}
		if from != store.WorkerReady {
			f.ok(w.Suspend(f.ctx))
		}
		if from == store.WorkerStopped {
			f.ok(w.Shutdown(f.ctx))
		}
		err := move(w)
		want := from
		if allowed[[2]store.WorkerState{from, to}] {
			f.ok(err)
			want = to
		} else {
			f.transition(err, w.ID(), from, to)
		}
		got, err := w.Status(f.ctx)
		f.ok(err)
		equal(f, "state after the "+name+"'s transition", got, want)
	}
}

func moveSelf(f *fixture, w store.Worker, to store.WorkerState) error {
	switch to {
	case store.WorkerReady:
		return w.Resume(f.ctx)
	case store.WorkerSuspended:
		return w.Suspend(f.ctx)
	default:
		return w.Shutdown(f.ctx)
	}
}

func shutdownHolding(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 5)
	c := f.consumer(q)
	got := append(f.take(c, 3), f.take(c, 2)...)
	f.ok(c.Suspend(f.ctx))
	holds := func(n int64) {
		f.Helper()
		for _, err := range []error{c.Shutdown(f.ctx), f.s.Workers().Transition(f.ctx, c.ID(), store.WorkerStopped)} {
			want := store.HoldsMessagesError{Worker: c.ID(), Messages: n}
			if e := as[*store.HoldsMessagesError](f, err); *e != want {
				f.Fatalf("error is %+v, want %+v", *e, want)
			}
		}
		equal(f, "state", f.worker(c.ID()).State, store.WorkerSuspended)
	}
	holds(5)
	f.done(c, got[0], got[4])
	holds(3)
	// Its lease has run out, but nobody has taken the messages back yet.
	f.runOut()
	f.done(c, got[1])
	holds(2)
	errs, err := c.Release(f.ctx, got[2].Lease, got[3].Lease)
	f.allOK(errs, err)
	f.ok(c.Shutdown(f.ctx))
	equal(f, "state", f.worker(c.ID()).State, store.WorkerStopped)
}

func transitionOneWins(f *fixture) {
	c := f.consumer(f.queue("q"))
	handles := []store.Store{f.s, f.second()}
	for _, to := range []store.WorkerState{store.WorkerSuspended, store.WorkerReady, store.WorkerSuspended, store.WorkerStopped} {
		from := f.worker(c.ID()).State
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = handles[i%2].Workers().Transition(f.ctx, c.ID(), to) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			f.transition(err, c.ID(), to, to)
		}
		equal(f, fmt.Sprintf("winners of %s to %s", from, to), won, 1)
	}
}

// shutdownRacesDequeue: a consumer that was shut down holds nothing, whatever
// it was doing at that moment.
func shutdownRacesDequeue(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 100)
	other := f.second()
	for range races {
		c := f.consumer(q)
		var leased atomic.Int64
		var errA, errB error
		race(
			func() {
				for errA == nil {
					var got []store.LeasedMessage
					got, errA = c.Dequeue(f.ctx, 1, lease)
					leased.Add(int64(len(got)))
				}
			},
			func() {
				errB = other.Workers().Transition(f.ctx, c.ID(), store.WorkerSuspended)
				if errB == nil {
					errB = other.Workers().Transition(f.ctx, c.ID(), store.WorkerStopped)
				}
			},
		)
		equal(f, "worker in the error", as[*store.NotReadyError](f, errA).Worker, c.ID())
		w := f.worker(c.ID())
		equal(f, "messages held", w.Leased, leased.Load())
		if errB == nil {
			equal(f, "state", w.State, store.WorkerStopped)
			equal(f, "messages held by a stopped worker", w.Leased, 0)
			continue
		}
		equal(f, "messages in the error", as[*store.HoldsMessagesError](f, errB).Messages, w.Leased)
		_, err := c.ReleaseAll(f.ctx)
		f.ok(err)
	}
}

func transitionSeen(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c, p := f.consumer(q), f.producer()
	other := f.second().Workers()
	f.ok(other.Transition(f.ctx, c.ID(), store.WorkerSuspended))
	f.ok(other.Transition(f.ctx, p.ID(), store.WorkerSuspended))
	_, err := c.Dequeue(f.ctx, 1, lease)
	f.notReady(err, c.ID(), store.WorkerSuspended)
	_, err = p.Enqueue(f.ctx, messages(q, 1)[0])
	f.notReady(err, p.ID(), store.WorkerSuspended)
	f.ok(other.Transition(f.ctx, c.ID(), store.WorkerReady))
	f.ok(other.Transition(f.ctx, p.ID(), store.WorkerReady))
	f.take1(c)
	_, err = p.Enqueue(f.ctx, messages(q, 1)[0])
	f.ok(err)
}

func transitionReclaimed(f *fixture) {
	a := f.admin()
	c := f.consumer(f.queue("q"))
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1})
	f.transition(c.Resume(f.ctx), c.ID(), store.WorkerStopped, store.WorkerReady)
	f.transition(c.Suspend(f.ctx), c.ID(), store.WorkerStopped, store.WorkerSuspended)
}

func transitionUnknown(f *fixture) {
	c := f.consumer(f.queue("q"))
	if err := f.s.Workers().Transition(f.ctx, c.ID(), "asleep"); err == nil {
		f.Fatal("a worker fell asleep")
	}
	equal(f, "state", f.worker(c.ID()).State, store.WorkerReady)
}
