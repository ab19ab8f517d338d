package daemon

import "time"

// heldAgain is when a result is tried again for which a row was locked.
const heldAgain = 500 * time.Millisecond

// again tries a result or a call anew in a moment: a row that it needs is kept
// locked. The others beside it were recorded, and those that come meanwhile go
// first, but for the result of a call's own job. It wants the lock.
func (q *queue) again(e entry) {
	q.putOff++
	if e.call != nil && !e.call.off {
		e.call.off = true
		e.job.off++
	}
	time.AfterFunc(jittered(heldAgain), func() {
		q.mu.Lock()
		q.putOff--
		q.results = append(q.results, e)
		q.counted()
		q.mu.Unlock()
		q.record.raise()
	})
}

// waits puts off a result whose job has calls that are put off: it ends the
// lease, and with the lease gone their steps could not be recorded any more. It
// reports whether it did, and wants the lock.
func (q *queue) waits(e entry) bool {
	if e.call != nil || e.job.off == 0 {
		return false
	}
	q.again(e)
	return true
}

// taken notes that what was put off is tried again. It wants the lock.
func (e entry) taken() {
	if e.call != nil && e.call.off {
		e.call.off = false
		e.job.off--
	}
}

// sayHeldUp says once a minute that there are such results.
func (q *queue) sayHeldUp(results int, err error, now time.Time) {
	q.mu.Lock()
	say := q.heldSaid.may(now, time.Minute)
	q.mu.Unlock()
	if say {
		q.log.Warn("results wait for rows that a transaction keeps locked; they are tried again, and hold up no others",
			"results", results, "last_error", err)
	}
}
