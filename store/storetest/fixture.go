package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// caseLimit ends a case that hangs, with the name of the call it hung in.
	caseLimit = 2 * time.Minute
	// lease is the usual lease of a case, by its injected clock.
	lease = time.Minute
	// missing is an id that nothing ever has.
	missing = int64(1) << 40
)

// fixture is what one case works with: a database of its own and its clock.
type fixture struct {
	*testing.T
	ctx   context.Context
	clock *Clock
	open  Open
	// s is the first handle on the database.
	s store.Store
}

func newFixture(t *testing.T, open Open) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), caseLimit)
	t.Cleanup(cancel)
	return &fixture{T: t, ctx: ctx, clock: NewClock(), open: open}
}

// install opens the first handle and installs the schema.
func (f *fixture) install() {
	f.Helper()
	f.s = f.open(f.T, f.clock.Clock())
	f.ok(f.s.Install(f.ctx))
}

// second opens another handle on the same database, as a second daemon would.
func (f *fixture) second() store.Store {
	f.Helper()
	return f.open(f.T, f.clock.Clock())
}

// on is the fixture as another handle sees it.
func (f *fixture) on(s store.Store) *fixture {
	g := *f
	g.s = s
	return &g
}

// queue creates a queue with the policy, or the default one.
func (f *fixture) queue(name string, policy ...store.QueuePolicy) string {
	f.Helper()
	var p store.QueuePolicy
	if len(policy) > 0 {
		p = policy[0]
	}
	_, err := f.s.Queues().Insert(f.ctx, name, p)
	f.ok(err)
	return name
}

// attempts is the policy of a queue with that many attempts.
func attempts(n int) store.QueuePolicy { return store.QueuePolicy{MaxAttempts: n} }

func (f *fixture) admin() store.Admin {
	f.Helper()
	a, err := f.s.Admin(f.ctx, store.WorkerOptions{Name: "test/admin"})
	f.ok(err)
	f.closeLater(a)
	return a
}

func (f *fixture) producer(opts ...store.ProducerOptions) store.Producer {
	f.Helper()
	o := store.ProducerOptions{WorkerOptions: store.WorkerOptions{Name: "test/producer"}}
	if len(opts) > 0 {
		o = opts[0]
	}
	p, err := f.s.Producer(f.ctx, o)
	f.ok(err)
	f.closeLater(p)
	return p
}

func (f *fixture) consumer(queue string, opts ...store.WorkerOptions) store.Consumer {
	f.Helper()
	o := store.WorkerOptions{Name: "test/consumer"}
	if len(opts) > 0 {
		o = opts[0]
	}
	c, err := f.s.Consumer(f.ctx, queue, o)
	f.ok(err)
	f.closeLater(c)
	return c
}

// closeLater closes a worker before its store, as the contract asks. The case
// is over by then, so that the result says nothing more.
func (f *fixture) closeLater(w store.Worker) {
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), caseLimit)
		defer cancel()
		_ = w.Close(ctx)
	})
}

// payload is a small payload that tells messages apart.
func payload(i int) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)) }

// messages makes n messages for the queue, changed by edit.
func messages(queue string, n int, edit ...func(i int, m *store.NewMessage)) []store.NewMessage {
	msgs := make([]store.NewMessage, n)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: queue, Payload: payload(i)}
		for _, e := range edit {
			e(i, &msgs[i])
		}
	}
	return msgs
}

func withDelay(d time.Duration) func(int, *store.NewMessage) {
	return func(_ int, m *store.NewMessage) { m.Delay = d }
}

func withPriority(p int) func(int, *store.NewMessage) {
	return func(_ int, m *store.NewMessage) { m.Priority = p }
}

// enqueue puts n messages on the queue and returns their ids.
func (f *fixture) enqueue(queue string, n int, edit ...func(int, *store.NewMessage)) []int64 {
	f.Helper()
	ids, err := f.s.Messages().Insert(f.ctx, messages(queue, n, edit...))
	f.ok(err)
	if len(ids) != n {
		f.Fatalf("insert of %d messages returned %d ids", n, len(ids))
	}
	return ids
}

// enqueue1 is enqueue of one message.
func (f *fixture) enqueue1(queue string, edit ...func(int, *store.NewMessage)) int64 {
	f.Helper()
	return f.enqueue(queue, 1, edit...)[0]
}

// dequeue leases at most limit messages for the usual time.
func (f *fixture) dequeue(c store.Consumer, limit int) []store.LeasedMessage {
	f.Helper()
	got, err := c.Dequeue(f.ctx, limit, lease)
	f.ok(err)
	return got
}

// take leases exactly n messages, which is also the limit it asks for.
func (f *fixture) take(c store.Consumer, n int) []store.LeasedMessage {
	f.Helper()
	got := f.dequeue(c, n)
	if len(got) != n {
		f.Fatalf("dequeue of %d from queue %s returned %d messages", n, c.Queue(), len(got))
	}
	return got
}

// takeNone checks that nothing on the consumer's queue can be leased.
func (f *fixture) takeNone(c store.Consumer) {
	f.Helper()
	if got := f.dequeue(c, 10); len(got) != 0 {
		f.Fatalf("dequeue from queue %s returned messages %v, want none", c.Queue(), leasedIDs(got))
	}
}

// take1 leases exactly one message.
func (f *fixture) take1(c store.Consumer) store.LeasedMessage {
	f.Helper()
	return f.take(c, 1)[0]
}

// drain leases until nothing is ready and returns all that it got.
func (f *fixture) drain(c store.Consumer, batch int) []store.LeasedMessage {
	f.Helper()
	var all []store.LeasedMessage
	for {
		got := f.dequeue(c, batch)
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

// start records the attempts as begun.
func (f *fixture) start(c store.Consumer, leased ...store.LeasedMessage) {
	f.Helper()
	errs, err := c.Started(f.ctx, leases(leased)...)
	f.allOK(errs, err)
}

func leases(leased []store.LeasedMessage) []store.Lease {
	out := make([]store.Lease, len(leased))
	for i, m := range leased {
		out[i] = m.Lease
	}
	return out
}

func leasedIDs(leased []store.LeasedMessage) []int64 {
	out := make([]int64, len(leased))
	for i, m := range leased {
		out[i] = m.ID
	}
	return out
}

func messageIDs(msgs []store.Message) []int64 {
	out := make([]int64, len(msgs))
	for i, m := range msgs {
		out[i] = m.ID
	}
	return out
}
