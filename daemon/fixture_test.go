package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// limit is how long anything may take on a busy machine.
const limit = 3 * time.Minute

// onEachStore runs a test on every backend.
func onEachStore(t *testing.T, test func(t *testing.T, s store.Store)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, openPostgres(t, pgtest.DSN(t), pgtest.Schema(t))) })
}

func openSQLite(t *testing.T) store.Store {
	t.Helper()
	return openStore(t, anystore.Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "test.db")})
}

func openPostgres(t *testing.T, dsn, schema string) store.Store {
	t.Helper()
	return openStore(t, anystore.Config{DSN: dsn, Schema: schema, PoolSize: 6})
}

func openStore(t *testing.T, cfg anystore.Config) store.Store {
	t.Helper()
	s, err := anystore.OpenConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// fixture is a daemon that runs.
type fixture struct {
	*testing.T
	d        *Daemon
	store    store.Store
	dir      string
	stop     context.CancelFunc
	ended    chan error
	stopped  bool
	notified *notices
}

// testConfig is quick about everything.
func testConfig(t *testing.T, s store.Store) Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Store: s, Version: "v-test", HTTPAddr: "127.0.0.1:0", StateDir: t.TempDir(),
		Commands:          []host.Command{{Name: "testhandler", Path: exe}},
		Logger:            slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		HeartbeatInterval: 200 * time.Millisecond, WorkerTimeout: 5 * time.Second,
		WatchInterval: 50 * time.Millisecond, MaintenanceInterval: 200 * time.Millisecond,
		SampleInterval: 100 * time.Millisecond,
		Defaults:       QueueConfig{Concurrency: 10, Backoff: Backoff{Kind: Fixed, Delay: time.Millisecond}},
	}
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// notices is what the service manager was told.
type notices struct {
	mu   sync.Mutex
	said []string
}

func (n *notices) notify(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, s)
}

func (n *notices) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.said)
}

// run starts a daemon and waits until it is ready. The test's end stops it.
func run(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := &fixture{T: t, store: cfg.Store, dir: t.TempDir(), ended: make(chan error, 1), notified: &notices{}}
	cfg.Notify = f.notified.notify
	var err error
	if f.d, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.ended <- f.d.Run(ctx) }()
	t.Cleanup(func() {
		f.stop()
		if !f.stopped {
			if err := f.end(); err != nil {
				t.Errorf("the daemon ended with: %v", err)
			}
		}
	})
	f.eventually("ready", func() bool { return slices.Contains(f.notified.all(), "READY=1") })
	return f
}

// end waits until Run has returned.
func (f *fixture) end() error {
	f.Helper()
	f.stopped = true
	select {
	case err := <-f.ended:
		return err
	case <-time.After(limit):
		f.Fatal("the daemon does not end")
		return nil
	}
}

// eventually waits for something to become true.
func (f *fixture) eventually(what string, is func() bool) {
	f.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !is() {
		select {
		case err := <-f.ended:
			f.stopped = true
			f.Fatalf("waiting for %s, the daemon ended: %v", what, err)
		case <-late:
			f.Fatalf("not in %s: %s", limit, what)
		case <-tick.C:
		}
	}
}

// enqueue puts messages on the queue "work".
func (f *fixture) enqueue(orders ...order) []int64 {
	f.Helper()
	msgs := make([]store.NewMessage, len(orders))
	for i, o := range orders {
		raw, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		msgs[i] = store.NewMessage{Queue: "work", Payload: raw}
	}
	ids, err := f.store.Messages().Insert(f.Context(), msgs)
	if err != nil {
		f.Fatal(err)
	}
	return ids
}

func (f *fixture) get(id int64) store.Message {
	f.Helper()
	m, err := f.store.Messages().Get(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	return m
}

// becomes waits until a message is in a state and returns it.
func (f *fixture) becomes(id int64, state store.State) store.Message {
	f.Helper()
	var m store.Message
	f.eventually(fmt.Sprintf("message %d is %s", id, state), func() bool {
		m = f.get(id)
		if m.State.Archived() && m.State != state {
			f.Fatalf("message %d is %s, want %s; errors %+v", id, m.State, state, m.Errors)
		}
		return m.State == state
	})
	return m
}

// starts waits until a message is recorded as started.
func (f *fixture) starts(id int64) store.Message {
	f.Helper()
	var m store.Message
	f.eventually(fmt.Sprintf("message %d is started", id), func() bool {
		m = f.get(id)
		return m.Started
	})
	return m
}

// path is a file that a waiting job may wait for.
func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) touch(name string) {
	f.Helper()
	if err := os.WriteFile(f.path(name), nil, 0o600); err != nil {
		f.Fatal(err)
	}
}

// workers lists this fixture's workers of a kind; a queue narrows consumers.
func (f *fixture) list(kind store.WorkerKind, queue string) []store.WorkerRecord {
	f.Helper()
	all, err := f.store.Workers().List(f.Context(), store.WorkerFilter{Kind: kind, Queue: queue})
	if err != nil {
		f.Fatal(err)
	}
	return all
}

// worker is the one worker of a kind.
func (f *fixture) worker(kind store.WorkerKind, queue string) store.WorkerRecord {
	f.Helper()
	all := f.list(kind, queue)
	if len(all) != 1 {
		f.Fatalf("there are %d workers of kind %s: %+v", len(all), kind, all)
	}
	return all[0]
}

func (f *fixture) transition(id int64, to store.WorkerState) {
	f.Helper()
	if err := f.store.Workers().Transition(f.Context(), id, to); err != nil {
		f.Fatal(err)
	}
}

// count counts messages of the queue "work".
func (f *fixture) count(state store.State) int64 {
	f.Helper()
	table := f.store.Messages().Count
	if state.Archived() {
		table = f.store.Archive().Count
	}
	n, err := table(context.Background(), store.MessageFilter{Queue: "work", State: state})
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		f.Fatal(err)
	}
	return n
}

func (f *fixture) counts(want int64, state store.State) {
	f.Helper()
	f.eventually(fmt.Sprintf("%d messages are %s", want, state), func() bool { return f.count(state) == want })
}
