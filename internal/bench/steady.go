package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// steadyWarmUp is how long messages come before they count.
	steadyWarmUp = time.Second
	windowTime   = 5 * time.Second
)

// steady enqueues at a rate and measures how long each message waits, and
// whether the daemon keeps up.
func (r *run) steady(ctx context.Context) error {
	g := r.newGenerator()
	var from time.Time
	var ready []int64
	err := r.withDaemon(ctx, func(p *process, _ time.Time) error {
		from = time.Now().Add(steadyWarmUp)
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() error { return g.run(groupCtx, from.Add(r.Duration)) })
		group.Go(func() (err error) {
			ready, err = r.observe(groupCtx, p, g, from)
			return err
		})
		if err := group.Wait(); err != nil {
			return err
		}
		w := &watch{p: p, seen: func(m moment) error {
			r.cfg.Progress(fmt.Sprintf("waiting for the last of %s messages: %s are done", grouped(int(g.n.Load())), grouped(int(m.done))))
			return nil
		}}
		if _, err := w.until(ctx, g.n.Load()); err != nil {
			return err
		}
		if done := w.last.done; done != g.n.Load() {
			return fmt.Errorf("%d messages were done, but only %d were enqueued: some ran more than once", done, g.n.Load())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.steadyFigures(ctx, g, from, ready)
}

// observe counts what waits at the end of each window, samples the memory, and
// measures what the daemon uses while messages come.
func (r *run) observe(ctx context.Context, p *process, g *generator, from time.Time) (ready []int64, err error) {
	end := from.Add(r.Duration)
	if err := waitUntil(ctx, p, from); err != nil {
		return nil, err
	}
	w := &watch{p: p}
	first, err := w.look(ctx)
	if err != nil {
		return nil, err
	}
	last := first
	step := max(r.Duration/memorySamples, time.Second/2)
	for at := from; at.Before(end); {
		window := from.Add(time.Duration(len(ready)+1) * windowTime)
		at = earliest(at.Add(step), window, end)
		if err := waitUntil(ctx, p, at); err != nil {
			return nil, err
		}
		if last, err = w.look(ctx); err != nil {
			return nil, err
		}
		if err := r.sampleMemory(p, last.done); err != nil {
			return nil, err
		}
		r.cfg.Progress(fmt.Sprintf("%s enqueued, %s done, %s left", grouped(int(g.n.Load())), grouped(int(last.done)), time.Until(end).Round(time.Second)))
		if at.Equal(window) || at.Equal(end) {
			n, err := r.count(ctx, store.Ready)
			if err != nil {
				return nil, err
			}
			ready = append(ready, n)
		}
	}
	r.report.WorkFigures = workBetween(first, last)
	return ready, nil
}

func earliest(times ...time.Time) time.Time {
	first := times[0]
	for _, t := range times[1:] {
		if t.Before(first) {
			first = t
		}
	}
	return first
}

// waitUntil waits for a time while the daemon lives.
func waitUntil(ctx context.Context, p *process, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.exited:
		return p.died(nil)
	case <-timer.C:
		return nil
	}
}

// steadyFigures reads from the archive what was measured.
func (r *run) steadyFigures(ctx context.Context, g *generator, from time.Time, ready []int64) error {
	r.cfg.Progress("reading the archive")
	ahead, err := r.scratch.db.clock(ctx)
	if err != nil {
		return err
	}
	lives, err := r.lives(ctx, committedBetween(g.sent, from, from.Add(r.Duration)), ahead)
	if err != nil {
		return err
	}
	if len(lives) == 0 {
		return fmt.Errorf("no message that could be measured was enqueued in %s; raise --rate or --duration", r.Duration)
	}
	r.report.LatencyFigures = latencyFigures(lives, from, ready)
	return nil
}

// committedBetween are the messages that were committed from a time on and
// before another.
func committedBetween(all []sent, from, end time.Time) []sent {
	var some []sent
	for _, m := range all {
		if m.commit >= from.UnixNano() && m.commit < end.UnixNano() {
			some = append(some, m)
		}
	}
	return some
}
