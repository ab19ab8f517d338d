package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// ErrInterrupted is what Run returns when its context ended and nothing is left
// of the run.
var ErrInterrupted = errors.New("interrupted; the scratch place is removed")

// errLeft marks errors that say that something of the run is still there.
var errLeft = errors.New("something is left behind")

// Config is everything that Run needs.
type Config struct {
	// Store names the database beside which the scratch place is made. Its
	// schema is not used.
	Store anystore.Config
	Options
	// Version is pgqrsd's own.
	Version string
	// Progress is called a few times a second with what is being done, Say with
	// what a person should know. They are called from one goroutine.
	Progress, Say func(line string)
}

// run is one run on its scratch.
type run struct {
	*Options
	cfg      Config
	scratch  *scratch
	queues   []string
	handlers [][]string // the queues of each handler process
	payloads *payloads
	report   *Report
	// enqueued counts what was put on the queues, all in all.
	enqueued int64
}

// Run measures and reports. Whatever happens, it leaves no process, and no
// scratch unless its error says so; that error alone comes beside a report, of a
// measurement that was complete. It is ErrInterrupted when ctx ended; bad
// options are Check's errors; see anystore.OpenConfig for those of the database.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s, err := openScratch(ctx, cfg.Store, cfg.Say)
	if err == nil {
		r := newRun(cfg, s)
		err = r.measure(ctx)
		removing := s.remove(ctx)
		if err == nil {
			return r.report, removing
		}
		err = errors.Join(err, removing)
	}
	if ctx.Err() != nil && !errors.Is(err, errLeft) {
		return nil, ErrInterrupted
	}
	return nil, err
}

func newRun(cfg Config, s *scratch) *run {
	r := &run{Options: &cfg.Options, cfg: cfg, scratch: s, payloads: newPayloads(cfg.PayloadBytes)}
	n := r.Handlers
	if r.Mode == Idle {
		n = r.Queues
	}
	for i := range n {
		r.queues = append(r.queues, fmt.Sprintf("bench-%d", i+1))
	}
	r.handlers = [][]string{r.queues}
	if r.Mode != Idle {
		r.handlers = nil
		for _, q := range r.queues {
			r.handlers = append(r.handlers, []string{q})
		}
	}
	return r
}

// measure fills the scratch, and then does what the mode is.
func (r *run) measure(ctx context.Context) error {
	version, err := r.scratch.db.version(ctx)
	if err != nil {
		return fmt.Errorf("ask for the database's version: %w", err)
	}
	r.report = &Report{
		Mode: r.Mode, Backend: r.scratch.store.BackendName(), ServerVersion: version,
		Cores: runtime.NumCPU(), GoVersion: runtime.Version(), Version: r.cfg.Version, Settings: r.settings(),
	}
	if r.HoldSnapshot && r.report.Backend != store.BackendPostgres {
		return errors.New("--hold-snapshot needs PostgreSQL: nothing holds SQLite's old rows back")
	}
	if err := r.fillBeforehand(ctx); err != nil {
		return err
	}
	switch r.Mode {
	case Drain:
		return r.drain(ctx)
	case Steady:
		return r.steady(ctx)
	default:
		return r.idle(ctx)
	}
}

// withDaemon calms the database, starts the daemon, does what is to be measured
// and stops the daemon. started is just before its process was.
func (r *run) withDaemon(ctx context.Context, do func(p *process, started time.Time) error) (err error) {
	r.cfg.Progress("waiting for the database to be calm")
	if err := r.scratch.db.calm(ctx); err != nil {
		return err
	}
	if r.HoldSnapshot {
		release, err := r.scratch.db.holdSnapshot(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = release(context.WithoutCancel(ctx)) }() // the connection ends, whatever it says
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to start it as the daemon: %w", err)
	}
	cfg := r.scratch.cfg
	started := time.Now()
	p, err := startDaemon(spec{
		DSN: cfg.DSN, Schema: cfg.Schema, PoolSize: cfg.PoolSize,
		ConnectTimeout: cfg.ConnectTimeout, StatementTimeout: cfg.StatementTimeout, PgBouncer: cfg.PgBouncer,
		StateDir: r.scratch.dir.state(), Executable: exe, Version: r.cfg.Version,
		Handlers: r.handlers, Kind: string(r.kind()), Concurrency: r.Concurrency + r.inFlightPerQueue(), Retain: r.retain(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.ready(ctx, len(r.handlers)); err != nil {
		return err
	}
	if err := do(p, started); err != nil {
		return err
	}
	return r.finish(ctx, p)
}

// finish reads what only a living daemon can tell.
func (r *run) finish(ctx context.Context, p *process) (err error) {
	s, err := p.sample(ctx)
	if err != nil {
		return err
	}
	if n, _ := s.sum(metricRestarts, ""); n > 0 {
		return p.died(fmt.Errorf("handler processes crashed %.0f times, so that this is no measurement", n))
	}
	if n, _ := s.sum(metricLost, ""); n > 0 {
		return p.died(fmt.Errorf("%.0f leases were lost, so that this is no measurement", n))
	}
	r.report.DaemonPeakMemoryBytes, err = memory(p.cmd.Process.Pid, memoryPeak)
	return err
}

func (r *run) inFlightPerQueue() int {
	if r.Mode != Drain {
		return 0
	}
	return r.perQueue(r.InFlight)
}

func (r *run) retain() daemon.Retain {
	if r.Mode == Drain {
		return r.Retain
	}
	return daemon.RetainArchive
}

// count counts the messages of all queues that are in a state; empty is those
// that are not finished.
func (r *run) count(ctx context.Context, state store.State) (total int64, err error) {
	for _, queue := range r.queues {
		filter := store.MessageFilter{Queue: queue, State: state}
		count := r.scratch.store.Messages().Count
		if state.Archived() {
			count = r.scratch.store.Archive().Count
		}
		n, err := count(ctx, filter)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
