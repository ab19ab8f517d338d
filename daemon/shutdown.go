package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// What follows the drain and the grace, with the close of the store, is in the
// unit's TimeoutStopSec and in docs/operations.md.
const (
	// lastSettle is how long the last results may take to be recorded.
	lastSettle = 5 * time.Second
	// lastWords is how long the release and the stop of all workers may take.
	lastWords = 5 * time.Second
	// killTime is how long the host may take to end its processes.
	killTime = 5 * time.Second
	// atOnce is what each of these gets when the stop must be at once.
	atOnce = 2 * time.Second
)

// stop ends the daemon in good order: no more leases; running jobs may finish;
// those that do not are cancelled; handlers end; results are recorded; what is
// left is released; workers are stopped.
func (d *Daemon) stop(supervising, hosting, serving *task) error {
	d.stopping.Store(true)
	supervising.end()
	<-supervising.done
	settings := d.settings.Load()
	d.cfg.Notify("STOPPING=1")
	d.status()
	d.log.Info("stopping: running jobs may finish", "drain_timeout", settings.DrainTimeout.String())
	queues := d.allQueues()
	for _, q := range queues {
		q.room.raise()
		q.news.raise()
		q.lane.Cancel("the daemon is stopping", true)
	}
	if !d.drained(settings.DrainTimeout) {
		d.killing.Store(true)
		for _, q := range queues {
			if jobs, _ := q.left(); jobs > 0 {
				q.log.Warn("jobs are cancelled because the daemon stops", "jobs", jobs, "grace", settings.CancelGrace.String())
			}
			q.lane.Cancel("the daemon is stopping", false)
		}
		d.drained(settings.CancelGrace)
	}
	d.killing.Store(true)
	hosting.end()
	killed := d.wait(hosting.done)
	recorded := d.recorded()
	serving.end()
	<-serving.done
	if !killed {
		// Their jobs may run still. Released, they would run twice at once.
		return errors.New("stop: handler processes did not end in time; what they hold is not released and runs again when its lease ends")
	}

	err := d.stopWorkers()
	switch {
	case d.rushed():
		return errors.Join(ErrReleased, err)
	case err != nil:
		return fmt.Errorf("stop: %w; messages still held run again when their lease ends", err)
	case !recorded:
		return errors.New("stop: some results could not be recorded; their messages were released and run again")
	}
	d.log.Info("stopped")
	return nil
}

// drained waits until no handler has a job.
func (d *Daemon) drained(limit time.Duration) bool {
	return d.await(limit, 0, func(jobs, _ int) bool { return jobs == 0 })
}

// recorded waits until every result is recorded.
func (d *Daemon) recorded() bool {
	return d.await(lastSettle, atOnce, func(jobs, results int) bool { return jobs+results == 0 })
}

// await waits until the jobs and results left are as wanted, but no longer
// than limit, and no longer than rushed once the stop must be at once.
func (d *Daemon) await(limit, rushed time.Duration, enough func(jobs, results int) bool) bool {
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(keepTick)
	defer tick.Stop()
	now := d.now
	for over := false; ; {
		jobs, results := 0, 0
		for _, q := range d.allQueues() {
			j, r := q.left()
			jobs, results = jobs+j, results+r
		}
		if enough(jobs, results) || over {
			return !over
		}
		select {
		case <-d.progress:
		case <-tick.C:
		case <-now:
			now = nil
			end.Reset(min(limit, rushed))
		case <-end.C:
			over = true
		}
	}
}

// wait waits for the host's end, for a limited time, and reports whether it came.
func (d *Daemon) wait(done <-chan struct{}) bool {
	late := time.NewTimer(killTime)
	defer late.Stop()
	now := d.now
	for {
		select {
		case <-done:
			return true
		case <-now:
			now = nil
			late.Reset(atOnce)
		case <-late.C:
			d.log.Error("handler processes did not end in time")
			return false
		}
	}
}

func (d *Daemon) rushed() bool {
	select {
	case <-d.now:
		return true
	default:
		return false
	}
}

// stopWorkers releases what is left and stops every worker of this daemon. It
// tries for a while if the database is away, or a transaction keeps some of it.
func (d *Daemon) stopWorkers() error {
	limit := lastWords
	if d.rushed() {
		limit = atOnce
	}
	ctx, cancel := context.WithTimeout(d.life, limit)
	defer cancel()
	var back retry
	var last error
	for {
		var errs []error
		for _, q := range d.allQueues() {
			errs = append(errs, d.stopConsumer(ctx, q))
		}
		errs = append(errs, stopWorker(ctx, d.workers.producer()), stopWorker(ctx, d.workers.admin()))
		err := errors.Join(errs...)
		if !errors.Is(err, store.ErrLocked) { // of which the stop's end says what is left
			err = d.database.note(err)
		}
		if err != nil && ctx.Err() != nil && last != nil {
			return last // this one only says that the time is over
		}
		last = err
		now := d.now
		if d.rushed() {
			now = nil // it is closed, and would end every pause
		}
		if err == nil || !transient(err) || !sleep(ctx, back.next(), now) {
			return err
		}
	}
}

// stopConsumer releases what a queue's consumer holds and stops it. While a
// transaction keeps some of it, the consumer's row stays as it is: what is left is
// found through it, and goes back when the row is reclaimed for want of heartbeats.
func (d *Daemon) stopConsumer(ctx context.Context, q *queue) error {
	q.mu.Lock()
	consumer := q.consumer
	q.mu.Unlock()
	released, err := consumer.ReleaseAll(ctx)
	var notReady *store.NotReadyError
	if errors.As(err, &notReady) && notReady.State == store.WorkerStopped {
		return nil
	}
	if released > 0 {
		q.log.Warn("messages were released", "messages", released)
	}
	if err != nil {
		return fmt.Errorf("release the messages of queue %s: %w", q.name, err)
	}
	if err := stopWorker(ctx, consumer); err != nil {
		return fmt.Errorf("queue %s: %w", q.name, err)
	}
	return nil
}

// stopWorker suspends and stops a worker, whatever state it is in.
func stopWorker(ctx context.Context, w store.Worker) error {
	for _, step := range []func(context.Context) error{w.Suspend, w.Shutdown} {
		err := step(ctx)
		var wrong *store.TransitionError
		switch {
		case err == nil, errors.Is(err, store.ErrNotFound):
		case errors.As(err, &wrong) && wrong.From == wrong.To, errors.As(err, &wrong) && wrong.From == store.WorkerStopped:
		default:
			return fmt.Errorf("stop worker %d: %w", w.ID(), err)
		}
	}
	return w.Close(ctx)
}
