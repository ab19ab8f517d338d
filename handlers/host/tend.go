package host

import (
	"fmt"
	"time"
)

// tend looks after the process while it serves: it gives the results that the
// host itself has to give, pings, finds stuck jobs, and sees a retired process
// to its end.
func (p *process) tend() {
	interval := p.host.tendInterval()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	watch := watch{process: p, last: p.clock()}
	exited := p.child.exited
	for {
		select {
		case <-p.stopped:
			return
		case <-exited:
			exited = nil
			time.AfterFunc(lastFrames, p.hangUp)
		case <-p.nudge:
		case <-tick.C:
			watch.tick(interval)
		}
		p.giveLocalResults()
		p.advance()
	}
}

func (p *process) giveLocalResults() {
	p.mu.Lock()
	none := len(p.local) == 0
	p.mu.Unlock()
	if none {
		return
	}
	p.sinkMu.Lock()
	defer p.sinkMu.Unlock()
	p.mu.Lock()
	results := p.local
	p.local = nil
	p.mu.Unlock()
	p.deliver(results)
}

// watch finds out that the process hangs. Time counts only in ticks that this
// process saw: after the daemon itself was stopped for a while, nothing is
// overdue until the handlers had their chance to be heard.
type watch struct {
	process *process
	last    time.Duration // the last tick
	heard   int64         // lastFrame at that time
	silent  time.Duration // how long nothing was heard
	unasked time.Duration // how long ago the last ping was
	number  uint64
}

func (w *watch) tick(interval time.Duration) {
	p := w.process
	now := p.clock()
	passed := min(now-w.last, 2*interval)
	w.last = now
	w.unasked += passed
	if heard := p.lastFrame.Load(); heard != w.heard {
		w.heard, w.silent = heard, 0
	} else if w.number > 0 {
		w.silent += passed
	}
	if w.silent > p.host.cfg.PingTimeout {
		p.log.Error("handler answers no pings; its process is killed", "pid", p.child.pid, "silent", w.silent.Round(time.Millisecond))
		p.mu.Lock()
		p.hung = true
		p.mu.Unlock()
		p.kill(fmt.Sprintf("answered no pings for %s and was killed", p.host.cfg.PingTimeout))
		return
	}
	if w.unasked >= p.host.cfg.PingInterval {
		w.unasked = 0
		w.number++
		p.mu.Lock()
		p.outbox.ping = w.number
		p.mu.Unlock()
		poke(p.wake)
	}
	p.findStuck(now)
}

// findStuck marks jobs that outlasted their grace. One is found late twice
// before it counts as stuck: its result may be on the stream, unread.
func (p *process) findStuck(now time.Duration) {
	grace := p.host.cfg.CancelGrace
	found := false
	p.mu.Lock()
	for _, j := range p.jobs {
		if j.sent == 0 || j.stuck || !j.late(now, grace) {
			continue
		}
		found = found || j.overdue
		j.stuck, j.overdue = j.overdue, true
	}
	p.mu.Unlock()
	if found {
		p.host.post(func() { p.host.replaceStuck(p) })
	}
}

// retire lets the process take no more jobs: it finishes what it has and
// exits. Jobs that wait in the host are given back; with dropUnstarted those
// that wait in the process are, too. What still runs after limit (0 is never)
// is evicted.
func (p *process) retire(why string, limit time.Duration, dropUnstarted bool) {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	why = "the handler " + why
	if limit > 0 && p.limit == 0 {
		p.limit, p.retiredWhy = now+limit, why
	}
	for _, j := range p.jobs {
		if j.sent == 0 || (dropUnstarted && j.started == 0) {
			p.cancelJob(j, why, true, now)
		}
	}
	if p.drainAsked == 0 {
		p.outbox.drain = true
		p.drainAsked = now
	}
	poke(p.wake)
	poke(p.nudge)
}

// evict cancels the jobs that have outlasted the drain, as the daemon does when
// it stops: that the process goes is pgqrsd's doing, so what they come to now
// costs them no attempt. One that does not stop within CancelGrace is stuck, and
// ends with the process. A job that was past its time before answers for itself.
func (p *process) evict() {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.evicting = true
	n := 0
	for _, j := range p.jobs {
		if j.sent == 0 || j.timedOut(now) || (j.cancelled != 0 && !j.unstartedOnly) {
			continue
		}
		j.evicted = true
		p.cancelJob(j, p.retiredWhy, false, now)
		n++
	}
	if n > 0 {
		p.log.Warn("jobs are cancelled because "+p.retiredWhy, "pid", p.child.pid, "jobs", n, "grace", p.host.cfg.CancelGrace.String())
	}
	poke(p.wake)
}

// advance sees a retired process to its end.
func (p *process) advance() {
	now := p.clock()
	p.mu.Lock()
	if !p.retired || p.drainAsked == 0 {
		p.mu.Unlock()
		return
	}
	stuck := 0
	for _, j := range p.jobs {
		if j.stuck {
			stuck++
		}
	}
	left, drained, ending := len(p.jobs)+len(p.local), p.drained, p.ending
	late := p.limit > 0 && now > p.limit && !p.evicting
	p.mu.Unlock()

	switch {
	case ending:
		if now > p.endAsked+exitGrace {
			p.kill("did not exit when asked and was killed")
		}
	case left == 0 && (drained || now > p.drainAsked+exitGrace):
		p.end()
	case left == 0: // it has exitGrace to say that it is drained
	case stuck == left:
		p.kill("had a job that would not stop, and was killed")
	case late:
		p.evict()
	}
}
