package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// fillBatch is how many messages are put on the queues at once.
	fillBatch = 5000
	// longDelay keeps delayed messages from becoming due.
	longDelay = 7 * 24 * time.Hour
	fillLease = time.Minute
)

// fillBeforehand makes the queues, and the messages that are there beforehand.
func (r *run) fillBeforehand(ctx context.Context) error {
	for _, queue := range r.queues {
		if _, err := r.scratch.store.Queues().Ensure(ctx, queue, store.QueuePolicy{Kind: r.kind()}); err != nil {
			return err
		}
	}
	if err := r.fillArchive(ctx); err != nil {
		return err
	}
	_, err := r.fill(ctx, "delayed messages", r.Delayed, func(n int) store.NewMessage {
		m := r.message(doNothing, n)
		m.Delay = longDelay
		return m
	})
	return err
}

// fill enqueues n messages and returns how long it took.
func (r *run) fill(ctx context.Context, what string, n int, message func(n int) store.NewMessage) (time.Duration, error) {
	batch := make([]store.NewMessage, 0, min(n, fillBatch))
	var took time.Duration // without making the payloads
	for done := 0; done < n; done += len(batch) {
		batch = batch[:0]
		for i := done; i < min(n, done+fillBatch); i++ {
			batch = append(batch, message(i))
		}
		began := time.Now()
		if _, err := r.scratch.store.Messages().Insert(ctx, batch); err != nil {
			return 0, err
		}
		took += time.Since(began)
		r.enqueued += int64(len(batch))
		r.cfg.Progress(fmt.Sprintf("enqueueing %s: %s of %s", what, grouped(done+len(batch)), grouped(n)))
	}
	return took, nil
}

// fillArchive works messages off, for the archive to hold what it would hold.
func (r *run) fillArchive(ctx context.Context) (err error) {
	if r.Archived == 0 {
		return nil
	}
	var consumers []store.Consumer
	defer func() {
		for _, c := range consumers {
			err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
		}
	}()
	for _, queue := range r.queues {
		c, err := r.scratch.store.Consumer(ctx, queue, store.WorkerOptions{})
		if err != nil {
			return err
		}
		consumers = append(consumers, c)
	}
	for done := 0; done < r.Archived; {
		c := consumers[done/fillBatch%len(consumers)]
		n := min(fillBatch, r.Archived-done)
		if err := r.archiveBatch(ctx, c, done, n); err != nil {
			return err
		}
		done += n
		r.cfg.Progress(fmt.Sprintf("filling the archive: %s of %s", grouped(done), grouped(r.Archived)))
	}
	return nil
}

func (r *run) archiveBatch(ctx context.Context, c store.Consumer, first, n int) error {
	batch := make([]store.NewMessage, n)
	for i := range batch {
		batch[i] = store.NewMessage{Queue: c.Queue(), Payload: r.payloads.payload(doNothing, first+i)}
	}
	if _, err := r.scratch.store.Messages().Insert(ctx, batch); err != nil {
		return err
	}
	r.enqueued += int64(n)
	for left := n; left > 0; {
		msgs, err := c.Dequeue(ctx, left, fillLease)
		if err != nil {
			return err
		}
		if len(msgs) == 0 {
			return fmt.Errorf("fill the archive: %d messages of queue %s were enqueued, but none can be leased", left, c.Queue())
		}
		leases := make([]store.Lease, len(msgs))
		for i := range msgs {
			leases[i] = msgs[i].Lease
		}
		errs, err := c.Archive(ctx, leases...)
		if err := errors.Join(append(errs, err)...); err != nil {
			return err
		}
		left -= len(msgs)
	}
	return nil
}

// grouped writes a number with commas: 1,234,567.
func grouped(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
