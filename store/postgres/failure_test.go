package postgres

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// Errors about the connection say where, as whom and why, and never the password.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	c := pgtest.Start(t, pgtest.Fast())
	with := func(edit func(u *url.URL)) string {
		u, err := url.Parse(c.DSN())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(u.User.Username(), secret)
		edit(u)
		return u.String()
	}
	good, err := url.Parse(c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		name, dsn string
		is        []error
		says      string
	}{
		{"wrong password", with(func(*url.URL) {}), []error{store.ErrUnavailable}, "password authentication failed"},
		{"no such role", with(func(u *url.URL) { u.User = url.UserPassword("nobody", secret) }), []error{store.ErrUnavailable}, `"nobody"`},
		{"no such database", with(func(u *url.URL) { u.User, u.Path = good.User, "/nowhere" }), []error{store.ErrDSN, store.ErrUnavailable}, `"nowhere"`},
		{"nobody listens", with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), []error{store.ErrUnavailable}, "127.0.0.1:1"},
		{"bad port", "postgres://u:" + secret + "@host:port/db", []error{store.ErrDSN}, "percent-encoded"},
		{"slash in the password", "postgres://u:/" + secret + "@host/db", []error{store.ErrDSN}, "percent-encoded"},
		{"question mark in the password", "postgres://u:12?" + secret + "@host/db", []error{store.ErrDSN}, "percent-encoded"},
		{"bad escape", "postgres://u:%zz" + secret + "@host/db", []error{store.ErrDSN}, "percent-encoded"},
		{"bad parameter", with(func(u *url.URL) { u.RawQuery = "sslmode=perhaps" }), []error{store.ErrDSN}, "sslmode"},
	} {
		s, err := Open(t.Context(), Config{DSN: bad.dsn, ConnectTimeout: 5 * time.Second})
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", bad.name)
			continue
		}
		for _, want := range bad.is {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v is not %q", bad.name, err, want)
			}
		}
		if errors.Is(err, store.ErrDSN) && !slices.Contains(bad.is, store.ErrDSN) {
			t.Errorf("%s: %v is %q", bad.name, err, store.ErrDSN)
		}
		if !strings.Contains(err.Error(), bad.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q does not say %q in one line", bad.name, err, bad.says)
		}
		password, _ := good.User.Password()
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), secret) || strings.Contains(e.Error(), password) {
				t.Errorf("%s: the password is in %q", bad.name, e)
			}
		}
	}
}

// A claim is not flushed to disk. A crash that loses it makes the messages
// ready again, and the lease lost, also when the same worker has them again.
func TestCrashThatLosesAClaim(t *testing.T) {
	t.Parallel()
	// The log's writer is kept from flushing by itself.
	cluster := pgtest.Start(t, pgtest.Setting("wal_writer_delay", "10s"), pgtest.Setting("wal_writer_flush_after", "1GB"))
	opened, err := Open(t.Context(), Config{DSN: cluster.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*Store)
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	ids := enqueue(t, s, "q", 3)
	c := newConsumer(t, s, "q")
	s.notifier.close() // its transaction must not come between
	lost, err := c.Dequeue(t.Context(), 3, time.Hour)
	if err != nil || len(lost) != 3 {
		t.Fatalf("%d messages, %v", len(lost), err)
	}
	cluster.Kill()
	cluster.Start()

	again := retry(t, func() ([]store.LeasedMessage, error) { return c.Dequeue(t.Context(), 2, time.Hour) })
	if len(again) != 2 || again[0].ID != ids[0] || again[0].Attempt != 1 {
		t.Fatalf("after the crash %+v, want messages %v at their first attempt", again, ids[:2])
	}
	for _, m := range lost {
		got, err := c.Settle(t.Context(), []store.Outcome{{Lease: m.Lease, Kind: store.OutcomeDone}})
		if err != nil || !errors.Is(got[0].Err, store.ErrLeaseLost) {
			t.Errorf("settle of lost lease %+v: %+v, %v", m.Lease, got, err)
		}
	}
	errs, err := c.Archive(t.Context(), again[0].Lease, again[1].Lease)
	if errors.Join(append(errs, err)...) != nil {
		t.Error(errs, err)
	}
}

// retry calls again while the database is not back.
func retry[T any](t *testing.T, call func() (T, error)) T {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := call()
		if err == nil {
			return got
		}
		if !errors.Is(err, store.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The server ends every connection, and stops: each call fails with
// ErrUnavailable, and works again when the server is back.
func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t, pgtest.Fast())
	opened, err := Open(t.Context(), Config{DSN: cluster.DSN(), ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*Store)
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	c := newConsumer(t, s, "q")
	enqueue(t, s, "q", 2)

	woken := make(chan string, 100)
	listening := make(chan error, 1)
	go func() {
		listening <- s.Listen(t.Context(), func(q string) {
			select {
			case woken <- q:
			default:
			}
		})
	}()
	if q := <-woken; q != "" {
		t.Errorf("the first wake-up is of %q", q)
	}
	other := openOther(t, cluster)
	if _, err := other.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
		where pid <> pg_backend_pid() and application_name = 'pgqrsd'`); err != nil {
		t.Fatal(err)
	}
	if err := <-listening; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("listening ended with %v", err)
	}
	got := retry(t, func() ([]store.LeasedMessage, error) { return c.Dequeue(t.Context(), 1, time.Hour) })
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}

	cluster.StopImmediate()
	for name, call := range map[string]func() error{
		"ping":    func() error { return s.Ping(t.Context()) },
		"dequeue": func() error { _, err := c.Dequeue(t.Context(), 1, time.Hour); return err },
		"settle":  func() error { _, err := c.Archive(t.Context(), got[0].Lease); return err },
		"listen":  func() error { return s.Listen(t.Context(), func(string) {}) },
		"enqueue": func() error {
			_, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}})
			return err
		},
	} {
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s while the server is stopped: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a call that was given up: %v", err)
	}
	cluster.Start()
	retry(t, func() (struct{}, error) { return struct{}{}, s.Ping(t.Context()) })
}

func openOther(t *testing.T, cluster *pgtest.Cluster) *Store {
	t.Helper()
	dsn := cluster.DSN() + "&application_name=other"
	s, err := Open(t.Context(), Config{DSN: dsn, PoolSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*Store)
}
