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

// idleMin is the first pause of a queue that nobody wakes.
const idleMin = 50 * time.Millisecond

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
	i.q.parked.Store(time.Now().UnixNano())
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
	for sleep(ctx, jittered(d.cfg.PollInterval), nil) {
		names := d.parkedQueues(d.cfg.PollInterval / 2)
		if len(names) == 0 {
			continue
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		occupied, err := d.cfg.Store.Messages().Occupied(call, names...)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case d.database.noteRead(err) == nil:
			for _, name := range occupied {
				d.wakeQueue(name)
			}
		case fatal(err):
			return err
		case !transient(err):
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
		if since := q.parked.Load(); since != 0 && time.Since(time.Unix(0, since)) >= long {
			names = append(names, q.name)
		}
	}
	return names
}
