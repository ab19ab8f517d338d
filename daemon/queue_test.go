package daemon

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// bookkeeping is a queue without its loops.
func bookkeeping(t *testing.T, concurrency int) *queue {
	t.Helper()
	db := openSQLite(t)
	d, err := New(testConfig(t, db))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ensureQueue(t.Context(), "work", ""); err != nil {
		t.Fatal(err)
	}
	consumer, err := db.Consumer(t.Context(), "work", store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := d.cfg.queueConfig("work")
	cfg.Concurrency = concurrency
	return &queue{
		d: d, name: "work", log: d.log, m: d.metrics.queue("work"), cfg: cfg,
		news: newSignal(), room: newSignal(), record: newSignal(), keep: newSignal(),
		consumer: consumer, state: store.WorkerReady,
		jobs: map[host.Ref]*job{}, claims: map[int64]*claim{}, beats: map[store.Lease]store.Progress{},
	}
}

// leased admits n messages with payloads of a size.
func (q *queue) leased(n, size int, at time.Time) []*handlerpb.Job {
	msgs := make([]store.LeasedMessage, n)
	for i := range msgs {
		q.claimed++ // any number that does not recur will do for an id
		msgs[i] = store.LeasedMessage{Lease: store.Lease{Worker: q.consumer.ID(), Claim: q.claimed, ID: q.claimed}, Attempt: 1, Payload: make(json.RawMessage, size)}
	}
	_, jobs := q.admit(q.consumer, q.cfg, at, msgs, nil)
	return jobs
}

func finished(jobs []*handlerpb.Job, elapsed time.Duration) []host.Result {
	results := make([]host.Result, len(jobs))
	for i, j := range jobs {
		results[i] = host.Result{
			Result:  &handlerpb.Result{Id: j.GetId(), Claim: j.GetClaim(), Outcome: handlerpb.Outcome_OUTCOME_DONE},
			Started: true, Elapsed: elapsed,
		}
	}
	return results
}

func TestWant(t *testing.T) {
	const lots = 1 << 20
	now := time.Now()
	expect := func(t *testing.T, q *queue, room int, at time.Time, want int) {
		t.Helper()
		if n, _ := q.want(room, at); n != want {
			t.Errorf("wants %d, want %d", n, want)
		}
	}
	t.Run("the concurrency, and no more than there is room for", func(t *testing.T) {
		q := bookkeeping(t, 100)
		expect(t, q, lots, now, 100)
		expect(t, q, 30, now, 30)
		expect(t, q, 0, now, 0)
	})
	t.Run("a busy consumer waits a moment before it claims few", func(t *testing.T) {
		q := bookkeeping(t, 100)
		jobs := q.leased(100, 10, now)
		expect(t, q, lots, now, 0)
		q.Results(finished(jobs[:1], time.Minute))
		n, wait := q.want(lots, now)
		if n != 0 || wait != linger {
			t.Errorf("wants %d in %s, want 0 in %s", n, wait, linger)
		}
		expect(t, q, lots, now.Add(linger), 1)
		q.Results(finished(jobs[1:40], time.Minute))
		expect(t, q, lots, now, 40)
	})
	t.Run("not while too many results wait to be recorded", func(t *testing.T) {
		q := bookkeeping(t, maxConcurrency)
		q.Results(finished(q.leased(maxUnsettled, 10, now), time.Minute))
		expect(t, q, lots, now, 0)
	})
	t.Run("again once steps that filled all room are recorded", func(t *testing.T) {
		q := bookkeeping(t, 100)
		jobs := q.leased(1, 10, now)
		big := &handlerpb.Step{Name: "big", Output: make([]byte, maxUnsettledBytes)}
		q.Steps("", []*handlerpb.StepCall{{Number: 1, Id: jobs[0].GetId(), Claim: jobs[0].GetClaim(), Steps: []*handlerpb.Step{big}}})
		expect(t, q, lots, now, 0)
		batch, _ := q.take(nil, nil, maxSettle)
		select {
		case <-q.room:
			t.Fatal("there is room while the step waits to be recorded")
		default:
		}
		q.mu.Lock()
		q.recordedCall(&tally{}, batch[0], store.Settled{}, &handlerpb.StepReply{})
		q.settling -= len(batch)
		q.counted()
		q.mu.Unlock()
		select {
		case <-q.room:
		default:
			t.Error("nothing says that there is room")
		}
		expect(t, q, lots, now.Add(time.Hour), 99)
	})
	t.Run("large payloads are held in small numbers", func(t *testing.T) {
		q := bookkeeping(t, 1000)
		const size = 4 << 20
		held := q.leased(4, size, now)
		for range 10 { // the mean comes to what they are
			q.Results(finished(q.leased(1, size, now), time.Minute))
		}
		q.want(lots, now.Add(time.Hour)) // few, so it waits a moment
		n, _ := q.want(lots, now.Add(2*time.Hour))
		if most := maxHeldBytes/size - len(held); n < most-1 || n > most+1 {
			t.Errorf("wants %d, want about %d", n, most)
		}
		q.Results(finished(held, time.Minute))
		q.size = 2 * maxHeldBytes
		expect(t, q, lots, now, 1) // one of any size
	})
	t.Run("not while suspended, retiring, quiet or stopping", func(t *testing.T) {
		q := bookkeeping(t, 100)
		q.state = store.WorkerSuspended
		expect(t, q, lots, now, 0)
		q.state, q.retiring = store.WorkerReady, true
		expect(t, q, lots, now, 0)
		q.retiring = false
		expect(t, q, lots, now, 100)
		q.d.quiet.Store(true)
		expect(t, q, lots, now, 0)
	})
}

func TestBookkeeping(t *testing.T) {
	now := time.Now()
	q := bookkeeping(t, 100)
	jobs := q.leased(10, 100, now)
	if len(q.jobs) != 10 || q.held != 1000 || len(q.claims) != 1 {
		t.Fatalf("%d jobs of %d bytes in %d claims", len(q.jobs), q.held, len(q.claims))
	}
	q.Results(finished(jobs[:4], time.Millisecond))
	q.Results(finished(jobs[:4], time.Millisecond)) // said twice is once
	batch, outcomes := q.take(nil, nil, maxSettle)
	if len(batch) != 4 || len(outcomes) != 4 || q.settling != 4 || len(q.jobs) != 6 {
		t.Fatalf("%d to settle with %d outcomes, %d in hand, %d with the handler", len(batch), len(outcomes), q.settling, len(q.jobs))
	}
	answers := make([]store.Settled, 4)
	for i := range answers {
		answers[i].State = store.Done
	}
	answers[3] = store.Settled{Err: store.ErrLeaseLost}
	q.settled(batch, answers)
	if jobs, results := q.left(); jobs != 6 || results != 0 {
		t.Fatalf("%d jobs and %d results are left", jobs, results)
	}
	// The claim of the rest is lost; a result that comes after is not recorded.
	q.mu.Lock()
	refs := q.lose([]*job{q.jobs[host.Ref{ID: jobs[9].GetId(), Claim: jobs[9].GetClaim()}]})
	q.mu.Unlock()
	q.Results(finished(jobs[4:], time.Millisecond))
	if left, results := q.left(); len(refs) != 6 || left != 0 || results != 0 || len(q.claims) != 0 || q.held != 0 {
		t.Errorf("%d lost, %d jobs, %d results, %d claims, %d bytes are left", len(refs), left, results, len(q.claims), q.held)
	}
}

// After a freeze between the lease and the handler the lease may be others'.
func TestJobsWhoseLeaseRanOutAreNotSent(t *testing.T) {
	q := bookkeeping(t, 10)
	msgs := []store.LeasedMessage{{Lease: store.Lease{Worker: q.consumer.ID(), Claim: 1, ID: 1}, Attempt: 1}}
	q.send(q.admit(q.consumer, q.cfg, time.Now().Add(-q.cfg.Lease), msgs, nil))
	batch, outcomes := q.take(nil, nil, maxSettle)
	if len(batch) != 1 || outcomes[0].Kind != store.OutcomeRelease {
		t.Errorf("to settle are %+v, want a release", outcomes)
	}
}

func TestABatchIsShortened(t *testing.T) {
	q := bookkeeping(t, 100)
	q.Results(finished(q.leased(50, 10, time.Now()), time.Millisecond))
	batch, outcomes := q.take(nil, nil, 40)
	first, next := batch[0], batch[20]
	batch = q.shorten(batch, 20)
	if jobs, results := q.left(); jobs != 0 || results != 50 {
		t.Errorf("%d jobs and %d results are left, want 0 and 50", jobs, results)
	}
	if batch, outcomes = q.take(batch, outcomes, 20); len(batch) != 20 || len(outcomes) != 20 || batch[0] != first {
		t.Errorf("%d are tried again", len(batch))
	}
	if batch, _ = q.take(batch[:0], outcomes, maxSettle); len(batch) != 30 || batch[0] != next {
		t.Errorf("then come %d, want the other 30 in their order", len(batch))
	}
}
