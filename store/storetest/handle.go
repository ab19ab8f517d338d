package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func handleCases() []testCase {
	return []testCase{
		{"SaysWhatItIs", handleSays},
		{"Closed", handleClosed},
		{"CancelledContext", cancelledContext},
		{"CancelledHalfWay", cancelledHalfWay},
	}
}

func handleSays(f *fixture) {
	f.ok(f.s.Ping(f.ctx))
	want := map[string]store.ConcurrencyModel{
		store.BackendPostgres: store.MultiProcess,
		store.BackendSQLite:   store.SingleProcess,
	}
	model, known := want[f.s.BackendName()]
	if !known {
		f.Fatalf("the backend is called %q", f.s.BackendName())
	}
	equal(f, "concurrency model", f.s.ConcurrencyModel(), model)
}

// handleClosed: a handle that was closed says so, and another one works on.
func handleClosed(f *fixture) {
	q := f.queue("q")
	other := f.on(f.second())
	id := f.enqueue1(q)
	f.ok(other.s.Close())
	f.ok(other.s.Close())
	f.is(other.s.Ping(f.ctx), store.ErrUnavailable)
	_, err := other.s.Messages().Get(f.ctx, id)
	f.is(err, store.ErrUnavailable)
	_, err = other.s.Messages().Insert(f.ctx, messages(q, 1))
	f.is(err, store.ErrUnavailable)
	f.take1(f.consumer(q))
}

// cancelledContext: a call whose context has ended returns the context's error
// and changes nothing, and does no harm to later calls.
func cancelledContext(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	c, p, a := f.consumer(q), f.producer(), f.admin()
	l := f.take1(c)
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	before := f.ledger()
	for name, call := range map[string]func() error{
		"insert":    func() error { _, err := f.s.Messages().Insert(ctx, messages(q, 1)); return err },
		"enqueue":   func() error { _, err := p.EnqueueBatch(ctx, messages(q, 2)); return err },
		"dequeue":   func() error { _, err := c.Dequeue(ctx, 1, lease); return err },
		"started":   func() error { _, err := c.Started(ctx, l.Lease); return err },
		"extend":    func() error { _, err := c.Extend(ctx, lease, l.Lease); return err },
		"settle":    func() error { _, err := c.Settle(ctx, []store.Outcome{outcome(l, store.OutcomeDone)}); return err },
		"get":       func() error { _, err := f.s.Messages().Get(ctx, l.ID); return err },
		"list":      func() error { _, err := f.s.Messages().List(ctx, store.MessageFilter{}); return err },
		"heartbeat": func() error { return c.Heartbeat(ctx) },
		"suspend":   func() error { return c.Suspend(ctx) },
		"promote":   func() error { _, _, err := a.Promote(ctx, 1); return err },
		"create":    func() error { _, err := a.CreateQueue(ctx, "other", store.QueuePolicy{}); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			f.Fatalf("%s with a context that has ended: %v", name, err)
		}
	}
	equal(f, "messages", len(f.ledger()), len(before))
	m := f.state(l.ID, store.Leased, 0)
	equal(f, "started", m.Started, false)
	f.done(c, l)
	f.done(c, f.take1(c))
}

// cancelledHalfWay ends the context at some moment of a settle: it is written
// as a whole or not at all, and what was not written can be settled again.
func cancelledHalfWay(f *fixture) {
	const n = 50
	q, other := f.queue("q"), f.queue("other")
	c := f.consumer(q)
	followUps := 0
	for round := range 20 {
		f.enqueue(q, n)
		outcomes := make([]store.Outcome, n)
		for i, l := range f.take(c, n) {
			outcomes[i] = outcome(l, store.OutcomeDone)
			outcomes[i].Enqueue = messages(other, 1)
		}
		ctx, cancel := context.WithTimeout(f.ctx, time.Duration(round)*100*time.Microsecond)
		_, err := c.Settle(ctx, outcomes)
		cancel()
		written := 0
		for _, s := range f.settle(c, outcomes...) {
			if s.Err != nil {
				f.is(s.Err, store.ErrLeaseLost)
				written++
			}
		}
		if written != 0 && written != n || err == nil && written == 0 {
			f.Fatalf("%d of %d outcomes were written by a settle that ended with %v", written, n, err)
		}
		followUps += n
		count, err := f.s.Messages().Count(f.ctx, store.MessageFilter{Queue: other})
		f.ok(err)
		equal(f, "follow-up messages", count, int64(followUps))
	}
}
