package storetest

import (
	"encoding/json"
	"errors"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 2: every consumer write carries the fence. A write from a lost lease
// changes nothing and says so, for that item alone, also when the same worker
// has leased the message again, and also when the claim itself is gone.
func fenceCases() []testCase {
	ways := []struct {
		name string
		// lose makes the consumer lose the lease of the queue's one message.
		lose func(f *fixture, c store.Consumer, l store.LeasedMessage)
	}{
		{"TakenByAnother", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			f.runOut()
			f.take1(f.consumer(c.Queue()))
		}},
		{"TakenAgainBySameWorker", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			f.runOut()
			f.take1(c)
		}},
		{"ReleasedAndTakenAgain", func(f *fixture, c store.Consumer, l store.LeasedMessage) {
			errs, err := c.Release(f.ctx, l.Lease)
			f.allOK(errs, err)
			f.take1(c)
		}},
		{"GivenBack", func(f *fixture, _ store.Consumer, _ store.LeasedMessage) {
			f.runOut()
			f.gaveBack(f.admin(), store.GivenBack{Ready: 1})
		}},
		{"ClaimGone", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			n, err := f.admin().ReleaseWorker(f.ctx, c.ID())
			f.ok(err)
			equal(f, "messages released", n, 1)
		}},
		{"ClaimGoneAndTakenAgain", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			_, err := f.admin().ReleaseWorker(f.ctx, c.ID())
			f.ok(err)
			f.take1(c)
		}},
		{"SettledBefore", func(f *fixture, c store.Consumer, l store.LeasedMessage) {
			f.done(c, l)
		}},
		{"SettledByAnother", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			f.runOut()
			b := f.consumer(c.Queue())
			f.done(b, f.take1(b))
		}},
		{"Deleted", func(f *fixture, c store.Consumer, l store.LeasedMessage) {
			errs, err := c.Delete(f.ctx, l.Lease)
			f.allOK(errs, err)
		}},
		{"WorkerReclaimed", func(f *fixture, c store.Consumer, _ store.LeasedMessage) {
			f.clock.Advance(lease / 2)
			_, err := f.admin().Reclaim(f.ctx, lease/4)
			f.ok(err)
		}},
	}
	cases := []testCase{
		{"LateSettleOfAnUntakenClaim", lateSettle},
		{"LateExtendOfAnUntakenClaim", lateExtend},
		{"ForgedFence", forgedFence},
		{"TwiceInOneBatch", twiceInOneBatch},
		{"SettledItemOfALiveClaim", settledItemOfLiveClaim},
		{"FencesNeverRecur", fencesNeverRecur},
	}
	for _, way := range ways {
		cases = append(cases, testCase{way.name, func(f *fixture) {
			q := f.queue("q", attempts(3))
			f.enqueue(q, 1)
			c := f.consumer(q)
			l := f.take1(c)
			way.lose(f, c, l)
			f.lostLeaseWritesNothing(c, l)
		}})
	}
	return cases
}

// lostLeaseWritesNothing tries every consumer write with a lost lease beside a
// live one. Only the live one's may have an effect.
func (f *fixture) lostLeaseWritesNothing(c store.Consumer, lost store.LeasedMessage) {
	f.Helper()
	q := f.queue("live")
	f.enqueue(q, 1)
	// The live lease is another queue's and worker's, so that it stands in the
	// same batch and cannot disturb the lost one's queue.
	lc := f.consumer(q)
	live := f.take1(lc)
	before, gone := f.snapshot(lost.ID)

	errs, err := lc.Started(f.ctx, lost.Lease, live.Lease)
	f.eachIs(errs, err, store.ErrLeaseLost, nil)
	errs, err = lc.Extend(f.ctx, 2*lease, lost.Lease, live.Lease)
	f.eachIs(errs, err, store.ErrLeaseLost, nil)
	err = lc.Progress(f.ctx, map[store.Lease]store.Progress{
		lost.Lease: {Percent: 66, Message: "lost"},
		live.Lease: {Percent: 33, Message: "live"},
	})
	f.is(err, store.ErrLeaseLost)
	f.unchanged(before, gone, lost.ID)

	for _, kind := range []store.OutcomeKind{
		store.OutcomeDone, store.OutcomeRetry, store.OutcomeSnooze,
		store.OutcomeDiscard, store.OutcomeRelease, store.OutcomeDelete,
	} {
		o := outcome(lost, kind)
		o.Enqueue = messages(q, 1)
		f.settleIs(c, store.ErrLeaseLost, o)
		f.unchanged(before, gone, lost.ID)
	}
	for _, write := range []func() ([]error, error){
		func() ([]error, error) { return c.Archive(f.ctx, lost.Lease) },
		func() ([]error, error) { return c.Delete(f.ctx, lost.Lease) },
		func() ([]error, error) { return c.Release(f.ctx, lost.Lease) },
	} {
		errs, err := write()
		f.eachIs(errs, err, store.ErrLeaseLost)
		f.unchanged(before, gone, lost.ID)
	}
	f.takeNone(f.consumer(q)) // no follow-up of a lost item was stored

	m := f.state(live.ID, store.Leased, 0)
	if !m.Started || m.Progress == nil || m.Progress.Percent != 33 {
		f.Fatalf("the live lease's writes were held up: %+v", m)
	}
	equalTime(f, "live lease's end", m.LeaseExpiresAt, f.clock.Now().Add(2*lease))
	got := f.settle(lc, outcome(lost, store.OutcomeDone), outcome(live, store.OutcomeDone))
	if !errors.Is(got[0].Err, store.ErrLeaseLost) || got[1].Err != nil || got[1].State != store.Done {
		f.Fatalf("settle of a lost and a live lease: %+v", got)
	}
	f.unchanged(before, gone, lost.ID)
}

// snapshot is a message as text, or gone.
func (f *fixture) snapshot(id int64) (text string, gone bool) {
	f.Helper()
	m, err := f.s.Messages().Get(f.ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return "", true
	}
	f.ok(err)
	raw, err := json.Marshal(m)
	f.ok(err)
	return string(raw), false
}

func (f *fixture) unchanged(before string, goneBefore bool, id int64) {
	f.Helper()
	if after, gone := f.snapshot(id); after != before || gone != goneBefore {
		f.Fatalf("a write from a lost lease changed message %d\nfrom %s\n  to %s", id, before, after)
	}
}

func lateSettle(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	f.clock.Advance(100 * lease)
	f.settleAs(c, store.Done, outcome(l, store.OutcomeDone))
	f.takeNone(f.consumer(q))
}

func lateExtend(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	f.clock.Advance(100 * lease)
	errs, err := c.Extend(f.ctx, lease, l.Lease)
	f.allOK(errs, err)
	f.takeNone(f.consumer(q))
	f.settleAs(c, store.Done, outcome(l, store.OutcomeDone))
}

func forgedFence(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	a, b := f.consumer(q), f.consumer(q)
	la, lb := f.take1(a), f.take1(b)
	for name, forged := range map[string]store.Lease{
		"another claim number":      {Worker: la.Worker, Claim: la.Claim + 1, ID: la.ID},
		"another worker's number":   {Worker: missing, Claim: la.Claim, ID: la.ID},
		"a message of another":      {Worker: la.Worker, Claim: la.Claim, ID: lb.ID},
		"a message that is nowhere": {Worker: la.Worker, Claim: la.Claim, ID: missing},
		"nothing":                   {},
	} {
		got := f.settle(a, store.Outcome{Lease: forged, Kind: store.OutcomeDone})[0]
		if !errors.Is(got.Err, store.ErrLeaseLost) {
			f.Fatalf("a fence with %s: %+v", name, got)
		}
		for _, write := range []func() ([]error, error){
			func() ([]error, error) { return a.Started(f.ctx, forged) },
			func() ([]error, error) { return a.Extend(f.ctx, lease, forged) },
		} {
			errs, err := write()
			f.eachIs(errs, err, store.ErrLeaseLost)
		}
	}
	f.state(la.ID, store.Leased, 0)
	f.state(lb.ID, store.Leased, 0)
	f.done(a, la)
	f.done(b, lb)
}

func twiceInOneBatch(f *fixture) {
	q := f.queue("q")
	id := f.enqueue1(q)
	c := f.consumer(q)
	l := f.take1(c)
	got := f.settle(c, outcome(l, store.OutcomeDone), outcome(l, store.OutcomeRetry))
	if got[0].State != store.Done || got[0].Err != nil || !errors.Is(got[1].Err, store.ErrLeaseLost) {
		f.Fatalf("one lease settled twice in a batch: %+v", got)
	}
	f.state(id, store.Done, 0)
}

func settledItemOfLiveClaim(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	c := f.consumer(q)
	got := f.take(c, 2)
	f.done(c, got[0])
	errs, err := c.Extend(f.ctx, lease, got[0].Lease)
	f.eachIs(errs, err, store.ErrLeaseLost)
	errs, err = c.Started(f.ctx, leases(got)...)
	f.eachIs(errs, err, store.ErrLeaseLost, nil)
	f.settleIs(c, store.ErrLeaseLost, outcome(got[0], store.OutcomeRetry))
	f.done(c, got[1])
}

func fencesNeverRecur(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 3)
	seen := map[store.Lease]bool{}
	note := func(got []store.LeasedMessage) {
		for _, l := range got {
			if seen[l.Lease] {
				f.Fatalf("the fence %+v came back", l.Lease)
			}
			seen[l.Lease] = true
		}
	}
	for range 5 {
		// An ephemeral worker's row goes; its id must not come back with it.
		c := f.consumer(q, store.WorkerOptions{})
		for range 3 {
			note(f.take(c, 3))
			_, err := c.ReleaseAll(f.ctx)
			f.ok(err)
		}
		f.ok(c.Close(f.ctx))
	}
}
