package daemon

import "time"

// pace decides how many jobs beyond the concurrency a handler is given in
// advance, so that quick jobs never wait for the database and slow ones are
// never hoarded: about what it finishes within paceWindow.
type pace struct {
	bucket    time.Time // start of the current window
	now, last int       // results in the current and the previous window
	run       float64   // moving mean of run times, in seconds
}

const (
	paceWindow  = 100 * time.Millisecond
	maxPrefetch = 2000
	// Jobs that run longer than slowJob are leased only as they start.
	slowJob = time.Second
)

// results takes note of n results of jobs that ran for total together.
func (p *pace) results(at time.Time, n int, total time.Duration) {
	p.roll(at)
	p.now += n
	// The more results, the more they count: a few may be exceptions.
	share := float64(n) / float64(n+10)
	p.run += (total.Seconds()/float64(n) - p.run) * share
}

func (p *pace) roll(at time.Time) {
	switch age := at.Sub(p.bucket); {
	case age < paceWindow:
	case age < 2*paceWindow:
		p.last, p.now, p.bucket = p.now, 0, p.bucket.Add(paceWindow)
	default:
		p.last, p.now, p.bucket = 0, 0, at
	}
}

// prefetch is how many jobs to hold beyond the concurrency.
func (p *pace) prefetch(at time.Time, concurrency int) int {
	p.roll(at)
	if p.run > slowJob.Seconds() {
		return 0
	}
	n := min(max(p.now, p.last), maxPrefetch)
	if p.run > 0 {
		// What all of them finish within the window if they are busy. A burst of
		// results of slow jobs must not be taken for quick ones.
		n = min(n, int(float64(concurrency)*paceWindow.Seconds()/p.run))
	}
	return n
}
