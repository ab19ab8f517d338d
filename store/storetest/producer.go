package storetest

import (
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func producerCases() []testCase {
	return []testCase{
		{"Enqueue", producerEnqueue},
		{"EnqueueErrors", producerErrors},
		{"BatchIsAllOrNothing", producerBatch},
		{"BatchOfOneBadIsABatchError", producerBatchOfOne},
		{"Delayed", producerDelayed},
		{"Suspended", producerSuspended},
		{"Get", producerGet},
		{"Replay", producerReplay},
		{"RateLimit", rateLimit},
		{"RateLimitOfBatches", rateLimitBatch},
		{"RateLimitRefillsToItsBurst", rateLimitRefill},
		{"NoRateLimit", noRateLimit},
		{"QueueDeletedAndMadeAgain", producerQueueRemade},
		{"ManyGoroutines", producerConcurrent},
	}
}

func producerEnqueue(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	id, err := p.Enqueue(f.ctx, store.NewMessage{Queue: q, Payload: payload(5), Priority: -3, Headers: map[string]string{"k": "v"}})
	f.ok(err)
	m := f.state(id, store.Ready, 0)
	equal(f, "queue", m.Queue, q)
	equal(f, "priority", m.Priority, -3)
	equal(f, "header", m.Headers["k"], "v")
	ids, err := p.EnqueueBatch(f.ctx, messages(q, 3))
	f.ok(err)
	equal(f, "ids", len(ids), 3)
	equalIDs(f, "messages leased", leasedIDs(f.take(f.consumer(q), 4)), append([]int64{id}, ids...))
	ids, err = p.EnqueueBatch(f.ctx, nil)
	f.ok(err)
	equal(f, "ids", len(ids), 0)
}

func producerErrors(f *fixture) {
	q := f.queue("census")
	p := f.producer()
	_, err := p.Enqueue(f.ctx, messages("cencus", 1)[0])
	f.unknownQueue(err, "cencus")
	if near := as[*store.UnknownQueueError](f, err).Near; len(near) != 1 || near[0] != q {
		f.Fatalf("near names are %v", near)
	}
	for _, bad := range badBatches {
		m := messages(q, 1)[0]
		bad.edit(&m)
		_, err := p.Enqueue(f.ctx, m)
		f.is(err, bad.is)
	}
	equal(f, "messages stored", len(f.ledger()), 0)
}

func producerBatch(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	for _, bad := range badBatches {
		msgs := messages(q, 7)
		bad.edit(&msgs[5])
		_, err := p.EnqueueBatch(f.ctx, msgs)
		equal(f, "index of the "+bad.name, as[*store.BatchError](f, err).Index, 5)
		f.is(err, bad.is)
	}
	msgs := messages(q, 7)
	msgs[2].Queue = "nowhere"
	_, err := p.EnqueueBatch(f.ctx, msgs)
	f.unknownQueue(err, "nowhere")
	equal(f, "messages stored", len(f.ledger()), 0)
}

func producerBatchOfOne(f *fixture) {
	f.queue("q")
	_, err := f.producer().EnqueueBatch(f.ctx, messages("nowhere", 1))
	equal(f, "index", as[*store.BatchError](f, err).Index, 0)
	f.unknownQueue(err, "nowhere")
}

func producerDelayed(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	msg := messages(q, 1, withDelay(lease))[0]
	id, err := p.Enqueue(f.ctx, msg)
	f.ok(err)
	equalTime(f, "available at", f.state(id, store.Delayed, 0).AvailableAt, f.clock.Now().Add(lease))
	f.takeNone(f.consumer(q))
}

func producerSuspended(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	p := f.producer()
	f.ok(p.Suspend(f.ctx))
	refused := func(state store.WorkerState) {
		f.Helper()
		_, err := p.Enqueue(f.ctx, messages(q, 1)[0])
		f.notReady(err, p.ID(), state)
		_, err = p.EnqueueBatch(f.ctx, messages(q, 2))
		f.notReady(err, p.ID(), state)
		f.notReady(p.Replay(f.ctx, ids[1]), p.ID(), state)
		_, err = p.Get(f.ctx, ids[1])
		f.ok(err)
		equal(f, "messages in all", len(f.ledger()), 3)
	}
	refused(store.WorkerSuspended)
	f.ok(p.Resume(f.ctx))
	id, err := p.Enqueue(f.ctx, messages(q, 1)[0])
	f.ok(err)
	f.ok(f.s.Messages().Delete(f.ctx, id))
	f.stop(p.ID())
	refused(store.WorkerStopped)
}

func producerGet(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	p := f.producer()
	id := f.enqueue1(q)
	for id, want := range map[int64]store.State{ids[0]: store.Done, ids[1]: store.Dead, ids[2]: store.Cancelled, id: store.Ready} {
		m, err := p.Get(f.ctx, id)
		f.ok(err)
		equal(f, "state", m.State, want)
	}
	_, err := p.Get(f.ctx, missing)
	f.is(err, store.ErrNotFound)
}

func producerReplay(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	p := f.producer()
	f.ok(p.Replay(f.ctx, ids[1]))
	f.state(ids[1], store.Ready, 0)
	f.is(p.Replay(f.ctx, ids[0]), store.ErrTerminal)
	f.is(p.Replay(f.ctx, missing), store.ErrNotFound)
}

// limited is a producer with a rate limit.
func (f *fixture) limited(rate float64, burst int) store.Producer {
	f.Helper()
	return f.producer(store.ProducerOptions{
		WorkerOptions: store.WorkerOptions{Name: "limited"}, Rate: rate, Burst: burst,
	})
}

// retryAfter checks that err is the rate limit's and how long it says to wait,
// to the microsecond.
func (f *fixture) retryAfter(err error, want time.Duration) {
	f.Helper()
	got := as[*store.RateLimitError](f, err).RetryAfter
	if diff := (got - want).Abs(); diff > time.Microsecond {
		f.Fatalf("retry after %s, want %s", got, want)
	}
}

func rateLimit(f *fixture) {
	q := f.queue("q")
	p := f.limited(10, 5)
	put := func() error { _, err := p.Enqueue(f.ctx, messages(q, 1)[0]); return err }
	for range 5 {
		f.ok(put())
	}
	f.retryAfter(put(), 100*time.Millisecond)
	// Asking costs nothing.
	f.retryAfter(put(), 100*time.Millisecond)
	f.clock.Advance(60 * time.Millisecond)
	f.retryAfter(put(), 40*time.Millisecond)
	f.clock.Advance(40*time.Millisecond + time.Microsecond)
	f.ok(put())
	f.retryAfter(put(), 100*time.Millisecond)
	equal(f, "messages stored", len(f.ledger()), 6)
}

func rateLimitBatch(f *fixture) {
	q := f.queue("q")
	p := f.limited(10, 5)
	_, err := p.EnqueueBatch(f.ctx, messages(q, 6))
	f.is(err, store.ErrInvalid)
	_, err = p.EnqueueBatch(f.ctx, messages(q, 4))
	f.ok(err)
	_, err = p.EnqueueBatch(f.ctx, messages(q, 3))
	f.retryAfter(err, 200*time.Millisecond)
	f.clock.Advance(200*time.Millisecond + time.Microsecond)
	_, err = p.EnqueueBatch(f.ctx, messages(q, 3))
	f.ok(err)
	equal(f, "messages stored", len(f.ledger()), 7)
}

func rateLimitRefill(f *fixture) {
	q := f.queue("q")
	p := f.limited(2.5, 0) // its burst is 3
	f.clock.Advance(time.Hour)
	_, err := p.EnqueueBatch(f.ctx, messages(q, 3))
	f.ok(err)
	_, err = p.Enqueue(f.ctx, messages(q, 1)[0])
	f.retryAfter(err, 400*time.Millisecond)
	f.clock.Advance(time.Hour)
	_, err = p.EnqueueBatch(f.ctx, messages(q, 4))
	f.is(err, store.ErrInvalid)
	_, err = p.EnqueueBatch(f.ctx, messages(q, 3))
	f.ok(err)
}

func noRateLimit(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	for range 20 {
		_, err := p.EnqueueBatch(f.ctx, messages(q, 50))
		f.ok(err)
	}
}

// producerQueueRemade: whatever a backend remembers of a queue, it does not
// put a message where nothing can lease it.
func producerQueueRemade(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	_, err := p.Enqueue(f.ctx, messages(q, 1)[0])
	f.ok(err)
	other := f.on(f.second())
	f.ok(other.s.Queues().Delete(f.ctx, q, true))
	_, err = p.Enqueue(f.ctx, messages(q, 1)[0])
	f.unknownQueue(err, q)
	other.queue(q)
	id, err := p.Enqueue(f.ctx, messages(q, 1)[0])
	f.ok(err)
	equal(f, "message", other.take1(other.consumer(q)).ID, id)
}

func producerConcurrent(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for range 10 {
				if _, err := p.Enqueue(f.ctx, messages(q, 1)[0]); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	f.allOK(errs, nil)
	f.take(f.consumer(q), 80)
}
