package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// startTime is how long the registration in the database may take.
const startTime = 30 * time.Second

// ErrReleased is what Run returns after ReleaseNow.
var ErrReleased = errors.New("stopped at once; running jobs were killed and released")

// Daemon is the supervisor. Make it with New, then call Run once. Its other
// methods are safe for concurrent use, also before and after Run.
type Daemon struct {
	born     time.Time
	cfg      Config // what cannot change while running
	settings atomic.Pointer[Config]
	log      *slog.Logger
	metrics  *metrics
	database *database
	host     atomic.Pointer[host.Host] // nil before Run has its slot
	workers  *workers
	addr     atomic.Pointer[string]
	said     atomic.Pointer[string] // the last STATUS
	beat     atomic.Int64           // when the last heartbeat was sent that arrived, Unix nanoseconds

	group *errgroup.Group
	life  context.Context // of everything that runs; ends when the stop is complete

	quiet     atomic.Bool // lease no more
	stopping  atomic.Bool // and start no more queues
	killing   atomic.Bool // jobs are being cancelled because the daemon stops
	listening atomic.Bool // wake-ups arrive
	leads     atomic.Bool // it does the maintenance
	reported  atomic.Bool // READY was said

	now     chan struct{} // closed by ReleaseNow
	nowOnce sync.Once

	changed  signal // the host's queues or handlers changed
	reloaded signal // the settings changed
	pulseNow signal
	due      signal // something may have become due earlier than thought
	progress signal // a queue ran out of jobs or of results

	bodies  *semaphore.Weighted // bytes of HTTP requests
	misfits misfits

	mu     sync.Mutex
	queues map[string]*queue
	// closed are queues not to be served any more, or not before they are
	// looked for again at this time.
	closed map[string]time.Time
}

// New checks the configuration and makes a daemon that does nothing yet.
func New(cfg Config) (*Daemon, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Daemon{
		born: time.Now(), cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry, cfg.Version, cfg.Store),
		now: make(chan struct{}), changed: newSignal(), reloaded: newSignal(), pulseNow: newSignal(), due: newSignal(), progress: newSignal(),
		queues: map[string]*queue{}, closed: map[string]time.Time{},
		bodies: semaphore.NewWeighted(maxBodies), misfits: misfits{},
	}
	d.settings.Store(&cfg)
	d.database = &database{log: cfg.Logger, gauge: d.metrics.database, changed: d.status, since: time.Now()}
	d.workers = &workers{d: d}
	d.metrics.database.Set(1)
	return d, nil
}

// HTTPAddr is the address on which HTTP is served, with the real port where
// Config.HTTPAddr asked for port 0; empty before Run has opened it.
func (d *Daemon) HTTPAddr() string {
	if addr := d.addr.Load(); addr != nil {
		return *addr
	}
	return ""
}

// Quiet stops leasing for the rest of the daemon's life. Running jobs go on,
// and so does everything else.
func (d *Daemon) Quiet() {
	if !d.quiet.Swap(true) {
		d.log.Info("quiet: no more messages are leased")
		d.status()
	}
}

// ReleaseNow makes Run kill the handlers, release every message and return
// ErrReleased as soon as it can.
func (d *Daemon) ReleaseNow() { d.nowOnce.Do(func() { close(d.now) }) }

// Run takes a slot, takes back what a dead daemon in the same slot held, serves
// until ctx ends, and then stops gracefully: it returns nil when every job
// is settled or released and every worker stopped. It returns an error when it
// cannot start, when one of its loops failed, when the database was away at the
// end, and after ReleaseNow. A Daemon runs once.
func (d *Daemon) Run(ctx context.Context) (err error) {
	s, err := takeSlot(d.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	defer func() { err = errors.Join(err, s.release()) }()

	h, err := d.newHost(s)
	if err != nil {
		return err
	}
	d.host.Store(h)
	l, err := d.listenHTTP(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	if l != nil {
		addr := l.Addr().String()
		d.addr.Store(&addr)
	}
	if err := d.start(ctx, s); err != nil {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	return d.run(ctx, l)
}

// newHost makes the handler host in the slot's own directory, from which it
// removes what the slot's last daemon left there.
func (d *Daemon) newHost(s *slot) (*host.Host, error) {
	return host.New(host.Config{
		Dir: d.cfg.Plugins, Commands: d.cfg.Commands, StateDir: s.dir,
		Version: d.cfg.Version, Settings: d.hostSettings(),
		DrainTimeout: d.cfg.DrainTimeout, CancelGrace: d.cfg.CancelGrace, Logger: d.log,
		OnChange:  d.changed.raise,
		OnRestart: func(handler string) { d.metrics.restarts.WithLabelValues(handler).Inc() },
	})
}

// start registers the daemon in the database. A stop that is asked for
// meanwhile waits for it, and then undoes it in good order.
func (d *Daemon) start(ctx context.Context, s *slot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTime)
	defer cancel()
	if err := d.workers.start(ctx, s); err != nil {
		return err
	}
	for name := range d.cfg.Queues {
		if err := d.ensureQueue(ctx, name, ""); err != nil {
			return fmt.Errorf("create queue %s of the configuration: %w", name, err)
		}
	}
	d.log.Info("started", "version", d.cfg.Version, "worker", s.name, "store", d.cfg.Store.BackendName(), "http", d.HTTPAddr())
	return nil
}

// run runs every loop until the stop is complete.
func (d *Daemon) run(ctx context.Context, l net.Listener) error {
	// The loops outlive ctx, whose end only asks for the stop, and the failure
	// of another loop: they are needed to stop in good order.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, failed := errgroup.WithContext(life)
	d.group, d.life = group, life

	hosting := d.spawn("handler host", d.host.Load().Run)
	serving := d.spawn("HTTP server", func(ctx context.Context) error {
		if l == nil {
			<-ctx.Done()
			return nil
		}
		return d.serveHTTP(ctx, l)
	})
	supervising := d.spawn("supervision of queues", d.supervise)
	d.spawn("pulse", d.pulse)
	d.spawn("listener", d.listen)
	d.spawn("sweep of idle queues", d.sweep)
	d.spawn("maintenance", d.maintain)
	d.spawn("sampler", d.sample)
	var stopErr error
	group.Go(func() error {
		defer end()
		select {
		case <-ctx.Done():
		case <-failed.Done():
		case <-d.now:
		}
		stopErr = d.stop(supervising, hosting, serving)
		return stopErr
	})
	err := group.Wait()
	if err != nil && !errors.Is(err, stopErr) {
		return errors.Join(err, stopErr)
	}
	return err
}

// task is a loop that the stop ends by itself, before the others.
type task struct {
	end  context.CancelFunc
	done chan struct{}
}

// spawn runs a loop for the daemon's life. Its failure stops the daemon.
func (d *Daemon) spawn(what string, run func(context.Context) error) *task {
	ctx, cancel := context.WithCancel(d.life)
	t := &task{end: cancel, done: make(chan struct{})}
	d.group.Go(func() error {
		defer close(t.done)
		defer cancel()
		if err := run(ctx); err != nil {
			d.log.Error("a part of the daemon failed; the daemon stops", "part", what, "error", err)
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
	return t
}

// fatal reports whether an error of the store cannot be waited out.
func fatal(err error) bool {
	return errors.Is(err, store.ErrNotInstalled) || errors.Is(err, store.ErrSchemaVersion)
}

// transient reports whether the same call may simply be made again.
func transient(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}
