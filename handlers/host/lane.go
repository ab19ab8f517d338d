package host

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// ErrNotServed says that no process serves the queue at the moment.
var ErrNotServed = errors.New("no handler serves the queue")

// ErrInFlight says that a job of the same id and claim is still running. A
// fence that never recurs cannot meet it.
var ErrInFlight = errors.New("a job of this id and claim is in flight")

// queue is a name that handlers may serve. It lasts as long as the host.
type queue struct {
	name string
	// port is where its jobs go now; nil while nothing serves it.
	port atomic.Pointer[port]
	// lane is the one attached to it; nil if none is.
	lane atomic.Pointer[Lane]
}

// tellRoom tells the queue's sink that it may have more room, or none.
func (q *queue) tellRoom() {
	if l := q.lane.Load(); l != nil {
		l.sink.Room()
	}
}

// Lane carries the jobs of one queue to whichever process serves it. Safe for
// concurrent use.
type Lane struct {
	host  *Host
	queue *queue
	sink  Sink
}

// Room returns how many jobs may be sent now: the handler's credit, or 0 while
// nothing serves the queue or its credit in bytes is used up. Sink.Room says
// when to ask again. More jobs than this may be sent; they wait in the host.
func (l *Lane) Room() int {
	p := l.queue.port.Load()
	if p == nil || l.queue.lane.Load() != l {
		return 0
	}
	return p.process.room(p)
}

// Send hands jobs to the process that serves the queue and never waits for it.
// An error says that none was sent: ErrNotServed, also after Close, or
// ErrInFlight. Otherwise every job has exactly one Result in the Sink; that of a
// run whose version the handler does not carry on is OUTCOME_WAIT, of kind
// WaitVersion. The jobs belong to the host from then on.
func (l *Lane) Send(jobs []*handlerpb.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	for l.queue.lane.Load() == l {
		p := l.queue.port.Load()
		if p == nil {
			break
		}
		err := p.process.send(p, l, jobs)
		if !errors.Is(err, errRetired) {
			return err
		}
		if l.queue.port.Load() == p {
			break // it is going, and nothing has taken over yet
		}
	}
	return fmt.Errorf("send %d jobs of queue %s: %w", len(jobs), l.queue.name, ErrNotServed)
}

// Cancel asks jobs that this lane sent to stop; without refs, all of them. A
// job that has not started comes back with OUTCOME_RELEASE; one that runs has
// its context cancelled, or with unstartedOnly runs on. A job that has not
// ended CancelGrace later is ended with its process. Jobs that are not in
// flight are passed over.
func (l *Lane) Cancel(reason string, unstartedOnly bool, refs ...Ref) {
	for _, p := range l.host.processes() {
		p.cancel(l, cleanText(reason), unstartedOnly, refs)
	}
}

// Close ends sending. Jobs that were sent still get their Result, Started and
// Beats in the Sink; Room is not called any more.
func (l *Lane) Close() { l.queue.lane.CompareAndSwap(l, nil) }
