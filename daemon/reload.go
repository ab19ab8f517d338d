package daemon

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgqrs/pgqrsd/handlers/host"
)

// Reload takes new settings while running: of queues, of handlers, and the
// drain timeout. Refused handlers are tried again and the plugins directory is
// looked at. What cannot change in a running daemon is an error that names it,
// and then nothing is changed. A nil Store means the one in use.
func (d *Daemon) Reload(cfg Config) error {
	if cfg.Store == nil {
		cfg.Store = d.cfg.Store
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	if fixed := d.cfg.fixedDifferences(cfg); len(fixed) > 0 {
		return fmt.Errorf("daemon: reload: these cannot change while running: %s; restart the daemon", strings.Join(fixed, ", "))
	}
	d.cfg.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicros()))
	d.settings.Store(&cfg)
	for _, q := range d.allQueues() {
		q.mu.Lock()
		q.cfg = cfg.queueConfig(q.name)
		q.mu.Unlock()
		q.room.raise()
	}
	if h := d.host.Load(); h != nil {
		h.Reload(d.hostSettings())
	}
	d.reloaded.raise()
	d.log.Info("reloaded")
	d.cfg.Notify("READY=1")
	return nil
}

// fixedDifferences names what differs and cannot change while running.
func (c Config) fixedDifferences(n Config) []string {
	var fixed []string
	check := func(name string, same bool) {
		if !same {
			fixed = append(fixed, name)
		}
	}
	check("the database", c.Store == n.Store)
	check("the HTTP address", c.HTTPAddr == n.HTTPAddr)
	check("the payload rules", reflect.DeepEqual(c.Validator, n.Validator))
	check("the HTTP rate", c.HTTPRate == n.HTTPRate && c.HTTPBurst == n.HTTPBurst)
	check("the plugins directory", c.Plugins == n.Plugins)
	check("the state directory", c.StateDir == n.StateDir)
	check("the built-in handlers", slices.EqualFunc(c.Commands, n.Commands, sameCommand))
	for _, t := range []struct {
		name   string
		is, to time.Duration
	}{
		{"the cancel grace", c.CancelGrace, n.CancelGrace},
		{"the heartbeat interval", c.HeartbeatInterval, n.HeartbeatInterval},
		{"the worker timeout", c.WorkerTimeout, n.WorkerTimeout},
		{"the poll interval", c.PollInterval, n.PollInterval},
		{"the watch interval", c.WatchInterval, n.WatchInterval},
		{"the maintenance interval", c.MaintenanceInterval, n.MaintenanceInterval},
		{"the sample interval", c.SampleInterval, n.SampleInterval},
	} {
		check(t.name, t.is == t.to)
	}
	return fixed
}

func sameCommand(a, b host.Command) bool {
	return a.Name == b.Name && a.Path == b.Path && slices.Equal(a.Args, b.Args)
}

// monotonicMicros is the time as sd_notify's MONOTONIC_USEC wants it.
func monotonicMicros() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano() / 1000
}

// hostSettings are the host's part of the current settings.
func (d *Daemon) hostSettings() host.Settings {
	settings := d.settings.Load()
	return host.Settings{
		Handlers:     settings.Handlers,
		Concurrency:  func(queue string) int { return settings.queueConfig(queue).Concurrency },
		DrainTimeout: settings.DrainTimeout,
	}
}
