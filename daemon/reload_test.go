package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

func TestReload(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.Concurrency = 1
		f := run(t, cfg)
		first := f.enqueue(order{Do: "wait", File: f.path("go")}, order{Do: "wait", File: f.path("go")})
		f.starts(first[0])

		cfg.Store = nil // the one in use
		cfg.Queues = map[string]QueueConfig{"work": {Concurrency: 5, MaxAttempts: 9}, "fresh": {}}
		if err := f.d.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		f.starts(first[1])
		f.touch("go")
		f.eventually("the policy is stored", func() bool {
			q, err := s.Queues().Get(t.Context(), "work")
			return err == nil && q.MaxAttempts == 9
		})
		f.eventually("the new queue is there", func() bool {
			_, err := s.Queues().Get(t.Context(), "fresh")
			return err == nil
		})
		if !slices.ContainsFunc(f.notified.all(), func(s string) bool { return strings.HasPrefix(s, "RELOADING=1") }) {
			t.Errorf("the service manager was told %q", f.notified.all())
		}
	})
}

func TestReloadNamesWhatCannotChange(t *testing.T) {
	s := openSQLite(t)
	cfg := testConfig(t, s)
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"database":            func(c *Config) { c.Store = openSQLite(t) },
		"HTTP address":        func(c *Config) { c.HTTPAddr = "127.0.0.1:1" },
		"payload rules":       func(c *Config) { c.Validator = &store.Validator{MaxDepth: 3} },
		"HTTP rate":           func(c *Config) { c.HTTPRate = 5 },
		"plugins directory":   func(c *Config) { c.Plugins = "/elsewhere" },
		"state directory":     func(c *Config) { c.StateDir = t.TempDir() },
		"heartbeat interval":  func(c *Config) { c.HeartbeatInterval = time.Second },
		"the cancel grace":    func(c *Config) { c.CancelGrace = time.Second },
		"built-in handlers":   func(c *Config) { c.Commands = []host.Command{{Name: "x", Path: "/x"}} },
		"queue work: the lea": func(c *Config) { c.Queues = map[string]QueueConfig{"work": {Lease: time.Millisecond}} },
		"jitter":              func(c *Config) { c.Defaults.Backoff.Jitter = 2 },
	} {
		changed := cfg
		changed.Defaults.Concurrency = 77
		change(&changed)
		if err := d.Reload(changed); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a change of %q: %v", want, err)
		}
		if got := d.settings.Load().Defaults.Concurrency; got == 77 {
			t.Errorf("a refused change of %q changed other settings", want)
		}
	}
	changed := cfg
	changed.Defaults.Concurrency = 77
	if err := d.Reload(changed); err != nil || d.settings.Load().Defaults.Concurrency != 77 {
		t.Errorf("a good change: %v", err)
	}
}
