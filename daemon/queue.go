package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// queue is one queue that this daemon serves.
type queue struct {
	d    *Daemon
	name string
	kind store.QueueKind
	log  *slog.Logger
	m    *queueMetrics
	lane *host.Lane
	end  context.CancelFunc
	done chan struct{}

	offered offered
	news    signal       // messages may be ready, or the consumer's state changed
	room    signal       // handlers may have room
	record  signal       // there are results
	keep    signal       // there are jobs to keep
	parked  atomic.Int64 // since when it waits for news alone; 0 if it does not

	mu       sync.Mutex
	cfg      QueueConfig
	consumer store.Consumer
	state    store.WorkerState
	retiring bool
	handler  string // that serves it, or did last
	// roomSince is when there was room again, but for few; zero if there is none.
	roomSince time.Time
	pace      pace
	jobs      map[host.Ref]*job // handlers have them
	claims    map[int64]*claim
	claimed   int64     // the last claim's number
	heard     time.Time // when the last results came
	held      int       // bytes of the payloads that handlers have
	size      float64   // moving mean of the payloads
	results   []entry   // wait to be recorded
	bytes     int       // of results
	crammed   bool      // the lease loop found too many results unsettled
	settling  int       // results that the settle loop has in hand
	putOff    int       // results that are tried again in a moment
	heldSaid  seldom    // when it was said that there are such
	beats     map[store.Lease]store.Progress
	// stranded counts the runs that no handler here carries on, by version,
	// since that was said.
	stranded     map[string]int
	strandedSaid seldom
	strays       strays
}

const (
	// While so many results wait to be recorded no more messages are leased.
	maxUnsettled      = 5000
	maxUnsettledBytes = 32 << 20
	// maxHeldBytes is how many bytes of payloads are leased at once, as far as
	// that can be known beforehand.
	maxHeldBytes = 64 << 20
	// linger is how long a busy consumer waits for more room before it claims
	// few messages.
	linger = 5 * time.Millisecond
	// callTimeout bounds one call to the store.
	callTimeout = 15 * time.Second
)

// run runs the queue's loops until its end.
func (q *queue) run(ctx context.Context) error {
	defer close(q.done)
	defer q.lane.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return q.leaseLoop(ctx) })
	g.Go(func() error { return q.settleLoop(ctx) })
	g.Go(func() error { return q.keepLoop(ctx) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("queue %s: %w", q.name, err)
	}
	return nil
}

// leaseLoop claims messages and sends them to the handler.
func (q *queue) leaseLoop(ctx context.Context) error {
	var back retry
	idle := idle{q: q}
	for ctx.Err() == nil {
		want, wait := q.want(q.lane.Room(), time.Now())
		if want == 0 {
			q.awaitRoom(ctx, wait)
			continue
		}
		n, err := q.claim(ctx, want)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if err := q.claimFailed(ctx, &back, err); err != nil {
				return err
			}
			continue
		case n < want:
			idle.wait(ctx, n > 0)
		default:
			idle.reset()
		}
		back.reset()
	}
	return nil
}

// want is how many messages to claim now, with so much room in the handler. If it is 0, wait is how long to wait
// for more room at most; 0 is until there is some.
func (q *queue) want(room int, now time.Time) (n int, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.crammed = q.full()
	if !q.mayLease() || room == 0 || q.crammed {
		return 0, 0
	}
	most := q.cfg.Concurrency + q.pace.prefetch(now, q.cfg.Concurrency)
	n = min(room, most-len(q.jobs), maxUnsettled-q.unsettled())
	if q.size > 0 {
		least := 0
		if len(q.jobs) == 0 {
			least = 1
		}
		n = min(n, max(least, int(float64(maxHeldBytes-q.held)/q.size)))
	}
	switch {
	case n <= 0:
		q.roomSince = time.Time{}
		return 0, 0
	case len(q.jobs) == 0, n >= most/4, !q.roomSince.IsZero() && now.Sub(q.roomSince) >= linger:
		q.roomSince = time.Time{}
		return n, 0
	case q.roomSince.IsZero():
		q.roomSince = now
	}
	return 0, linger - now.Sub(q.roomSince)
}

// mayLease wants the lock.
func (q *queue) mayLease() bool {
	return q.state == store.WorkerReady && !q.retiring && !q.d.quiet.Load() && !q.d.stopping.Load()
}

func (q *queue) awaitRoom(ctx context.Context, wait time.Duration) {
	if wait > 0 {
		sleep(ctx, wait, q.room)
		return
	}
	select {
	case <-ctx.Done():
	case <-q.room:
	}
}

// claim leases at most want messages, sends them, and returns how many they were.
func (q *queue) claim(ctx context.Context, want int) (int, error) {
	q.mu.Lock()
	consumer, cfg := q.consumer, q.cfg
	q.mu.Unlock()
	// Not cut short by a stop: an answer that nobody hears leaves messages
	// leased to nobody until the lease runs out.
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked := time.Now()
	msgs, err := consumer.Dequeue(call, want, cfg.Lease)
	if len(msgs) == 0 {
		return 0, q.d.database.noteRead(err)
	}
	_ = q.d.database.note(nil)
	q.m.leased.Add(float64(len(msgs)))
	for i := range msgs {
		q.m.wait.Observe(msgs[i].Waited.Seconds())
	}
	var runs []store.RunState
	if q.kind == store.WorkflowQueue {
		if runs, err = q.load(call, msgs); err != nil {
			c, _ := q.admit(consumer, cfg, asked, msgs, nil)
			q.giveUp(c)
			return 0, err
		}
	}
	q.send(q.admit(consumer, cfg, asked, msgs, runs))
	return len(msgs), nil
}

// send hands jobs to the handler; those it does not take are released.
func (q *queue) send(c *claim, jobs []*handlerpb.Job) {
	if c == nil {
		return
	}
	if len(jobs) < len(c.jobs) {
		q.record.raise() // some are settled at once
	}
	q.mu.Lock()
	stopped := !q.mayLease()
	q.mu.Unlock()
	// After a long freeze between the lease and here others may have them by now.
	late := time.Since(c.at) >= c.lease
	if !stopped && !late {
		if err := q.lane.Send(jobs); err == nil {
			q.keep.raise()
			return
		} else if !errors.Is(err, host.ErrNotServed) {
			q.log.Warn("jobs could not be sent to the handler and are released", "jobs", len(jobs), "error", err)
		}
	}
	q.giveUp(c)
}

// giveUp releases the jobs of a claim that no handler got; nil is none.
func (q *queue) giveUp(c *claim) {
	if c == nil {
		return
	}
	q.mu.Lock()
	q.giveBack(c)
	q.mu.Unlock()
	q.record.raise()
}

// deleted ends the service of a queue that is no more.
func (q *queue) deleted() {
	q.d.close(q, "the queue was deleted; if it is made again, it is served within a minute, or after a reload", time.Now().Add(lookAgain))
}

// claimFailed decides what an error of Dequeue means, and waits.
func (q *queue) claimFailed(ctx context.Context, back *retry, err error) error {
	var (
		notReady *store.NotReadyError
		unknown  *store.UnknownQueueError
	)
	switch {
	case fatal(err):
		return err
	case transient(err):
	case errors.As(err, &notReady):
		q.d.pulseNow.raise()
	case errors.As(err, &unknown):
		q.deleted()
		return nil
	default:
		q.log.Error("messages could not be leased; trying again", "error", err)
	}
	sleep(ctx, back.next(), q.news)
	return nil
}
