package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// modelRuns is how many random histories are tried, each from its own seed.
	modelRuns  = 3
	modelSteps = 160
	// modelSilence is how long a worker must be silent to be declared dead. No
	// other operation moves the clock as far.
	modelSilence = 10 * time.Minute
)

// modelCase is one random history. Its seed is fixed, so that a failure comes
// again; PGQRS_TEST_SEED tries another.
func modelCase(run int) testCase {
	return testCase{fmt.Sprintf("Model_%d", run+1), func(f *fixture) {
		seed := uint64(run + 1)
		if env := os.Getenv("PGQRS_TEST_SEED"); env != "" {
			n, err := strconv.ParseUint(env, 10, 64)
			f.ok(err)
			seed = n + uint64(run)
		}
		f.Logf("random history from PGQRS_TEST_SEED=%d", seed)
		newHistory(f, seed).run()
	}}
}

// history is one random sequence of operations on a store and on its model.
type history struct {
	*fixture
	rng       *rand.Rand
	m         *model
	admin     store.Admin
	queues    []string
	consumers []*historyConsumer
	leases    []store.Lease // all that were ever handed out
	ids       []int64       // all that were ever enqueued
	last      string        // the operation that was done last
}

type historyConsumer struct {
	store.Consumer
	suspended bool
}

func newHistory(f *fixture, seed uint64) *history {
	h := &history{
		fixture: f,
		rng:     rand.New(rand.NewPCG(seed, 0)),
		m:       newModel(map[string]int{"a": 2, "b": 4}),
		admin:   f.admin(),
		queues:  []string{"a", "b"},
	}
	f.queue("a", attempts(2))
	f.queue("b", attempts(4))
	for i, q := range []string{"a", "a", "b", "b"} {
		g := f
		if i%2 == 1 {
			g = f.on(f.second())
		}
		h.consumers = append(h.consumers, &historyConsumer{Consumer: g.consumer(q)})
	}
	return h
}

func (h *history) run() {
	ops := []struct {
		weight int
		do     func()
	}{
		{6, h.opEnqueue}, {8, h.opDequeue}, {4, h.opStarted}, {8, h.opSettle},
		{2, h.opExtend}, {4, h.opAdvance}, {1, h.opGiveBack}, {3, h.opPromote},
		{2, h.opReplay}, {1, h.opCancel}, {1, h.opDeadLetter}, {1, h.opDelete},
		{1, h.opSuspend}, {2, h.opResume}, {1, h.opReleaseAll}, {1, h.opReleaseWorker}, {1, h.opKill},
	}
	var bag []func()
	for _, op := range ops {
		for range op.weight {
			bag = append(bag, op.do)
		}
	}
	defer func() {
		if h.Failed() {
			h.Logf("the last operation was %s", h.last)
		}
	}()
	for range modelSteps {
		bag[h.rng.IntN(len(bag))]()
		h.m.check(h.fixture)
	}
	h.ledger()
}

func (h *history) did(format string, args ...any) { h.last = fmt.Sprintf(format, args...) }

func (h *history) now() time.Time { return h.clock.Now() }

// delay is nothing, half of the time, or up to two minutes.
func (h *history) delay() time.Duration {
	return time.Duration(max(0, h.rng.IntN(240)-120)) * time.Second
}

func (h *history) consumer() *historyConsumer { return h.consumers[h.rng.IntN(len(h.consumers))] }

// someLeases picks distinct leases of the consumer, mostly recent ones, some of them lost.
func (h *history) someLeases(c store.Consumer) []store.Lease {
	var own []store.Lease
	for _, l := range h.leases {
		if l.Worker == c.ID() {
			own = append(own, l)
		}
	}
	own = own[max(0, len(own)-8):]
	h.rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
	return own[:min(len(own), h.rng.IntN(6))]
}

func (h *history) someID() int64 {
	if len(h.ids) == 0 {
		return missing
	}
	return h.ids[h.rng.IntN(len(h.ids))]
}

func (h *history) opEnqueue() {
	msgs := messages(h.queues[h.rng.IntN(2)], 1+h.rng.IntN(4), func(_ int, m *store.NewMessage) {
		m.Priority = h.rng.IntN(5) - 2
		m.Delay = h.delay()
	})
	h.did("enqueue of %d on %s", len(msgs), msgs[0].Queue)
	ids, err := h.s.Messages().Insert(h.ctx, msgs)
	h.ok(err)
	for i, id := range ids {
		h.m.insert(id, msgs[i], h.now())
	}
	h.ids = append(h.ids, ids...)
}

func (h *history) opDequeue() {
	c := h.consumer()
	limit, d := 1+h.rng.IntN(5), time.Duration(10+h.rng.IntN(50))*time.Second
	h.did("dequeue of %d by worker %d from %s", limit, c.ID(), c.Queue())
	got, err := c.Dequeue(h.ctx, limit, d)
	if c.suspended {
		h.notReady(err, c.ID(), store.WorkerSuspended)
		return
	}
	h.ok(err)
	now := h.now()
	h.m.giveBack(now, func(msg *modelMessage) bool { return msg.queue == c.Queue() && h.m.ranOut(msg, now) })
	ready := h.m.inState(c.Queue(), store.Ready)
	equal(h.fixture, "messages leased", len(got), min(limit, len(ready)))
	for i, l := range got {
		msg := h.m.msgs[l.ID]
		if msg == nil || msg.state != store.Ready || msg.queue != c.Queue() || l.Attempt != msg.failed+1 || l.Worker != c.ID() {
			h.Fatalf("leased %+v, which ought to be %+v", l, msg)
		}
		if i > 0 && cmp.Or(cmp.Compare(got[i-1].Priority, l.Priority), cmp.Compare(got[i-1].ID, l.ID)) >= 0 {
			h.Fatalf("leased message %d before %d", got[i-1].ID, l.ID)
		}
		msg.state, msg.lease = store.Leased, l.Lease
		h.m.claims[keyOf(l.Lease)] = now.Add(d)
		h.leases = append(h.leases, l.Lease)
	}
}

func (h *history) opStarted() {
	c := h.consumer()
	some := h.someLeases(c)
	h.did("started %+v", some)
	errs, err := c.Started(h.ctx, some...)
	h.ok(err)
	for i, l := range some {
		h.held(l, errs[i], func(msg *modelMessage) { msg.started = true })
	}
}

// held checks one item's error against the model and, where it holds, applies the write.
func (h *history) held(l store.Lease, err error, apply func(*modelMessage)) {
	h.Helper()
	msg := h.m.held(l)
	switch {
	case msg == nil:
		h.is(err, store.ErrLeaseLost)
	case err != nil:
		h.Fatalf("write under the live lease %+v: %v", l, err)
	default:
		apply(msg)
	}
}

func (h *history) opSettle() {
	c := h.consumer()
	kinds := []store.OutcomeKind{
		store.OutcomeDone, store.OutcomeRetry, store.OutcomeRetry, store.OutcomeSnooze,
		store.OutcomeDiscard, store.OutcomeRelease, store.OutcomeDelete,
	}
	var outcomes []store.Outcome
	for _, l := range h.someLeases(c) {
		outcomes = append(outcomes, store.Outcome{
			Lease: l, Kind: kinds[h.rng.IntN(len(kinds))], Error: "it failed", Delay: h.delay(),
		})
	}
	h.did("settle of %+v", outcomes)
	for i, got := range h.settle(c, outcomes...) {
		want, held := h.m.settle(outcomes[i], h.now())
		if got.State != want || held != (got.Err == nil) || (!held && !errors.Is(got.Err, store.ErrLeaseLost)) {
			h.Fatalf("settle of %+v: state %q, error %v; want state %q, held %t", outcomes[i], got.State, got.Err, want, held)
		}
	}
}

func (h *history) opExtend() {
	c := h.consumer()
	some := h.someLeases(c)
	h.did("extend of %+v", some)
	errs, err := c.Extend(h.ctx, lease, some...)
	h.ok(err)
	for i, l := range some {
		h.held(l, errs[i], func(*modelMessage) { h.m.claims[keyOf(l)] = h.now().Add(lease) })
	}
}

func (h *history) opAdvance() {
	d := time.Duration(h.rng.IntN(40_000)+1) * time.Millisecond
	h.did("clock moved by %s", d)
	h.clock.Advance(d)
}
