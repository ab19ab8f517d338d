package storetest

import (
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Clock is a clock that stands still until it is moved. Safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at a fixed time of whole seconds, in
// UTC, so that what a backend stores and gives back compares equal.
func NewClock() *Clock {
	return &Clock{now: time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// Now is the time at which the clock stands.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set moves the clock to a time, also backwards.
func (c *Clock) Set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// Advance moves the clock forward by d and returns the new time.
func (c *Clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// Clock returns the clock as a backend's configuration takes it.
func (c *Clock) Clock() store.Clock { return c.Now }
