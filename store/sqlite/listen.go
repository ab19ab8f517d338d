package sqlite

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// How a listener learns that another process has written. Its write to the WAL
// gives a notice, but it is committed a moment later, when it is flushed, which
// gives none. So after a notice the listener looks a few times, ever more
// rarely. A notice of this process's own commit is followed by few looks: there
// is another writer only by chance.
//
// Transactions look as well, so that a busy process hears of it sooner.
const (
	firstLook    = 200 * time.Microsecond
	firstLookOwn = 3 * time.Millisecond
	// lookFor is how long it looks after a notice. Whoever takes longer to
	// commit is found by lookRarely.
	lookFor = 30 * time.Millisecond
	// lookRarely finds what came without a notice.
	lookRarely = 2 * time.Second
	// lookOften is for systems without notices.
	lookOften = 20 * time.Millisecond
)

// looks says when to look next.
type looks struct {
	next  time.Time
	until time.Time
	wait  time.Duration // between the last look and the next
	grow  int           // what wait is multiplied by, in halves
	rest  time.Duration // between looks without a notice
}

// noticed brings the next look forward, after a notice of this process's own
// commit or of another's.
func (l *looks) noticed(now time.Time, own bool) {
	first, grow := firstLook, 3
	if own {
		first, grow = firstLookOwn, 8
	}
	l.until = now.Add(lookFor)
	if at := now.Add(first); at.Before(l.next) {
		l.next, l.wait, l.grow = at, first, grow
	}
}

// looked puts the next look after this one.
func (l *looks) looked(now time.Time) {
	l.wait = min(l.wait*time.Duration(l.grow)/2, l.rest)
	if l.next = now.Add(l.wait); l.next.After(l.until) {
		l.next, l.wait, l.grow = now.Add(l.rest), l.rest, 2
	}
}

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
// processes' by SQLite's data_version.
func (d *database) Listen(ctx context.Context, wake func(queue string)) error {
	remove := d.events.add(wake)
	defer remove()
	l := looks{rest: lookRarely}
	var notices chan struct{}
	if n, err := watch(d.cfg.Path + "-wal"); err == nil {
		notices = n.c
		defer func() { _ = n.close() }()
	} else {
		l.rest = lookOften
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	commits := d.writer.commits.Load()
	wake("") // for what came before
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notices:
			before := commits
			commits = d.writer.commits.Load()
			l.noticed(time.Now(), commits != before)
		case <-timer.C:
			if err := d.lookOutside(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("look for other processes' writes to %s: %w", d.cfg.Path, translate(err))
			}
			l.looked(time.Now())
		}
		timer.Reset(time.Until(l.next))
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
