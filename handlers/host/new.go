package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Host runs the handlers. Make it with New, then call Run. Its methods are
// safe for concurrent use.
type Host struct {
	cfg      Config
	log      *slog.Logger
	launcher launcher
	staging  string

	settled chan struct{} // closed when the first scan is dealt with
	drained chan struct{} // closed when Drain is done
	done    chan struct{} // closed when Run is done
	actions chan func()   // for Run's goroutine
	wake    chan struct{} // settings or draining have changed
	live    atomic.Pointer[[]*process]

	mu       sync.Mutex
	settings Settings
	reloaded bool
	draining bool
	queues   map[string]*queue
	status   []Status

	// The rest belongs to Run's goroutine.
	units       map[string]*unit
	owners      map[string]*unit // by queue
	unsettled   map[string]bool  // of the first scan; nil before it
	images      map[image]bool
	busy        int // starts and processes that Run must wait for
	stopping    bool
	drainBegun  bool
	applied     Settings
	scanTrouble string
}

// withDefaults returns cfg with its zero fields filled in.
func (cfg Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.ScanInterval, time.Second},
		{&cfg.StartTimeout, 10 * time.Second},
		{&cfg.PingInterval, 5 * time.Second},
		{&cfg.PingTimeout, 30 * time.Second},
		{&cfg.DrainTimeout, 30 * time.Second},
		{&cfg.CancelGrace, 10 * time.Second},
		{&cfg.RestartMin, 100 * time.Millisecond},
		{&cfg.RestartMax, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	if cfg.OnRestart == nil {
		cfg.OnRestart = func(string) {}
	}
	return cfg
}

// New checks cfg, makes StateDir and removes from it what an earlier life
// left. StateDir must belong to this host alone.
func New(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	if cfg.StateDir == "" {
		return nil, errors.New("handler host: StateDir is empty; name a directory for staged handlers and sockets")
	}
	if cfg.PingTimeout <= cfg.PingInterval {
		return nil, fmt.Errorf("handler host: PingTimeout (%s) must be longer than PingInterval (%s)", cfg.PingTimeout, cfg.PingInterval)
	}
	if cfg.RestartMax < cfg.RestartMin {
		return nil, fmt.Errorf("handler host: RestartMax (%s) must not be shorter than RestartMin (%s)", cfg.RestartMax, cfg.RestartMin)
	}
	state, err := filepath.Abs(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("handler host: state directory %s: %w", cfg.StateDir, err)
	}
	h := &Host{
		cfg: cfg, log: cfg.Logger, staging: filepath.Join(state, "handlers"), settings: cfg.Settings,
		settled: make(chan struct{}), drained: make(chan struct{}), done: make(chan struct{}),
		actions: make(chan func()), wake: make(chan struct{}, 1),
		queues: make(map[string]*queue), units: make(map[string]*unit), owners: make(map[string]*unit),
		images: make(map[image]bool), applied: cfg.Settings,
	}
	h.live.Store(new([]*process))
	for _, c := range cfg.Commands {
		if h.units[c.Name] != nil {
			return nil, fmt.Errorf("handler host: two commands are named %q", c.Name)
		}
		h.units[c.Name] = newUnit(c.Name, c.Path, &c)
	}
	if err := h.prepare(state); err != nil {
		return nil, fmt.Errorf("handler host: prepare the state directory: %w", err)
	}
	return h, nil
}

// prepare makes the directories, empty. Where sockets could not stay below
// state, a file there remembers the directory for the next life to remove.
func (h *Host) prepare(state string) error {
	if err := RemoveSockets(state); err != nil {
		return err
	}
	for _, err := range []error{
		os.RemoveAll(filepath.Join(state, "run")), os.RemoveAll(h.staging), os.MkdirAll(h.staging, 0o700), os.Chmod(h.staging, 0o700),
	} {
		if err != nil {
			return err
		}
	}
	sockets, err := socketDir(state)
	if err != nil {
		return err
	}
	h.launcher = launcher{sockets: sockets, timeout: h.cfg.StartTimeout}
	return os.WriteFile(remembered(state), []byte(sockets), 0o600)
}

// remembered is the file that names the sockets' directory.
func remembered(state string) string { return filepath.Join(state, "sockets") }

// RemoveSockets removes what a host with this StateDir has left outside of it
// because it was killed. New does so by itself; it is for those who remove the
// state directory. No host may be using that.
func RemoveSockets(state string) error {
	old, err := os.ReadFile(remembered(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for sockets that were left: %w", err)
	}
	if dir := string(old); strings.HasPrefix(filepath.Base(dir), "pgqrsd-") {
		_ = os.RemoveAll(dir)
	}
	return nil
}

// Settled is closed once every handler of the first scan is serving, refused,
// or has failed to start.
func (h *Host) Settled() <-chan struct{} { return h.settled }

// Status returns the handlers, sorted by name.
func (h *Host) Status() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.status)
}

// Queues returns the queues that are served right now, sorted by name.
func (h *Host) Queues() []ServedQueue {
	var served []ServedQueue
	h.mu.Lock()
	for _, q := range h.queues {
		if p := q.port.Load(); p != nil {
			served = append(served, ServedQueue{Name: q.name, Kind: p.kind, Handler: p.process.name, Versions: p.carried()})
		}
	}
	h.mu.Unlock()
	slices.SortFunc(served, func(a, b ServedQueue) int { return cmp.Compare(a.Name, b.Name) })
	return served
}

// Attach connects a sink to a queue, served or not, and returns the lane to
// send on. A queue has one lane: attaching again closes the former one.
func (h *Host) Attach(queue string, sink Sink) *Lane {
	l := &Lane{host: h, queue: h.queue(queue), sink: sink}
	l.queue.lane.Store(l)
	return l
}

// Reload takes new settings, tries refused handlers again and scans at once.
// It returns before that is done.
func (h *Host) Reload(s Settings) {
	h.mu.Lock()
	h.settings, h.reloaded = s, true
	h.mu.Unlock()
	poke(h.wake)
}

func (h *Host) queue(name string) *queue {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[name]
	if q == nil {
		q = &queue{name: name}
		h.queues[name] = q
	}
	return q
}

// processes are those that may have jobs in flight.
func (h *Host) processes() []*process { return *h.live.Load() }

// post gives Run's goroutine something to do.
func (h *Host) post(fn func()) {
	select {
	case h.actions <- fn:
	case <-h.done:
	}
}

// tendInterval is how often processes are looked after.
func (h *Host) tendInterval() time.Duration {
	const shortest, longest = 5 * time.Millisecond, 500 * time.Millisecond
	d := min(longest, h.cfg.PingInterval, h.cfg.PingTimeout/4, h.cfg.CancelGrace/4)
	return max(d, shortest)
}
