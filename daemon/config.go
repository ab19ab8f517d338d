package daemon

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// Config is everything a Daemon needs. Zero fields take the defaults named here.
type Config struct {
	// Store is open and installed. The daemon does not close it.
	Store store.Store
	// Version is pgqrsd's own.
	Version string
	Logger  *slog.Logger
	// Registry takes the metrics; nil makes a new one.
	Registry *prometheus.Registry
	// Notify tells the service manager, in sd_notify's words ("READY=1",
	// "STATUS=...", "STOPPING=1", "RELOADING=1"...); nil tells nobody.
	Notify func(state string)

	// Plugins is the plugins directory; Commands are further handlers.
	Plugins  string
	Commands []host.Command
	// StateDir holds the slot's lock, staged handlers and sockets.
	StateDir string
	// HTTPAddr is where HTTP listens; empty is nowhere.
	HTTPAddr string
	// HTTPRate limits enqueueing over HTTP, in messages a second; 0 is no
	// limit. HTTPBurst is how many at once; 0 is HTTPRate rounded up.
	HTTPRate  float64
	HTTPBurst int
	// Validator checks payloads that come over HTTP; nil is store.DefaultValidator.
	Validator *store.Validator

	// DrainTimeout is how long running jobs may take after the stop was asked
	// for; default 30s. CancelGrace is how long after their cancellation; default 10s.
	DrainTimeout, CancelGrace time.Duration
	// HeartbeatInterval defaults to 5s, WorkerTimeout (no heartbeat for so
	// long is dead) to 30s.
	HeartbeatInterval, WorkerTimeout time.Duration
	// PollInterval is how often an idle consumer asks, behind the wake-ups;
	// default 5s.
	PollInterval time.Duration
	// WatchInterval is how often the states of the own workers are read; default
	// 1s. While wake-ups arrive it is at least half of HeartbeatInterval.
	WatchInterval time.Duration
	// MaintenanceInterval is how often the elected daemon reclaims and purges;
	// default 5s. Delayed messages are made ready when they are due.
	MaintenanceInterval time.Duration
	// SampleInterval is how often queue depths are sampled for /metrics; default 15s.
	SampleInterval time.Duration

	// Defaults are the settings of queues that Queues does not name.
	Defaults QueueConfig
	Queues   map[string]QueueConfig
	// Handlers are by file name.
	Handlers map[string]host.HandlerSettings
}

// QueueConfig is one queue's settings. Zero fields take the defaults.
type QueueConfig struct {
	// Concurrency is how many jobs run at once in this daemon; default 100.
	Concurrency int
	// Lease is how long a claim lasts between renewals; default 30s, at least 1s.
	Lease time.Duration
	// Timeout is how long a job may run; default 10m, negative is no limit.
	Timeout time.Duration
	// MaxAttempts defaults to store.DefaultMaxAttempts.
	MaxAttempts int
	Backoff     Backoff
	// Retention of done and cancelled messages; default store.DefaultRetention,
	// negative is for ever.
	Retention time.Duration
	// Retain says what stays of done messages; default RetainArchive.
	Retain Retain
}

// Retain says what stays of a message that is done. Dead letters always stay.
type Retain string

// What stays of done messages.
const (
	RetainArchive Retain = "archive" // the message and its output, for the retention
	RetainDelete  Retain = "delete"  // nothing
)

// BackoffKind is how the delay before a retry grows.
type BackoffKind string

// The kinds of backoff.
const (
	Exponential BackoffKind = "exponential"
	Fixed       BackoffKind = "fixed"
)

// Backoff is the delay before a retry.
type Backoff struct {
	// Kind defaults to Exponential: Delay, 2*Delay, 4*Delay, ... up to Cap.
	Kind BackoffKind
	// Delay is the first delay; default 1s.
	Delay time.Duration
	// Cap is the longest; default 10m.
	Cap time.Duration
	// Jitter is the share of the delay that is drawn by chance, 0 to 1;
	// default 0.2, negative is none. A delay d becomes d*(1-Jitter/2) to d*(1+Jitter/2).
	Jitter float64
}
