package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// supervise keeps one consumer for each queue that handlers serve, publishes
// the handlers' states, and says when the daemon is ready.
func (d *Daemon) supervise(ctx context.Context) error {
	var back retry
	settled := d.host.Load().Settled()
	reloaded := false
	for {
		var policies error
		if reloaded {
			policies = d.ensureAll(ctx)
			reloaded = policies != nil
		}
		err := errors.Join(policies, d.reconcile(ctx))
		switch {
		case ctx.Err() != nil:
			return nil
		case fatal(err):
			return err
		case err != nil && !transient(err):
			d.log.Error("queues could not be set up; trying again", "error", err)
		}
		if err == nil {
			back.reset()
			if settled == nil && !d.reported.Swap(true) {
				d.cfg.Notify("READY=1")
				d.log.Info("ready", "handlers", len(d.host.Load().Status()))
				d.status()
			}
		}
		again := time.After(lookAgain)
		if err != nil {
			again = time.After(back.next())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-settled:
			settled = nil
		case <-d.changed:
		case <-d.reloaded:
			reloaded = true
			d.lookNow()
			d.misfits.forget()
		case <-again:
		}
	}
}

// reconcile starts and retires queues as handlers come and go. What one queue
// wants does not keep the others.
func (d *Daemon) reconcile(ctx context.Context) error {
	served := d.host.Load().Queues()
	var errs []error
	for _, s := range served {
		if err := d.startQueue(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("serve queue %s of handler %s: %w", s.Name, s.Handler, err))
			continue
		}
		if err := d.wakeStranded(ctx, s); err != nil {
			errs = append(errs, err)
		}
	}
	for _, q := range d.unserved(served, d.handlers()) {
		d.retire(q)
	}
	if err := d.workers.publish(ctx); d.database.noteRead(err) != nil {
		errs = append(errs, err)
	}
	d.status()
	return errors.Join(errs...)
}

// unserved are the queues whose handler is gone or serves them no longer. One
// that starts or starts again may still come back.
func (d *Daemon) unserved(served []host.ServedQueue, handlers []host.Status) []*queue {
	byQueue := make(map[string]host.ServedQueue, len(served))
	for _, s := range served {
		byQueue[s.Name] = s
	}
	coming := map[string]bool{}
	for _, h := range handlers {
		coming[h.Name] = h.State == host.Starting || h.State == host.Restarting
	}
	return slices.DeleteFunc(d.allQueues(), func(q *queue) bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		// One that is served as of another kind now is a queue of its own.
		if s, ok := byQueue[q.name]; ok && kindOfQueue(s) == q.kind {
			q.handler = s.Handler
			return true
		}
		return coming[q.handler]
	})
}

func (d *Daemon) allQueues() []*queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*queue, 0, len(d.queues))
	for _, q := range d.queues {
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b *queue) int { return strings.Compare(a.name, b.name) })
	return all
}

// startQueue creates the queue in the database, registers a consumer and runs
// its loops, unless it runs already or must not.
func (d *Daemon) startQueue(ctx context.Context, s host.ServedQueue) error {
	d.mu.Lock()
	_, runs := d.queues[s.Name]
	look, closed := d.closed[s.Name]
	d.mu.Unlock()
	if runs || d.stopping.Load() {
		return nil
	}
	if d.misfits.waits(s, time.Now()) {
		return nil
	}
	if closed {
		if back, err := d.isBack(ctx, s.Name, look); !back {
			return err
		}
	}
	kind := kindOfQueue(s)
	var misfit *kindError
	if err := d.ensureQueue(ctx, s.Name, kind); errors.As(err, &misfit) {
		d.misfits.found(s, misfit, d.log)
		return nil
	} else if err != nil {
		return err
	}
	d.misfits.fits(s)
	consumer, err := d.cfg.Store.Consumer(ctx, s.Name, d.workers.opts)
	if d.database.note(err) != nil {
		return fmt.Errorf("register its consumer: %w", err)
	}
	life, end := context.WithCancel(d.life)
	q := &queue{
		d: d, name: s.Name, kind: kind, log: d.log.With("queue", s.Name), m: d.metrics.queue(s.Name),
		end: end, done: make(chan struct{}),
		news: newSignal(), room: newSignal(), record: newSignal(), keep: newSignal(),
		cfg: d.settings.Load().queueConfig(s.Name), consumer: consumer, state: store.WorkerReady, handler: s.Handler,
		jobs: map[host.Ref]*job{}, claims: map[int64]*claim{}, beats: map[store.Lease]store.Progress{}, stranded: map[string]int{},
	}
	q.lane = d.host.Load().Attach(s.Name, q)
	d.mu.Lock()
	d.queues[s.Name] = q
	d.mu.Unlock()
	q.log.Info("serving", "handler", s.Handler, "consumer", consumer.ID())
	d.group.Go(func() error { return q.run(life) })
	return nil
}

// ensureAll sets the policies anew after the settings changed.
func (d *Daemon) ensureAll(ctx context.Context) error {
	names := map[string]bool{}
	for name := range d.settings.Load().Queues {
		names[name] = true
	}
	for _, q := range d.allQueues() {
		names[q.name] = true
	}
	var errs []error
	for name := range names {
		if err := d.ensureQueue(ctx, name, ""); err != nil {
			errs = append(errs, fmt.Errorf("set the policy of queue %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// retire stops a queue that no handler serves any more, once its jobs are settled.
func (d *Daemon) retire(q *queue) {
	q.mu.Lock()
	already := q.retiring
	q.retiring = true
	q.mu.Unlock()
	if already {
		return
	}
	q.log.Info("no handler serves the queue any more")
	d.group.Go(func() error {
		if q.finished(d.life) {
			if err := d.stopConsumer(d.life, q); d.database.note(err) != nil {
				q.log.Warn("the consumer of the queue could not be stopped; its row is reclaimed later", "error", err)
			}
		}
		d.forget(q)
		d.changed.raise() // it may be served again by now
		return nil
	})
}

// finished waits until the queue has no jobs and no results. It reports false
// when the daemon's life ends first.
func (q *queue) finished(ctx context.Context) bool {
	for {
		if jobs, results := q.left(); jobs+results == 0 {
			return true
		}
		if !sleep(ctx, keepTick, nil) {
			return false
		}
	}
}

// forget ends a queue's loops and takes it off the list.
func (d *Daemon) forget(q *queue) {
	q.end()
	<-q.done
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queues[q.name] == q {
		delete(d.queues, q.name)
	}
}

// close ends the serving of a queue: until a restart, or until it is found
// again at this time or later. It does not wait.
func (d *Daemon) close(q *queue, why string, look time.Time) {
	d.mu.Lock()
	_, already := d.closed[q.name]
	d.closed[q.name] = look
	if d.queues[q.name] == q {
		delete(d.queues, q.name)
	}
	d.mu.Unlock()
	if already {
		return
	}
	q.log.Warn("the queue is not served any more", "why", why)
	q.loseAll()
	q.end()
}

// lookAgain is how often a deleted queue is looked for.
const lookAgain = 30 * time.Second

// isBack looks for a closed queue that was deleted, if it is time to.
func (d *Daemon) isBack(ctx context.Context, name string, look time.Time) (bool, error) {
	if look.IsZero() || time.Now().Before(look) {
		return false, nil
	}
	_, err := d.cfg.Store.Queues().Get(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, d.database.noteRead(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.closed[name] = time.Now().Add(lookAgain)
		return false, nil
	}
	delete(d.closed, name)
	return true, nil
}

// lookNow has all deleted queues looked for.
func (d *Daemon) lookNow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, look := range d.closed {
		if !look.IsZero() {
			d.closed[name] = time.Now()
		}
	}
}

// wakeQueue tells a queue's consumer that messages may be ready; an empty name
// tells all.
func (d *Daemon) wakeQueue(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name != "" {
		if q := d.queues[name]; q != nil {
			q.news.raise()
		}
		return
	}
	for _, q := range d.queues {
		q.news.raise()
	}
}

// known reports whether a queue may be a metric's label.
func (d *Daemon) known(name string) bool {
	if _, ok := d.settings.Load().Queues[name]; ok {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queues[name] != nil
}

// status tells the service manager how things are, in one line.
func (d *Daemon) status() {
	if !d.reported.Load() {
		return
	}
	d.mu.Lock()
	n := len(d.queues)
	d.mu.Unlock()
	text := fmt.Sprintf("serving %d queues", n)
	if n == 1 {
		text = "serving 1 queue"
	}
	switch {
	case d.stopping.Load():
		text = "stopping"
	case d.database.isDown():
		text += "; the database does not answer"
	case d.quiet.Load():
		text += "; quiet: nothing is leased"
	}
	if old := d.said.Swap(&text); old == nil || *old != text {
		d.cfg.Notify("STATUS=" + text)
	}
}
