package storetest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/pgqrs/pgqrsd/store"
)

// signalsRace: many send while workers lease the run, take what they find, and
// wait again. Every signal is taken exactly once, in the end with no wake-up
// but the senders'.
func signalsRace(f *fixture) {
	const senders, each = 4, 25
	q := f.flow("flow")
	id := f.run(q, "")
	handles := []store.Store{f.s, f.second()}
	errs := make([]error, senders)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for n := range each {
				_, _, errs[i] = handles[i%2].Workflows().Send(f.ctx, store.NewSignal{Run: id, Topic: "t", Payload: payload(i*each + n)})
				if errs[i] != nil {
					return
				}
			}
		})
	}
	var took []string
	c := f.consumer(q)
	for f.ctx.Err() == nil && len(took) < senders*each {
		got := f.dequeue(c, 1)
		if len(got) == 0 {
			continue // it waits, for a sender that is still at work
		}
		s := f.load(id)
		o := waiting(got[0], -1)
		o.Wait.News = s.News
		for _, sig := range s.Signals {
			f.record(c, got[0], receiving(fmt.Sprint("receive", len(took)), sig))
			took = append(took, string(sig.Payload))
		}
		f.ok(f.settle(c, o)[0].Err)
	}
	wg.Wait()
	f.allOK(errs, f.ctx.Err())
	slices.Sort(took)
	equal(f, "signals taken", len(slices.Compact(took)), senders*each)
	equal(f, "signals left", len(f.load(id).Signals), 0)
	f.ok(f.settleLast(c, id))
}

// settleLast lets the run of a race wait once more, if it was woken by the last
// signal after that was taken, and checks that it then stays.
func (f *fixture) settleLast(c store.Consumer, id int64) error {
	f.Helper()
	for _, l := range f.dequeue(c, 1) {
		o := waiting(l, -1)
		o.Wait.News = f.load(id).News
		if got := f.settle(c, o)[0]; got.Err != nil {
			return got.Err
		}
	}
	f.status(id, store.RunWaiting)
	return nil
}

// signalRacesWait: whichever comes first, the run does not wait past a signal.
func signalRacesWait(f *fixture) {
	c, l := f.leasedRun()
	other := f.second()
	for i := range races {
		o := waiting(l, -1)
		o.Wait.News = f.load(l.ID).News
		var got []store.Settled
		var errSettle, errSend error
		race(
			func() { got, errSettle = c.Settle(f.ctx, []store.Outcome{o}) },
			func() { _, _, errSend = other.Workflows().Send(f.ctx, store.NewSignal{Run: l.ID, Topic: "t"}) },
		)
		f.ok(errSettle)
		f.ok(errSend)
		f.ok(got[0].Err)
		l = f.take1(c)
		equal(f, "signals", len(f.load(l.ID).Signals), i+1)
	}
}
