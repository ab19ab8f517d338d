package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// The bounds of a queue's settings.
const (
	maxConcurrency = 100_000
	minLease       = time.Second
)

// withDefaults fills in what is zero, but not in the queues: see queueConfig.
func (c Config) withDefaults() Config {
	c.Version = cmp.Or(c.Version, "dev")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	if c.Validator == nil {
		c.Validator = store.DefaultValidator
	}
	if c.HTTPBurst == 0 {
		c.HTTPBurst = int(math.Ceil(c.HTTPRate))
	}
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 30*time.Second)
	c.CancelGrace = cmp.Or(c.CancelGrace, 10*time.Second)
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, 5*time.Second)
	c.WorkerTimeout = cmp.Or(c.WorkerTimeout, 30*time.Second)
	c.PollInterval = cmp.Or(c.PollInterval, 5*time.Second)
	c.WatchInterval = cmp.Or(c.WatchInterval, time.Second)
	c.MaintenanceInterval = cmp.Or(c.MaintenanceInterval, 5*time.Second)
	c.SampleInterval = cmp.Or(c.SampleInterval, 15*time.Second)
	c.Queues = maps.Clone(c.Queues)
	c.Handlers = maps.Clone(c.Handlers)
	return c
}

// validate finds what cannot work. It wants the defaults filled in.
func (c Config) validate() error {
	if c.Store == nil {
		return errors.New("daemon: no store")
	}
	if c.StateDir == "" {
		return errors.New("daemon: no state directory")
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"drain timeout", c.DrainTimeout}, {"cancel grace", c.CancelGrace},
		{"heartbeat interval", c.HeartbeatInterval}, {"worker timeout", c.WorkerTimeout},
		{"poll interval", c.PollInterval}, {"watch interval", c.WatchInterval},
		{"maintenance interval", c.MaintenanceInterval}, {"sample interval", c.SampleInterval},
	} {
		if d.d < 0 {
			return fmt.Errorf("daemon: the %s is negative: %s", d.name, d.d)
		}
	}
	if c.WorkerTimeout < 2*c.HeartbeatInterval {
		return fmt.Errorf("daemon: the worker timeout %s must be at least twice the heartbeat interval %s, or live daemons lose their messages",
			c.WorkerTimeout, c.HeartbeatInterval)
	}
	if c.HTTPRate < 0 || c.HTTPBurst < 0 {
		return errors.New("daemon: the HTTP rate and burst must not be negative")
	}
	for name := range c.Queues {
		if err := store.ValidateQueueName(name); err != nil {
			return fmt.Errorf("daemon: queue settings: %w", err)
		}
		if err := c.queueConfig(name).validate(name); err != nil {
			return err
		}
	}
	return c.queueConfig("").validate("defaults")
}

// queueConfig is the settings of a queue with every default filled in.
func (c Config) queueConfig(name string) QueueConfig {
	q, d := c.Queues[name], c.Defaults
	return QueueConfig{
		Concurrency: cmp.Or(q.Concurrency, d.Concurrency, 100),
		Lease:       cmp.Or(q.Lease, d.Lease, 30*time.Second),
		Timeout:     cmp.Or(q.Timeout, d.Timeout, 10*time.Minute),
		MaxAttempts: cmp.Or(q.MaxAttempts, d.MaxAttempts, store.DefaultMaxAttempts),
		Retention:   cmp.Or(q.Retention, d.Retention, store.DefaultRetention),
		Retain:      cmp.Or(q.Retain, d.Retain, RetainArchive),
		Backoff: Backoff{
			Kind:   cmp.Or(q.Backoff.Kind, d.Backoff.Kind, Exponential),
			Delay:  cmp.Or(q.Backoff.Delay, d.Backoff.Delay, time.Second),
			Cap:    cmp.Or(q.Backoff.Cap, d.Backoff.Cap, 10*time.Minute),
			Jitter: cmp.Or(q.Backoff.Jitter, d.Backoff.Jitter, 0.2),
		},
	}
}

func (q QueueConfig) validate(name string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("daemon: queue %s: %s", name, fmt.Sprintf(format, args...))
	}
	switch {
	case q.Concurrency < 1 || q.Concurrency > maxConcurrency:
		return bad("the concurrency is %d, it must be 1 to %d", q.Concurrency, maxConcurrency)
	case q.Lease < minLease:
		return bad("the lease is %s, it must be at least %s", q.Lease, minLease)
	case q.MaxAttempts < 1:
		return bad("max_attempts is %d, it must be at least 1", q.MaxAttempts)
	case q.Retain != RetainArchive && q.Retain != RetainDelete:
		return bad("retain is %q, it must be %q or %q", q.Retain, RetainArchive, RetainDelete)
	case q.Backoff.Kind != Exponential && q.Backoff.Kind != Fixed:
		return bad("the backoff kind is %q, it must be %q or %q", q.Backoff.Kind, Exponential, Fixed)
	case q.Backoff.Delay < 0 || q.Backoff.Cap < 0:
		return bad("the backoff's delay and cap must not be negative")
	case q.Backoff.Jitter > 1:
		return bad("the backoff's jitter is %g, it must be at most 1", q.Backoff.Jitter)
	}
	return nil
}

// policy is what the store keeps of the settings.
func (q QueueConfig) policy(kind store.QueueKind) store.QueuePolicy {
	return store.QueuePolicy{Kind: kind, MaxAttempts: q.MaxAttempts, Retention: q.Retention}
}
