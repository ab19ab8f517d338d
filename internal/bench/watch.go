package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// How often the daemon's counters are read while it works: often enough to tell
// when a number was reached, seldom enough to cost nothing.
const (
	lookMost  = 100 * time.Millisecond
	lookLeast = 5 * time.Millisecond
	// stallTime is how long nothing may get done.
	stallTime = time.Minute
)

// moment is how far the daemon was, and what it had used, at a time.
type moment struct {
	at         time.Time
	done       int64
	daemonCPU  time.Duration
	handlerCPU time.Duration
}

// watch follows the daemon's progress.
type watch struct {
	p    *process
	last moment
	// seen is called with each look.
	seen func(moment) error
}

// look reads the counters.
func (w *watch) look(ctx context.Context) (m moment, err error) {
	s, err := w.p.sample(ctx)
	if err != nil {
		select {
		case <-w.p.exited:
			return m, w.p.died(nil)
		default:
			return m, err
		}
	}
	m.at, m.done = time.Now(), s.done()
	if m.daemonCPU, err = cpu(w.p.cmd.Process.Pid); err != nil {
		return m, err
	}
	m.handlerCPU, err = cpu(w.p.handlers...)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		err = w.p.died(fmt.Errorf("a handler process ended, so that this is no measurement: %w", err))
	}
	return m, err
}

// until waits until n messages are done and returns the moment at which that
// was, between two looks.
func (w *watch) until(ctx context.Context, n int64) (moment, error) {
	progressed := time.Now()
	for {
		m, err := w.look(ctx)
		if err != nil {
			return m, err
		}
		before := w.last
		w.last = m
		if w.seen != nil {
			if err := w.seen(m); err != nil {
				return m, err
			}
		}
		switch {
		case m.done >= n:
			return between(before, m, n), nil
		case m.done > before.done:
			progressed = m.at
		case m.at.Sub(progressed) > stallTime:
			return m, w.p.died(fmt.Errorf("for %s no message was done; %d of %d are", stallTime, m.done, n))
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-w.p.exited:
			return m, w.p.died(nil)
		case <-time.After(pause(before, m, n)):
		}
	}
}

// pause is half of the time that the rest will take at the present pace.
func pause(before, m moment, n int64) time.Duration {
	pace := float64(m.done-before.done) / m.at.Sub(before.at).Seconds()
	if before.at.IsZero() || pace <= 0 {
		return lookMost / 4
	}
	rest := time.Duration(float64(n-m.done) / pace / 2 * float64(time.Second))
	return min(max(rest, lookLeast), lookMost)
}

// between is the moment at which n were done, if the pace was even.
func between(a, b moment, n int64) moment {
	if a.at.IsZero() || n <= a.done || b.done <= a.done {
		b.done = n
		return b
	}
	share := float64(n-a.done) / float64(b.done-a.done)
	part := func(from, to time.Duration) time.Duration { return from + time.Duration(share*float64(to-from)) }
	return moment{
		at: a.at.Add(time.Duration(share * float64(b.at.Sub(a.at)))), done: n,
		daemonCPU: part(a.daemonCPU, b.daemonCPU), handlerCPU: part(a.handlerCPU, b.handlerCPU),
	}
}

// workBetween is the figures of what was done between two moments. Where that
// was nothing, a job has no cost.
func workBetween(from, to moment) *WorkFigures {
	n, seconds := to.done-from.done, to.at.Sub(from.at).Seconds()
	perJob := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }
	if n == 0 {
		return &WorkFigures{Seconds: seconds}
	}
	return &WorkFigures{
		Messages: n, Seconds: seconds, JobsPerSecond: float64(n) / seconds,
		DaemonCPUPerJobUs:  perJob(to.daemonCPU - from.daemonCPU),
		HandlerCPUPerJobUs: perJob(to.handlerCPU - from.handlerCPU),
	}
}
