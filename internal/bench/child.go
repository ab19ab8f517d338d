package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// spec is what the daemon's process reads from its standard input: a DSN may
// hold a password, which belongs neither into arguments nor the environment.
type spec struct {
	DSN              string
	Schema           string
	PoolSize         int
	ConnectTimeout   time.Duration
	StatementTimeout time.Duration
	PgBouncer        bool

	StateDir    string
	Executable  string
	Version     string
	Handlers    [][]string // the queues of each process
	Kind        string     // of the queues
	Concurrency int
	Retain      daemon.Retain
}

// ready is what it answers on its standard output, once.
type ready struct {
	HTTP string `json:"http"`
}

// The bench's jobs are over at once, or sleep and need not wake by themselves.
const (
	drainTimeout = 100 * time.Millisecond
	cancelGrace  = 10 * time.Second
)

// ServeDaemon is the daemon process's main. It reads what to do from in, says
// on out that it is ready, and runs until SIGTERM or until in ends: then the
// bench is dead. It logs to errOut.
func ServeDaemon(ctx context.Context, in io.Reader, out, errOut io.Writer) (err error) {
	var sp spec
	if err := json.NewDecoder(in).Decode(&sp); err != nil {
		return fmt.Errorf("read what to do from standard input, which only pgqrsd bench writes: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	// A bench that was killed no longer reads the log; the stop must go on.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process at the latest, as any reader of standard input
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	s, err := anystore.OpenConfig(ctx, anystore.Config{
		DSN: sp.DSN, Schema: sp.Schema, PoolSize: sp.PoolSize,
		ConnectTimeout: sp.ConnectTimeout, StatementTimeout: sp.StatementTimeout, PgBouncer: sp.PgBouncer, MustExist: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	var d *daemon.Daemon
	said := make(chan error, 1)
	cfg := sp.daemonConfig(s)
	cfg.Logger = slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.Notify = func(state string) {
		if state == "READY=1" {
			said <- json.NewEncoder(out).Encode(ready{HTTP: d.HTTPAddr()})
		}
	}
	if d, err = daemon.New(cfg); err != nil {
		return err
	}
	err = d.Run(ctx)
	select {
	case saying := <-said:
		err = errors.Join(err, saying)
	default:
	}
	return err
}

func (sp *spec) daemonConfig(s store.Store) daemon.Config {
	cfg := daemon.Config{
		Store: s, Version: sp.Version, StateDir: sp.StateDir,
		HTTPAddr: "127.0.0.1:0", Registry: prometheus.NewRegistry(), // without the process's own metrics, which are slow to gather
		DrainTimeout: drainTimeout, CancelGrace: cancelGrace,
		Defaults: daemon.QueueConfig{Concurrency: sp.Concurrency, Retain: sp.Retain, Timeout: -time.Second},
	}
	for i, queues := range sp.Handlers {
		cfg.Commands = append(cfg.Commands, host.Command{
			Name: fmt.Sprintf("bench-%d", i+1), Path: sp.Executable, Args: append([]string{HandlerCommand, sp.Kind}, queues...),
		})
	}
	return cfg
}

// childEnv is the environment of the daemon's process: nothing that
// configures pgqrsd, and no service manager to speak to.
func childEnv(environ []string) []string {
	var env []string
	for _, kv := range environ {
		if !hasAnyPrefix(kv, "PGQRS_", "NOTIFY_SOCKET=", "WATCHDOG_") {
			env = append(env, kv)
		}
	}
	return env
}
