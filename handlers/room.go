package handlers

import (
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

const (
	// roomHorizon is how much work may wait in the handler, behind the jobs that
	// run: enough that the host can refill before it is used up, not so much that
	// jobs wait here while another daemon's handler is idle.
	roomHorizon = 250 * time.Millisecond
	// roomJobs bounds the jobs of a queue that are here, if that is more than
	// twice its concurrency. 1024 no-op jobs outlast any refill.
	roomJobs = 1024
	// roomBytes is how many bytes of a queue's payloads may be here.
	roomBytes = 16 << 20
)

// room decides how many jobs of a queue the host may send: as many as may run
// at once, and as many again as the queue gets through within roomHorizon. It
// is guarded by the outbox's lock.
type room struct {
	concurrency int
	// granted counts the jobs that are here and those that the host may still send.
	granted int
	// average is the moving average of how long a job runs; 0 before the first.
	average time.Duration
	// bytes are to be given back with the next credit.
	bytes   uint64
	touched bool
	opened  bool
}

// ran takes a job's running time into account.
func (r *room) ran(elapsed time.Duration) {
	elapsed = max(elapsed, 1)
	if r.average == 0 {
		r.average = elapsed
		return
	}
	r.average += (elapsed - r.average) / 8
	r.average = max(r.average, 1)
}

// returned takes back a job whose result is sent. It says whether the lane has
// to be given credit that it was not yet due.
func (r *room) returned(payload int) (first bool) {
	r.granted--
	r.bytes += uint64(payload)
	first = !r.touched
	r.touched = true
	return first
}

// credit returns what the host gets back.
func (r *room) credit(queue string) *handlerpb.Credit {
	more := max(r.target()-r.granted, 0)
	r.granted += more
	c := &handlerpb.Credit{Queue: queue, Jobs: uint32(more), Bytes: r.bytes}
	r.bytes, r.touched = 0, false
	return c
}

// resize sets the concurrency and returns the credit to be granted at once, or nil.
func (r *room) resize(queue string, concurrency int) *handlerpb.Credit {
	r.concurrency = concurrency
	if !r.opened {
		r.opened = true
		r.bytes = roomBytes
	} else if r.target() <= r.granted {
		return nil
	}
	return r.credit(queue)
}

func (r *room) target() int {
	waiting := 0
	if r.average > 0 {
		waiting = int(min(roomHorizon*time.Duration(r.concurrency)/r.average, roomJobs))
	}
	return min(r.concurrency+waiting, max(roomJobs, 2*r.concurrency))
}
