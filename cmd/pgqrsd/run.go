package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

func (a *app) runCommand() *cobra.Command {
	var install bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Run the daemon: lease messages, hand them to the handlers in the plugins
directory, and record what happened.

On SQLite it creates and installs the database by itself. On PostgreSQL the
schema must have been installed with ` + "`pgqrsd install`" + `, or --install does it.

SIGTERM and SIGINT stop it: running jobs get drain_timeout to finish, and the
exit status is 0. A second signal releases them and ends at once, with status 1.
SIGHUP reads the configuration and the plugins again. SIGTSTP makes it quiet: it
leases nothing more and runs on.`,
		Example: `  pgqrsd run
  pgqrsd run --plugins /opt/jobs/plugins --http 127.0.0.1:8080
  pgqrsd --dsn postgres://app@db/app run --install`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load(cmd)
			if err != nil {
				return err
			}
			r := &runner{
				cfg:     cfg,
				reread:  func() (*config.Loaded, error) { return a.load(cmd) },
				install: install,
				signals: make(chan os.Signal, 8),
				started: make(chan *daemon.Daemon, 1),
			}
			r.level.Set(logLevel(cfg.Log.Level))
			r.log = newLogger(a.err, cfg.Log.Format, &r.level)
			return r.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.String("plugins", "", "the directory whose executable files are handlers")
	flags.String("http", "", `where HTTP listens, as host:port; "" is nowhere`)
	flags.BoolVar(&install, "install", false, "install or upgrade the schema first")
	if err := cmd.MarkFlagDirname("plugins"); err != nil {
		panic(err) // the flag was added above
	}
	completeFlag(cmd, "http", cobra.NoFileCompletions)
	return cmd
}

// runner runs one daemon and turns signals into calls of its methods.
type runner struct {
	cfg     *config.Loaded
	reread  func() (*config.Loaded, error)
	install bool
	log     *slog.Logger
	level   slog.LevelVar
	signals chan os.Signal
	// started gets the daemon when it begins to run; store is set before.
	started chan *daemon.Daemon
	store   store.Store
}

// releaseLimit is how long the daemon may take to end once it was told to at once.
const releaseLimit = 10 * time.Second

func (r *runner) run(ctx context.Context) error {
	signal.Notify(r.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGTSTP)
	defer signal.Stop(r.signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.serve(ctx) }()

	var d *daemon.Daemon
	stopping := false
	for {
		select {
		case err := <-ended:
			if stopping && d == nil && errors.Is(err, context.Canceled) {
				return nil // stopped before it had begun
			}
			return err
		case d = <-r.started:
		case sig := <-r.signals:
			switch {
			case sig == syscall.SIGHUP:
				r.reload(d)
			case sig == syscall.SIGTSTP:
				r.quiet(d)
			case !stopping:
				r.log.Info("asked to stop; a second signal stops at once", "signal", sig.String())
				stopping = true
				cancel()
			default:
				return r.releaseNow(d, ended)
			}
		}
	}
}

// serve opens the database and runs the daemon until ctx ends.
func (r *runner) serve(ctx context.Context) (err error) {
	unlock, err := anystore.LockForRun(r.cfg.DSN)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	open := storeConfig(r.cfg)
	open.MustExist = false
	s, err := anystore.OpenConfig(ctx, open)
	if err != nil {
		return err
	}
	defer func() {
		if closing := s.Close(); closing != nil {
			err = errors.Join(err, fmt.Errorf("close the database: %w", closing))
		}
	}()
	if r.install || s.BackendName() == store.BackendSQLite {
		err = s.Install(ctx)
	} else {
		err = s.Verify(ctx)
	}
	if err != nil {
		return err
	}
	d, err := daemon.New(daemonConfig(r.cfg, s, r.log))
	if err != nil {
		return err
	}
	r.log.Info("pgqrsd starts", "version", versionText(), "backend", s.BackendName(), "dsn", config.MaskDSN(r.cfg.DSN),
		"config", r.cfg.File, "plugins", pluginsDir(r.cfg), "http", r.cfg.HTTP.Addr, "state_dir", r.cfg.Daemon.StateDir)
	r.warn()
	r.store = s
	r.started <- d
	return d.Run(ctx)
}

// reload takes a new configuration, or keeps the old one and says why.
func (r *runner) reload(d *daemon.Daemon) {
	if d == nil {
		return // it has not begun, with a configuration that was just read
	}
	cfg, err := r.reread()
	if err == nil {
		err = r.fixed(cfg)
	}
	if err == nil {
		err = d.Reload(daemonConfig(cfg, r.store, r.log))
	}
	if err != nil {
		r.log.Error("the new configuration was refused; the old one stays", "error", err)
		return
	}
	r.cfg = cfg
	r.level.Set(logLevel(cfg.Log.Level))
	r.log.Info("configuration read again", "config", cfg.File)
	r.warn()
}

// warn tells of what is allowed and yet seldom meant.
func (r *runner) warn() {
	for _, w := range warnings(r.cfg) {
		r.log.Warn(w)
	}
}

// fixed refuses changes of what this file sets up once; the daemon refuses
// changes of what it sets up once.
func (r *runner) fixed(cfg *config.Loaded) error {
	for _, key := range []struct {
		name string
		same bool
	}{
		{"dsn", cfg.DSN == r.cfg.DSN},
		{"schema", cfg.Schema == r.cfg.Schema},
		{"[store]", cfg.Store == r.cfg.Store},
		{"log.format", cfg.Log.Format == r.cfg.Log.Format},
	} {
		if !key.same {
			return fmt.Errorf("%s cannot change while running; restart the daemon", key.name)
		}
	}
	return nil
}

func (r *runner) quiet(d *daemon.Daemon) {
	if d != nil {
		d.Quiet()
	}
}

// releaseNow ends the daemon without waiting for its jobs.
func (r *runner) releaseNow(d *daemon.Daemon, ended <-chan error) error {
	r.log.Warn("second signal: releasing what runs and ending at once")
	if d == nil {
		return daemon.ErrReleased
	}
	d.ReleaseNow()
	select {
	case err := <-ended:
		if err == nil {
			err = daemon.ErrReleased
		}
		return err
	case <-time.After(releaseLimit):
		return fmt.Errorf("the daemon did not end within %s of the second signal; its messages come back when their leases run out", releaseLimit)
	}
}
