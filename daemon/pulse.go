package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// pulse says that this daemon's workers live, and learns what others have
// asked of them: each heartbeat answers the workers' states, and between
// heartbeats the states are read.
func (d *Daemon) pulse(ctx context.Context) error {
	var (
		back retry
		beat time.Time
	)
	for {
		asked := time.Now()
		// While the database is away only a write says that it is back.
		beating := d.database.isDown() || time.Since(beat) >= d.cfg.HeartbeatInterval-d.cfg.WatchInterval/2
		err := d.pulseOnce(ctx, beating)
		wait := d.cfg.WatchInterval
		if d.listening.Load() {
			// Who changes a state wakes this daemon.
			wait = max(wait, d.cfg.HeartbeatInterval/2)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case fatal(err):
			return err
		case err != nil:
			if !transient(err) {
				d.log.Error("the daemon's workers could not be looked after; trying again", "error", err)
			}
			wait = back.next()
		default:
			back.reset()
			if beating {
				beat = asked
				d.beat.Store(asked.UnixNano())
			}
		}
		if !sleep(ctx, min(wait, d.cfg.HeartbeatInterval), d.pulseNow) {
			return nil
		}
		// Wake-ups come in bursts; one reading serves many.
		if gap := pulseGap - time.Since(asked); gap > 0 && !sleep(ctx, gap, nil) {
			return nil
		}
	}
}

// pulseGap is the least time between two readings of the states.
const pulseGap = 100 * time.Millisecond

func (d *Daemon) pulseOnce(ctx context.Context, beating bool) error {
	queues := d.allQueues()
	ids := []int64{d.workers.admin().ID(), d.workers.producer().ID()}
	consumers := make([]store.Consumer, len(queues))
	for i, q := range queues {
		q.mu.Lock()
		consumers[i] = q.consumer
		q.mu.Unlock()
		ids = append(ids, consumers[i].ID())
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ask := d.cfg.Store.Workers().States
	if beating {
		ask = d.cfg.Store.Workers().Heartbeat
	}
	states, err := ask(call, ids...)
	note := d.database.noteRead
	if beating {
		note = d.database.note
	}
	if note(err) != nil {
		return fmt.Errorf("read the workers' states: %w", err)
	}
	if err := d.workers.saw(call, states); d.database.noteRead(err) != nil {
		return err
	}
	for i, q := range queues {
		if err := q.saw(call, consumers[i], states[consumers[i].ID()]); d.database.noteRead(err) != nil {
			return err
		}
	}
	return nil
}

// saw takes the state that the database answered for the queue's consumer.
func (q *queue) saw(ctx context.Context, consumer store.Consumer, is store.WorkerState) error {
	q.mu.Lock()
	was, current, retiring := q.state, q.consumer, q.retiring
	q.mu.Unlock()
	if consumer != current || is == was || retiring || q.d.stopping.Load() {
		return nil
	}
	if is == "" || is == store.WorkerStopped {
		reclaimed, err := q.d.workers.reclaimed(ctx, consumer.ID())
		if err != nil {
			return err
		}
		if reclaimed {
			return q.register(ctx, consumer, was)
		}
		var unknown *store.UnknownQueueError
		if _, err := q.d.cfg.Store.Queues().Get(ctx, q.name); errors.As(err, &unknown) {
			q.deleted()
			return nil
		} else if err != nil {
			return fmt.Errorf("look for queue %s, whose consumer is gone: %w", q.name, err)
		}
		q.d.close(q, "its consumer was shut down; it is served again after a restart of the daemon", time.Time{})
		return nil
	}
	q.mu.Lock()
	q.state = is
	q.mu.Unlock()
	q.log.Warn("the consumer was asked to change its state", "consumer", consumer.ID(), "from", was, "to", is)
	q.news.raise()
	q.room.raise()
	return nil
}

// register replaces a consumer that was taken for dead. Its leases went to
// others, so its jobs are cancelled and their results dropped.
func (q *queue) register(ctx context.Context, old store.Consumer, was store.WorkerState) error {
	fresh, err := q.d.cfg.Store.Consumer(ctx, q.name, q.d.workers.opts)
	if err != nil {
		return fmt.Errorf("register the consumer of queue %s anew: %w", q.name, err)
	}
	if was == store.WorkerSuspended {
		if err := fresh.Suspend(ctx); err != nil {
			return fmt.Errorf("suspend the new consumer of queue %s, as the old one was: %w", q.name, err)
		}
	}
	q.mu.Lock()
	q.consumer = fresh
	q.mu.Unlock()
	q.loseAll()
	q.log.Warn("this daemon was taken for dead; the consumer registered anew", "old", old.ID(), "new", fresh.ID())
	q.news.raise()
	q.room.raise()
	return nil
}

// listen spreads the database's wake-ups.
func (d *Daemon) listen(ctx context.Context) error {
	var back retry
	for ctx.Err() == nil {
		began := time.Now()
		err := d.cfg.Store.Listen(ctx, func(queue string) {
			// Not before the first: some stores have no wake-ups to give.
			d.listening.Store(true)
			d.wakeQueue(queue)
			d.due.raise()
			if queue == "" {
				d.pulseNow.raise()
			}
		})
		d.listening.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if fatal(err) {
			return err
		}
		d.log.Debug("wake-ups from the database ended; polling until they are back", "error", err)
		if time.Since(began) > retryMax {
			back.reset()
		}
		// What came while nobody listened is found by asking.
		d.wakeQueue("")
		d.due.raise()
		sleep(ctx, back.next(), nil)
	}
	return nil
}
