package bench

import (
	"context"
	"fmt"
	"time"
)

// maxSettling is how long an idle daemon is left alone at most before it is
// measured. It asks its queues ever more rarely at first.
const maxSettling = time.Minute

// idle measures what the daemon does when there is nothing to do.
func (r *run) idle(ctx context.Context) error {
	return r.withDaemon(ctx, func(p *process, _ time.Time) error {
		if err := r.pass(ctx, p, "settling", min(2*r.Duration, maxSettling)); err != nil {
			return err
		}
		from, err := r.idleLook(ctx, p)
		if err != nil {
			return err
		}
		if err := r.pass(ctx, p, "measuring", r.Duration); err != nil {
			return err
		}
		to, err := r.idleLook(ctx, p)
		if err != nil {
			return err
		}
		r.report.IdleFigures = from.figures(to)
		return nil
	})
}

// idleLook is what an idle daemon has used by a moment.
type idleLook struct {
	moment
	statements   float64 // negative where nobody counts
	transactions int64   // so is this
}

func (r *run) idleLook(ctx context.Context, p *process) (l idleLook, err error) {
	w := &watch{p: p}
	if l.moment, err = w.look(ctx); err != nil {
		return l, err
	}
	s, err := p.sample(ctx)
	if err != nil {
		return l, err
	}
	l.statements = -1
	if n, ok := s.sum(metricStatements, ""); ok {
		l.statements = n
	}
	l.transactions, err = r.scratch.db.transactions(ctx)
	return l, err
}

// figures are what was used between two looks.
func (l idleLook) figures(to idleLook) *IdleFigures {
	seconds := to.at.Sub(l.at).Seconds()
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / seconds }
	f := &IdleFigures{
		DaemonCPUPercent: percent(to.daemonCPU - l.daemonCPU), HandlerCPUPercent: percent(to.handlerCPU - l.handlerCPU),
	}
	if l.statements >= 0 {
		perSecond := (to.statements - l.statements) / seconds
		f.StatementsPerSecond = &perSecond
	}
	if l.transactions >= 0 {
		perSecond := float64(to.transactions-l.transactions) / seconds
		f.TransactionsPerSecond = &perSecond
	}
	return f
}

// pass lets time pass while the daemon lives.
func (r *run) pass(ctx context.Context, p *process, what string, d time.Duration) error {
	end := time.Now().Add(d)
	tick := time.NewTicker(min(d, time.Second/2))
	defer tick.Stop()
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		r.cfg.Progress(fmt.Sprintf("%s, %s left", what, left.Round(time.Second)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.exited:
			return p.died(nil)
		case <-tick.C:
		}
	}
}
