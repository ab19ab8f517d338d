// Package config reads pgqrsd's configuration: defaults, then a TOML file, then
// the environment, then flags. Every value remembers where it came from, so
// that an error can name the file and the line, and `pgqrsd config show` can
// say which layer decided.
package config

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// DefaultFile is read when no other file is named, if it exists.
const DefaultFile = "/etc/pgqrsd/config.toml"

// Config is the effective configuration. Its tags are the keys of the file.
type Config struct {
	DSN     string `koanf:"dsn"`
	Schema  string `koanf:"schema"`
	Plugins string `koanf:"plugins"`

	Daemon  Daemon  `koanf:"daemon"`
	Store   Store   `koanf:"store"`
	HTTP    HTTP    `koanf:"http"`
	Payload Payload `koanf:"payload"`
	Log     Log     `koanf:"log"`

	// QueueDefaults are the settings of queues that Queues does not name, and
	// of the keys that a queue's own table leaves out.
	QueueDefaults Queue              `koanf:"queue_defaults"`
	Queues        map[string]Queue   `koanf:"queues"`
	Handlers      map[string]Handler `koanf:"handlers"`
}

// Daemon is the supervisor's part.
type Daemon struct {
	DrainTimeout        time.Duration `koanf:"drain_timeout"`
	CancelGrace         time.Duration `koanf:"cancel_grace"`
	HeartbeatInterval   time.Duration `koanf:"heartbeat_interval"`
	WorkerTimeout       time.Duration `koanf:"worker_timeout"`
	PollInterval        time.Duration `koanf:"poll_interval"`
	WatchInterval       time.Duration `koanf:"watch_interval"`
	MaintenanceInterval time.Duration `koanf:"maintenance_interval"`
	StateDir            string        `koanf:"state_dir"`
}

// Store is the database connection's part.
type Store struct {
	PoolSize         int           `koanf:"pool_size"`
	ConnectTimeout   time.Duration `koanf:"connect_timeout"`
	StatementTimeout time.Duration `koanf:"statement_timeout"`
	PgBouncer        bool          `koanf:"pgbouncer"`
}

// HTTP is the API's part. An empty Addr listens nowhere; a RateLimit of 0 is
// no limit, a Burst of 0 is the rate limit rounded up.
type HTTP struct {
	Addr      string  `koanf:"addr"`
	RateLimit float64 `koanf:"rate_limit"`
	Burst     int     `koanf:"burst"`
}

// Payload is what the validator checks. A MaxString of 0 is no limit.
type Payload struct {
	MaxBytes      int      `koanf:"max_bytes"`
	MaxDepth      int      `koanf:"max_depth"`
	MaxString     int      `koanf:"max_string"`
	ForbiddenKeys []string `koanf:"forbidden_keys"`
	RequiredKeys  []string `koanf:"required_keys"`
}

// Log is how the daemon logs, to standard error.
type Log struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// Queue is one queue's settings. A Timeout of 0 is no limit, a Retention of 0
// is for ever.
type Queue struct {
	Concurrency int           `koanf:"concurrency"`
	Lease       time.Duration `koanf:"lease"`
	Timeout     time.Duration `koanf:"timeout"`
	MaxAttempts int           `koanf:"max_attempts"`
	Retention   time.Duration `koanf:"retention"`
	Retain      string        `koanf:"retain"`
	Backoff     Backoff       `koanf:"backoff"`
}

// Backoff is the delay before a retry.
type Backoff struct {
	Kind   string        `koanf:"kind"`
	Delay  time.Duration `koanf:"delay"`
	Cap    time.Duration `koanf:"cap"`
	Jitter float64       `koanf:"jitter"`
}

// Handler is one handler binary's settings, by file name.
type Handler struct {
	Args []string          `koanf:"args"`
	Env  map[string]string `koanf:"env"`
}

// Default is the configuration where nothing is configured. The state
// directory comes from the environment that getenv looks up; Load adds a
// directory of the database's own to it.
func Default(getenv func(string) string) Config {
	return Config{
		DSN:     "sqlite:pgqrs.db",
		Schema:  "pgqrs",
		Plugins: "./plugins",
		Daemon: Daemon{
			DrainTimeout:        30 * time.Second,
			CancelGrace:         10 * time.Second,
			HeartbeatInterval:   5 * time.Second,
			WorkerTimeout:       30 * time.Second,
			PollInterval:        5 * time.Second,
			WatchInterval:       time.Second,
			MaintenanceInterval: 5 * time.Second,
			StateDir:            defaultStateDir(getenv),
		},
		Store: Store{PoolSize: 10, ConnectTimeout: 5 * time.Second, StatementTimeout: 30 * time.Second},
		HTTP:  HTTP{Addr: "127.0.0.1:7433"},
		Payload: Payload{
			MaxBytes: store.DefaultMaxPayloadBytes,
			MaxDepth: store.DefaultMaxDepth,
		},
		Log: Log{Level: "info", Format: "text"},
		QueueDefaults: Queue{
			Concurrency: 100,
			Lease:       30 * time.Second,
			Timeout:     10 * time.Minute,
			MaxAttempts: store.DefaultMaxAttempts,
			Retention:   store.DefaultRetention,
			Retain:      "archive",
			Backoff:     Backoff{Kind: "exponential", Delay: time.Second, Cap: 10 * time.Minute, Jitter: 0.2},
		},
	}
}

// Validator checks payloads by this configuration.
func (c *Config) Validator() *store.Validator {
	return &store.Validator{
		MaxBytes:      c.Payload.MaxBytes,
		MaxDepth:      c.Payload.MaxDepth,
		MaxString:     c.Payload.MaxString,
		ForbiddenKeys: c.Payload.ForbiddenKeys,
		RequiredKeys:  c.Payload.RequiredKeys,
	}
}
