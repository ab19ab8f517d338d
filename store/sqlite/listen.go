package sqlite

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// How a listener learns that another process has written. Its write to the WAL
// gives a notice, but it is committed only when it is flushed, which gives none:
// a moment later, or long after on a slow disk. So after a notice the listener
// looks ever more rarely, in pauses of half of what has passed: a commit is heard
// late by no more than half the time that it took.
//
// A notice of this process's own commit is followed by few looks: there is
// another writer only by chance.
//
// Transactions look as well, so that a busy process hears of it sooner.
const (
	firstLook    = 200 * time.Microsecond
	firstLookOwn = 3 * time.Millisecond
	// By how many halves each pause is longer than the one before.
	growth    = 3
	growthOwn = 18
	// sameCommit is how soon after a notice of its own commit another is of the
	// same: a commit is several writes, and some give a notice each.
	sameCommit = time.Millisecond
	// lookFor is how long it looks after a notice. Whoever takes longer to
	// commit is found by lookRarely.
	lookFor = time.Second
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
	own   time.Time     // the last notice of this process's own commit
}

// newLooks looks first at once, and then every rest until there is a notice.
func newLooks(rest time.Duration) *looks { return &looks{rest: rest, wait: rest} }

// noticed brings the next look forward, after a notice of this process's own
// commit or of another's. Its own may thin out the looks after another's: to
// commit it had to wait for the other, and heard of it.
func (l *looks) noticed(now time.Time, own bool) {
	first, grow := firstLook, growth
	if own {
		l.own = now
	}
	if now.Sub(l.own) < sameCommit {
		first, grow = firstLookOwn, growthOwn
	}
	l.until = now.Add(lookFor)
	if first >= l.wait {
		return // it looks as often by now
	}
	l.wait, l.grow = first, grow
	// A look that is nearer stays, and the pauses grow from there.
	if at := now.Add(first); at.Before(l.next) {
		l.next = at
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
	l := newLooks(lookRarely)
	var notices chan struct{}
	if n, err := watch(d.cfg.Path + "-wal"); err == nil {
		notices = n.c
		defer func() { _ = n.close() }()
	} else {
		l = newLooks(lookOften)
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
