package daemon

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// claim is one successful Dequeue: a lease that its jobs share.
type claim struct {
	// number is the daemon's own, which handlers see. The store's would recur
	// after the consumer registered anew.
	number int64
	worker int64
	jobs   []job
	open   int // jobs that are not settled, nor lost
	// unmarked counts the jobs with a handler that are not recorded as started.
	unmarked int
	at       time.Time
	lease    time.Duration
	renewAt  time.Time
}

// place is where a job is.
type place uint8

const (
	running place = iota // with a handler
	ended                // has a result, which waits to be recorded
	gone                 // settled, or its lease is lost
)

// job is one attempt at one message.
type job struct {
	lease    store.Lease
	claim    *claim
	attempt  int
	place    place
	marked   bool  // recorded as started
	recalled bool  // asked back because it did not start
	off      int   // calls that are put off; the result waits for them
	asked    bool  // a Settle that held it failed; it may have been recorded
	size     int   // of the payload, and of a run's steps and signals
	carried  int   // bytes of a run as it is sent to a handler, with what it recorded since
	news     int64 // of a run, as it was when it was leased; see store.Wait
	started  time.Time
	outcome  store.Outcome
}

func (j *job) ref() host.Ref { return host.Ref{ID: j.lease.ID, Claim: j.claim.number} }

// admit takes leased messages in, and what they carry on from if they are runs,
// and returns the jobs for the handler. It returns nil when the consumer
// registered anew in the meantime, so that these leases are lost.
func (q *queue) admit(consumer store.Consumer, cfg QueueConfig, asked time.Time, msgs []store.LeasedMessage, runs []store.RunState) (*claim, []*handlerpb.Job) {
	timeout := max(0, cfg.Timeout)
	c := &claim{
		worker: consumer.ID(), jobs: make([]job, len(msgs)), open: len(msgs), unmarked: len(msgs),
		at: asked, lease: cfg.Lease, renewAt: asked.Add(cfg.Lease / 3),
	}
	slab := make([]handlerpb.Job, len(msgs))
	out := make([]*handlerpb.Job, 0, len(msgs))
	sizes := 0
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.consumer != consumer {
		return nil, nil
	}
	q.claimed++
	c.number = q.claimed
	q.claims[c.number] = c
	for i := range msgs {
		m, j, p := &msgs[i], &c.jobs[i], &slab[i]
		j.lease, j.claim, j.attempt, j.size = m.Lease, c, m.Attempt, len(m.Payload)
		if runs != nil {
			j.news = runs[i].News
			j.size += resume(p, &runs[i])
			if q.d.cfg.Store.BackendName() == store.BackendPostgres {
				p.Fence = &handlerpb.Fence{Worker: j.lease.Worker, Claim: j.lease.Claim}
			}
		}
		sizes += j.size
		q.held += j.size
		q.jobs[j.ref()] = j
		if runs != nil {
			if o, ok := halted(j.lease, &runs[i]); ok {
				q.finish(j, o)
				continue
			}
		}
		p.Id, p.Claim, p.Queue = m.ID, c.number, q.name
		p.Attempt, p.MaxAttempts = uint32(m.Attempt), uint32(m.MaxAttempts)
		p.TimeoutMs = timeout.Milliseconds()
		p.EnqueuedAtUs = m.EnqueuedAt.UnixMicro()
		p.Headers, p.Payload = m.Headers, m.Payload
		if runs != nil {
			j.carried = proto.Size(p)
		}
		out = append(out, p)
	}
	q.size += (float64(sizes)/float64(len(msgs)) - q.size) / 2
	q.counted()
	return c, out
}

// giveBack ends the jobs of a claim that no handler got. It wants the lock.
func (q *queue) giveBack(c *claim) {
	for i := range c.jobs {
		if j := &c.jobs[i]; j.place == running {
			q.finish(j, store.Outcome{Lease: j.lease, Kind: store.OutcomeRelease})
		}
	}
	q.counted()
}

// finish moves a job from the handler to the results. It wants the lock.
func (q *queue) finish(j *job, o store.Outcome) {
	q.leave(j)
	j.place, j.outcome = ended, o
	q.results = append(q.results, entry{job: j})
	q.bytes += outcomeBytes(&o)
}

// leave takes a job off the handler's list. It wants the lock.
func (q *queue) leave(j *job) {
	delete(q.jobs, j.ref())
	q.held -= j.size
	if !j.marked {
		j.claim.unmarked--
	}
}

// drop forgets jobs for good. It wants the lock.
func (q *queue) drop(j *job) {
	switch j.place {
	case gone:
		return
	case running:
		q.leave(j)
	case ended:
		q.bytes -= outcomeBytes(&j.outcome)
	}
	j.place, j.outcome = gone, store.Outcome{}
	j.claim.open--
	if j.claim.open == 0 {
		delete(q.claims, j.claim.number)
	}
}

// counted publishes the counts after a change. It wants the lock.
func (q *queue) counted() {
	unsettled := q.unsettled()
	q.m.inFlight.Set(float64(len(q.jobs)))
	q.m.unsettled.Set(float64(unsettled))
	// Steps that are recorded make room of this kind alone.
	if q.crammed && !q.full() {
		q.crammed = false
		q.room.raise()
	}
	if len(q.jobs) == 0 || unsettled == 0 {
		q.d.progress.raise()
	}
}

// left counts the jobs with handlers and the results not yet recorded.
func (q *queue) left() (jobs, results int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs), q.unsettled()
}

// full reports whether so much waits to be recorded that no more is to be
// leased. It wants the lock.
func (q *queue) full() bool { return q.bytes > maxUnsettledBytes || q.unsettled() >= maxUnsettled }

// unsettled counts the results not yet recorded. It wants the lock.
func (q *queue) unsettled() int { return len(q.results) + q.settling + q.putOff }

// Room, Started, Beats, Steps and Results make the queue a host.Sink.

// Room is called when the handler may have room.
func (q *queue) Room() { q.room.raise() }

// Started is called when jobs' code has begun to run.
func (q *queue) Started(refs []host.Ref) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ref := range refs {
		if j := q.jobs[ref]; j != nil && j.started.IsZero() {
			j.started = now
		}
	}
}

// Results is called with what became of jobs.
func (q *queue) Results(results []host.Result) {
	now := time.Now()
	// Those that never ran say nothing of the handler's pace.
	ran, total := 0, time.Duration(0)
	for i := range results {
		if results[i].Started {
			ran++
			total += results[i].Elapsed
			q.m.run.Observe(results[i].Elapsed.Seconds())
		}
	}
	q.mu.Lock()
	if ran > 0 {
		q.pace.results(now, ran, total)
		q.heard = now
	}
	for i := range results {
		r := &results[i]
		// One that is not there lost its lease: whatever it did is not recorded.
		if j := q.jobs[host.Ref{ID: r.GetId(), Claim: r.GetClaim()}]; j != nil {
			q.finish(j, q.outcome(j, r))
		}
	}
	q.counted()
	q.mu.Unlock()
	q.record.raise()
	q.room.raise()
	if q.kind == store.WorkflowQueue {
		q.sayStranded(now)
	}
}

// Beats is called with how far jobs are.
func (q *queue) Beats(beats []*handlerpb.Beat) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range beats {
		if j := q.jobs[host.Ref{ID: b.GetId(), Claim: b.GetClaim()}]; j != nil {
			q.beats[j.lease] = store.Progress{Percent: b.GetPercent(), Message: b.GetMessage(), At: now}
		}
	}
	q.keep.raise()
}
