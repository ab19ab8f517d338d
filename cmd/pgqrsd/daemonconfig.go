package main

import (
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
)

// daemonConfig is the configuration as the daemon takes it. Where the file says
// 0 for "none", the daemon, which takes 0 for its default, wants another value.
func daemonConfig(cfg *config.Loaded, s store.Store, logger *slog.Logger) daemon.Config {
	d := daemon.Config{
		Store:               s,
		Version:             versionText(),
		Logger:              logger,
		Notify:              notify(logger),
		Plugins:             pluginsDir(cfg),
		StateDir:            cfg.Daemon.StateDir,
		HTTPAddr:            cfg.HTTP.Addr,
		HTTPRate:            cfg.HTTP.RateLimit,
		HTTPBurst:           cfg.HTTP.Burst,
		Validator:           cfg.Validator(),
		DrainTimeout:        max(cfg.Daemon.DrainTimeout, time.Nanosecond),
		CancelGrace:         max(cfg.Daemon.CancelGrace, time.Nanosecond),
		HeartbeatInterval:   cfg.Daemon.HeartbeatInterval,
		WorkerTimeout:       cfg.Daemon.WorkerTimeout,
		PollInterval:        cfg.Daemon.PollInterval,
		WatchInterval:       cfg.Daemon.WatchInterval,
		MaintenanceInterval: cfg.Daemon.MaintenanceInterval,
		Defaults:            queueConfig(cfg.QueueDefaults),
		Queues:              map[string]daemon.QueueConfig{},
		Handlers:            handlerSettings(cfg),
	}
	for name, q := range cfg.Queues {
		d.Queues[name] = queueConfig(q)
	}
	return d
}

// pluginsDir is the plugins directory's absolute path, which means the same to
// those who read it elsewhere.
func pluginsDir(cfg *config.Loaded) string {
	dir, err := filepath.Abs(cfg.Plugins)
	if err != nil { // there is no working directory
		return cfg.Plugins
	}
	return dir
}

func queueConfig(q config.Queue) daemon.QueueConfig {
	none := func(d time.Duration) time.Duration {
		if d == 0 {
			return -time.Second
		}
		return d
	}
	jitter := q.Backoff.Jitter
	if jitter == 0 {
		jitter = -1
	}
	return daemon.QueueConfig{
		Concurrency: q.Concurrency,
		Lease:       q.Lease,
		Timeout:     none(q.Timeout),
		MaxAttempts: q.MaxAttempts,
		Backoff: daemon.Backoff{
			Kind: daemon.BackoffKind(q.Backoff.Kind), Delay: q.Backoff.Delay, Cap: q.Backoff.Cap, Jitter: jitter,
		},
		Retention: none(q.Retention),
		Retain:    daemon.Retain(q.Retain),
	}
}

func handlerSettings(cfg *config.Loaded) map[string]host.HandlerSettings {
	settings := map[string]host.HandlerSettings{}
	for name, h := range cfg.Handlers {
		settings[name] = host.HandlerSettings{Env: h.Env, Args: h.Args}
	}
	return settings
}

// newLogger logs to w as the configuration says. level can be set again later.
func newLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func logLevel(name string) slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo // the configuration was checked
	}
	return level
}
