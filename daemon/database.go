package daemon

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgqrs/pgqrsd/store"
)

// database remembers whether the database answers, so that its going and its
// coming back are each said once, whichever loop notices first.
type database struct {
	log   *slog.Logger
	gauge prometheus.Gauge
	// changed is called outside the lock after a change.
	changed func()

	mu     sync.Mutex
	down   bool
	since  time.Time
	locked seldom // what is said of locks
}

// note passes on the error of a call that writes to the store. Only success
// and ErrUnavailable say something about the database: other errors may be
// found before it is asked, and ErrLocked is the work of who holds the lock.
func (b *database) note(err error) error {
	if err != nil && !b.away(err) {
		return err
	}
	return b.found(err)
}

// noteRead is note for a call that may have written nothing. Its success does
// not say that the database is back: one whose disk is full, or that is
// read-only after a failover, answers to reads.
func (b *database) noteRead(err error) error {
	if !b.away(err) {
		return err
	}
	return b.found(err)
}

// away reports whether err says that the database does not answer. Of a lock it
// says once a minute that there is one, for it may stop what is tried again silently.
func (b *database) away(err error) bool {
	if !errors.Is(err, store.ErrLocked) {
		return errors.Is(err, store.ErrUnavailable)
	}
	b.mu.Lock()
	say := b.locked.may(time.Now(), time.Minute)
	b.mu.Unlock()
	if say {
		b.log.Warn("another transaction keeps rows of the database locked; what needs them waits for it", "error", err)
	}
	return false
}

// found passes on err: the database is down with one and up without.
func (b *database) found(err error) error {
	down := err != nil
	b.mu.Lock()
	was, since := b.down, b.since
	if was == down {
		b.mu.Unlock()
		return err
	}
	b.down, b.since = down, time.Now()
	b.mu.Unlock()
	if down {
		b.gauge.Set(0)
		b.log.Error("the database does not answer; work goes on and results are kept until it is back", "error", err)
	} else {
		b.gauge.Set(1)
		b.log.Info("the database answers again", "away", time.Since(since).Round(time.Millisecond).String())
	}
	b.changed()
	return err
}

// upSince is when the database last came back, or the daemon began.
func (b *database) upSince() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since
}

func (b *database) isDown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down
}
