package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/store"
)

// memorySamples is about how many samples of the memory a run takes.
const memorySamples = 20

// drain fills the queues and measures how the daemon works them off.
func (r *run) drain(ctx context.Context) error {
	var figures *WorkFigures
	var enqueuing time.Duration
	var err error
	if r.InFlight == 0 {
		if enqueuing, err = r.fillLine(ctx); err != nil {
			return err
		}
	} else if err := r.fillSleepers(ctx); err != nil {
		return err
	}
	total := int64(r.WarmUp + r.QueueSize)
	err = r.withDaemon(ctx, func(p *process, started time.Time) error {
		w := &watch{p: p, seen: r.sampler(p, total)}
		from := moment{at: started}
		if r.InFlight > 0 {
			if enqueuing, err = r.fillBehindSleepers(ctx, p); err != nil {
				return err
			}
			if from, err = w.look(ctx); err != nil {
				return err
			}
			w.last = from
		}
		if r.WarmUp > 0 {
			if from, err = w.until(ctx, int64(r.WarmUp)); err != nil {
				return err
			}
		}
		to, err := w.until(ctx, total)
		if err != nil {
			return err
		}
		figures = workBetween(from, to)
		if err := r.checkAsleep(time.Since(started)); err != nil {
			return err
		}
		if err := r.checkDone(w.last.done, total); err != nil {
			return err
		}
		return r.checkSteps(ctx, p, w.last.done)
	})
	if err != nil {
		return err
	}
	if enqueuing > 0 {
		figures.EnqueuePerSecond = float64(total+int64(r.Backlog)) / enqueuing.Seconds()
	}
	r.report.WorkFigures = figures
	if err := r.verify(ctx); err != nil || !r.Workflow {
		return err
	}
	r.report.WorkflowFigures, err = r.workflowFigures(ctx, figures)
	return err
}

// fillLine enqueues what is to be drained, and what is to stay behind it.
func (r *run) fillLine(ctx context.Context) (time.Duration, error) {
	return r.fill(ctx, "messages", r.WarmUp+r.QueueSize+r.Backlog, r.measured)
}

// measured is the n-th message to measure.
func (r *run) measured(n int) store.NewMessage {
	if !r.Workflow {
		return r.message(doNothing, n)
	}
	return store.NewMessage{Queue: r.queues[n%len(r.queues)], Payload: r.payloads.payload(doSteps, r.Steps)}
}

func (r *run) fillSleepers(ctx context.Context) error {
	ms := int(r.Sleep.Milliseconds())
	_, err := r.fill(ctx, "sleeping jobs", r.InFlight, func(n int) store.NewMessage {
		return store.NewMessage{Queue: r.queues[n%len(r.queues)], Payload: r.payloads.payload(doSleep, ms)}
	})
	return err
}

// fillBehindSleepers waits until the sleeping jobs run, and suspends the
// queues' consumers while it enqueues the others.
func (r *run) fillBehindSleepers(ctx context.Context, p *process) (time.Duration, error) {
	r.cfg.Progress("waiting for the sleeping jobs to run")
	if err := r.untilRunning(ctx, p); err != nil {
		return 0, err
	}
	workers := r.scratch.store.Workers()
	consumers, err := workers.List(ctx, store.WorkerFilter{Kind: store.KindConsumer, State: store.WorkerReady, Page: store.Page{Limit: maxQueues}})
	if err != nil {
		return 0, err
	}
	move := func(to store.WorkerState) error {
		for _, c := range consumers {
			if err := workers.Transition(ctx, c.ID, to); err != nil {
				return err
			}
		}
		return nil
	}
	if err := move(store.WorkerSuspended); err != nil {
		return 0, err
	}
	took, err := r.fillLine(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.scratch.db.calm(ctx); err != nil {
		return 0, err
	}
	return took, move(store.WorkerReady)
}

func (r *run) untilRunning(ctx context.Context, p *process) error {
	timeout := time.After(stallTime)
	tick := time.NewTicker(lookMost)
	defer tick.Stop()
	for {
		s, err := p.sample(ctx)
		if err != nil {
			return err
		}
		n, _ := s.sum(metricInFlight, "")
		if int(n) >= r.InFlight {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return p.died(fmt.Errorf("only %.0f of %d sleeping jobs run after %s", n, r.InFlight, stallTime))
		case <-tick.C:
		}
	}
}

// sampler samples the memory as the work goes on, and tells how far it is.
func (r *run) sampler(p *process, total int64) func(moment) error {
	next := int64(0)
	began := time.Now()
	return func(m moment) error {
		pace := float64(m.done) / m.at.Sub(began).Seconds()
		r.cfg.Progress(fmt.Sprintf("draining: %s of %s done, %s/s", grouped(int(min(m.done, total))), grouped(int(total)), grouped(int(pace))))
		if m.done < next {
			return nil
		}
		next = m.done - m.done%(total/memorySamples+1) + total/memorySamples + 1
		return r.sampleMemory(p, m.done)
	}
}

func (r *run) sampleMemory(p *process, done int64) error {
	bytes, err := memory(p.cmd.Process.Pid, memoryNow)
	if err != nil {
		return err
	}
	r.report.MemorySamples = append(r.report.MemorySamples, MemorySample{MessagesDone: done, Bytes: bytes})
	return nil
}

// checkAsleep refuses a measurement that the sleeping jobs may have left early.
// They began some time after the daemon's process.
func (r *run) checkAsleep(sinceStart time.Duration) error {
	if r.InFlight > 0 && sinceStart >= r.Sleep {
		return fmt.Errorf("the sleeping jobs woke before the others were done; give them a longer --sleep than %s", r.Sleep)
	}
	return nil
}

// checkDone refuses a count that says that messages ran twice.
func (r *run) checkDone(done, total int64) error {
	if r.Backlog == 0 && r.InFlight == 0 && done != total {
		return fmt.Errorf("%d messages were done, but only %d were enqueued: some ran more than once", done, total)
	}
	return nil
}

// verify checks, once the daemon has stopped, that every message is where it
// should be.
func (r *run) verify(ctx context.Context) error {
	left, err := r.count(ctx, "")
	if err != nil {
		return err
	}
	archived, err := r.count(ctx, store.Done)
	if err != nil {
		return err
	}
	stay := int64(r.Delayed + r.Backlog + r.InFlight)
	switch {
	case r.Retain == daemon.RetainDelete && archived != int64(r.Archived):
		return fmt.Errorf("%d messages are archived, want the %d from before", archived, r.Archived)
	case r.Retain == daemon.RetainArchive && archived+left != r.enqueued:
		return fmt.Errorf("%d messages are archived and %d are left, but %d were enqueued: some are lost, dead, or there twice", archived, left, r.enqueued)
	case left > stay:
		return fmt.Errorf("%d messages are left, want at most %d", left, stay)
	case r.Backlog == 0 && left != stay:
		return fmt.Errorf("%d messages are left, want %d", left, stay)
	}
	return nil
}
