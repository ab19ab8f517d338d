package daemon

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// settledDown checks what every stop must leave behind.
func (f *fixture) settledDown() {
	f.Helper()
	if n := f.count(store.Leased); n != 0 {
		f.Errorf("%d messages are still leased", n)
	}
	for _, w := range f.list("", "") {
		if w.State != store.WorkerStopped || w.Reclaimed {
			f.Errorf("worker %d (%s %s) is %s, reclaimed %v", w.ID, w.Kind, w.Queue, w.State, w.Reclaimed)
		}
	}
	if said := f.notified.all(); !slices.Contains(said, "STOPPING=1") {
		f.Errorf("the service manager was told %q", said)
	}
}

func TestStopLetsRunningJobsFinish(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.Concurrency = 2
		f := run(t, cfg)
		var orders []order
		for range 5 {
			orders = append(orders, order{Do: "wait", File: f.path("go")})
		}
		ids := f.enqueue(orders...)
		f.starts(ids[0])
		f.starts(ids[1])
		f.stop()
		f.eventually("it says that it stops", func() bool { return slices.Contains(f.notified.all(), "STOPPING=1") })
		f.touch("go")
		if err := f.end(); err != nil {
			t.Fatalf("Run returned %v", err)
		}
		f.settledDown()
		if done, ready := f.count(store.Done), f.count(store.Ready); done != 2 || ready != 3 {
			t.Errorf("%d are done and %d are ready, want the 2 that ran and the 3 that did not", done, ready)
		}
		for _, id := range ids[2:] {
			if m := f.get(id); m.Attempts != 0 {
				t.Errorf("message %d lost an attempt", id)
			}
		}
	})
}

func TestStopCancelsWhatDoesNotFinishAndCostsNoAttempt(t *testing.T) {
	for _, do := range []string{"wait", "hang"} {
		t.Run(do, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, s store.Store) {
				cfg := testConfig(t, s)
				cfg.DrainTimeout, cfg.CancelGrace = 50*time.Millisecond, 200*time.Millisecond
				f := run(t, cfg)
				id := f.enqueue(order{Do: do, File: f.path("never")})[0]
				f.starts(id)
				f.stop()
				if err := f.end(); err != nil {
					t.Fatalf("Run returned %v", err)
				}
				f.settledDown()
				if m := f.get(id); m.State != store.Ready || m.Attempts != 0 {
					t.Errorf("the job is %s with %d attempts; errors %+v", m.State, m.Attempts, m.Errors)
				}
			})
		})
	}
}

func TestReleaseNowDoesNotWait(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.DrainTimeout, cfg.CancelGrace = time.Hour, time.Hour
		f := run(t, cfg)
		id := f.enqueue(order{Do: "hang", File: f.path("never")})[0]
		f.starts(id)
		f.stop()
		f.eventually("it says that it stops", func() bool { return slices.Contains(f.notified.all(), "STOPPING=1") })
		f.d.ReleaseNow()
		f.d.ReleaseNow() // more signals change nothing
		if err := f.end(); !errors.Is(err, ErrReleased) {
			t.Fatalf("Run returned %v", err)
		}
		f.settledDown()
		if m := f.get(id); m.State != store.Ready || m.Attempts != 0 {
			t.Errorf("the job is %s with %d attempts; errors %+v", m.State, m.Attempts, m.Errors)
		}
	})
}

func TestStopWhileTheDatabaseIsAway(t *testing.T) {
	server := pgtest.Start(t)
	cfg := testConfig(t, openPostgres(t, server.DSN(), "pgqrs"))
	f := run(t, cfg)
	server.StopImmediate()
	f.stop()
	if err := f.end(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Run returned %v", err)
	}
	// The next daemon in the slot finds the workers that could not be stopped.
	server.Start()
	again := run(t, cfg)
	again.becomes(again.enqueue(order{})[0], store.Done)
	if n := len(again.live(store.KindConsumer)); n != 3 {
		t.Errorf("%d consumers are not stopped, want 3: one for each queue", n)
	}
}

func (f *fixture) live(kind store.WorkerKind) []store.WorkerRecord {
	return slices.DeleteFunc(f.list(kind, ""), func(w store.WorkerRecord) bool { return w.State == store.WorkerStopped })
}

func TestQuietLeasesNoMore(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		id := f.enqueue(order{Do: "wait", File: f.path("go")})[0]
		f.starts(id)
		f.d.Quiet()
		waiting := f.enqueue(order{})[0]
		f.touch("go")
		f.becomes(id, store.Done)
		f.eventually("it says so", func() bool {
			return slices.ContainsFunc(f.notified.all(), func(s string) bool { return strings.Contains(s, "quiet") })
		})
		f.stop()
		if err := f.end(); err != nil {
			t.Fatal(err)
		}
		if m := f.get(waiting); m.State != store.Ready {
			t.Errorf("message %d is %s", waiting, m.State)
		}
	})
}

func TestTwoDaemonsOfOneStateDirectory(t *testing.T) {
	s := openPostgres(t, pgtest.DSN(t), pgtest.Schema(t))
	cfg := testConfig(t, s)
	first := run(t, cfg)
	cfg.HTTPAddr = "127.0.0.1:0"
	second := run(t, cfg)
	names := map[string]bool{}
	for _, w := range second.live(store.KindAdmin) {
		names[w.Name] = true
	}
	if len(names) != 2 {
		t.Errorf("the admins are %v", names)
	}
	// The second did not take the first for a corpse.
	if n := len(first.live(store.KindConsumer)); n != 6 {
		t.Errorf("%d consumers live, want 6", n)
	}
	first.enqueue(make([]order, 500)...)
	first.counts(500, store.Done)
}

func TestStopBeforeItHasBegun(t *testing.T) {
	s := openSQLite(t)
	cfg := testConfig(t, s)
	cfg.Queues = map[string]QueueConfig{"work": {}}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := &fixture{T: t, d: d, store: s, notified: &notices{said: []string{"STOPPING=1"}}}
	if err := d.Run(ctx); err != nil {
		t.Errorf("Run returned %v", err)
	}
	f.settledDown()
}

func TestRunSaysWhyItCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	cfg := testConfig(t, openSQLite(t))
	cfg.HTTPAddr = taken.Addr().String()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Run(context.Background()); err == nil || !strings.Contains(err.Error(), cfg.HTTPAddr) {
		t.Errorf("Run on a taken address returned %v", err)
	}
	// The slot is free again.
	if s := take(t, cfg.StateDir); !strings.HasSuffix(s.name, "/0") || filepath.Base(s.dir) != "slot-0" {
		t.Errorf("the next slot is %s", s.name)
	} else {
		release(t, s)
	}
}

// What a handler that cannot be killed may still run must not be given away.
func TestStopKeepsTheLeasesOfHandlersThatDoNotEnd(t *testing.T) {
	cfg := testConfig(t, openSQLite(t))
	cfg.CancelGrace = time.Hour
	f := run(t, cfg)
	id := f.enqueue(order{Do: "hang", File: f.path("go")})[0]
	f.starts(id)
	settings := *f.d.settings.Load()
	settings.DrainTimeout, settings.CancelGrace = time.Millisecond, time.Millisecond
	f.d.settings.Store(&settings)

	ended := make(chan struct{})
	close(ended)
	other := &task{end: func() {}, done: ended}
	hosting := &task{end: func() {}, done: make(chan struct{})}
	if err := f.d.stop(other, hosting, other); err == nil {
		t.Error("the stop says that all is well")
	}
	if m := f.get(id); m.State != store.Leased {
		t.Errorf("message %d is %s while its job runs", id, m.State)
	}
	f.touch("go")
	f.becomes(id, store.Done)
}
