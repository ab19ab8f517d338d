package daemon

import "time"

// heldAgain is when a result is tried again for which a row was locked.
const heldAgain = 500 * time.Millisecond

// again tries a result anew in a moment: a row that it needs is kept locked. The
// results beside it were recorded, and those that come meanwhile go first. It
// wants the lock.
func (q *queue) again(e entry) {
	q.putOff++
	time.AfterFunc(jittered(heldAgain), func() {
		q.mu.Lock()
		q.putOff--
		q.results = append(q.results, e)
		q.counted()
		q.mu.Unlock()
		q.record.raise()
	})
}

// sayHeldUp says once a minute that there are such results.
func (q *queue) sayHeldUp(results int, err error, now time.Time) {
	q.mu.Lock()
	again := now.Sub(q.heldSaid) < time.Minute
	if !again {
		q.heldSaid = now
	}
	q.mu.Unlock()
	if !again {
		q.log.Warn("results wait for rows that a transaction keeps locked; they are tried again, and hold up no others",
			"results", results, "last_error", err)
	}
}
