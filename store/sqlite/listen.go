package sqlite

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// lookEvery is how often a listener looks whether another process has written.
// Claims look as well, so that a busy process hears of it sooner.
const lookEvery = 20 * time.Millisecond

// listeners are those who want to hear of writes.
type listeners struct {
	mu    sync.Mutex
	next  int
	funcs map[int]func(queue string)
}

func newListeners() *listeners { return &listeners{funcs: make(map[int]func(string))} }

func (l *listeners) add(wake func(string)) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.next
	l.next++
	l.funcs[id] = wake
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.funcs, id)
	}
}

// wake tells every listener of each queue once.
func (l *listeners) wake(queues ...string) {
	if len(queues) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	told := make(map[string]bool, len(queues))
	for _, q := range queues {
		if told[q] {
			continue
		}
		told[q] = true
		for _, wake := range l.funcs {
			wake(q)
		}
	}
}

// Listen hears of this process's writes as they are committed, and of other
// processes' by looking at SQLite's data_version.
func (d *database) Listen(ctx context.Context, wake func(queue string)) error {
	remove := d.events.add(wake)
	defer remove()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.lookOutside(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("look for other processes' writes to %s: %w", d.cfg.Path, translate(err))
			}
		}
	}
}

// lookOutside wakes the listeners when another connection has written. While
// this process writes it does nothing; it is back soon.
func (d *database) lookOutside(ctx context.Context) error {
	select {
	case d.writer.turn <- struct{}{}:
	default:
		return nil
	}
	changed, err := func() (bool, error) {
		defer func() { <-d.writer.turn }()
		if err := d.writer.connect(ctx); err != nil {
			return false, err
		}
		return d.writer.changedOutside(ctx)
	}()
	if changed {
		d.events.wake("")
	}
	return err
}
