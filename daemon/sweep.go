package daemon

import (
	"context"
	"time"
)

// idle paces the claims of a queue that has nothing ready. Wake-ups say when
// there is; the sweep finds what came without one.
type idle struct {
	q    *queue
	last time.Duration
}

const (
	// idleMin is the first pause of a queue that nobody wakes.
	idleMin = 50 * time.Millisecond
	// A sweep takes at most one sweepShare-th of the time, but comes at least
	// every sweepMost.
	sweepShare = 20
	sweepMost  = time.Minute
)

func (i *idle) reset() { i.last = 0 }

// wait waits after a claim that left room; some says that it was not empty.
// Without wake-ups the queue asks again by itself, ever more rarely, before it
// leaves it to the sweep.
func (i *idle) wait(ctx context.Context, some bool) {
	if some {
		i.reset()
	}
	i.last = min(max(idleMin, 2*i.last), i.q.d.cfg.PollInterval)
	if !i.q.d.listening.Load() && i.last < i.q.d.cfg.PollInterval {
		sleep(ctx, jittered(i.last), i.q.news)
		return
	}
	i.q.parked.Store(int64(time.Since(i.q.d.born)))
	defer i.q.parked.Store(0)
	select {
	case <-ctx.Done():
	case <-i.q.news:
	}
}

// sweep wakes the idle queues that have messages, of which they may not have
// been told: the wake-up was lost, or the message was written by hand. It asks
// for all of them at once, so that many idle queues cost no more than one.
func (d *Daemon) sweep(ctx context.Context) error {
	var took time.Duration
	// A look that has to pass over dead rows takes long, and is made more rarely.
	for sleep(ctx, max(jittered(d.cfg.PollInterval*4/5), min(sweepShare*took, sweepMost)), nil) {
		long := d.cfg.PollInterval / 2
		if !d.listening.Load() {
			long = 0
		}
		names := d.parkedQueues(long)
		if len(names) == 0 {
			took = 0
			continue
		}
		began := time.Now()
		call, cancel := context.WithTimeout(ctx, callTimeout)
		occupied, err := d.cfg.Store.Messages().Occupied(call, names...)
		cancel()
		took = time.Since(began)
		switch {
		case ctx.Err() != nil:
			return nil
		case d.database.noteRead(err) == nil:
			for _, name := range occupied {
				d.wakeQueue(name)
			}
		case fatal(err):
			return err
		case !transient(err), took >= callTimeout:
			d.log.Warn("idle queues could not be looked at", "error", err)
		}
	}
	return nil
}

// parkedQueues are the queues that have waited so long to be woken. One that is
// woken now and then needs no looking after.
func (d *Daemon) parkedQueues(long time.Duration) []string {
	var names []string
	for _, q := range d.allQueues() {
		if since := q.parked.Load(); since != 0 && time.Since(d.born)-time.Duration(since) >= long {
			names = append(names, q.name)
		}
	}
	return names
}
