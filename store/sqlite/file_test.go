package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

func open(t *testing.T, cfg sqlite.Config) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func installed(t *testing.T, cfg sqlite.Config) store.Store {
	t.Helper()
	s := open(t, cfg)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// raw opens the file behind the store's back, as another program would.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func execute(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestPathFromDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"sqlite:pgqrs.db":             "pgqrs.db",
		"sqlite:./a b/pgqrs.db":       "./a b/pgqrs.db",
		"sqlite:/var/lib/pgqrs.db":    "/var/lib/pgqrs.db",
		"sqlite:///var/lib/pgqrs.db":  "/var/lib/pgqrs.db",
		"sqlite://pgqrs.db":           "pgqrs.db",
		"sqlite:what?mode=memory#100": "what?mode=memory#100",
	} {
		got, err := sqlite.PathFromDSN(dsn)
		if err != nil || got != want {
			t.Errorf("path of %s is %q, %v; want %q", dsn, got, err, want)
		}
	}
	for _, dsn := range []string{"", "pgqrs.db", "sqlite", "sqlite:", "sqlite://", "sqlite::memory:", "postgres://h/d", "sqlite:a\x00b"} {
		if got, err := sqlite.PathFromDSN(dsn); !errors.Is(err, store.ErrDSN) {
			t.Errorf("path of %q is %q, %v; want %v", dsn, got, err, store.ErrDSN)
		}
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, MustExist: true})
	if !errors.Is(err, store.ErrNotInstalled) {
		t.Fatalf("open of a missing file: %v, want %v", err, store.ErrNotInstalled)
	}
	for _, part := range []string{path, "pgqrsd run", "pgqrsd install"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %s", err, part)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the refused open left a file: %v", err)
	}
	installed(t, sqlite.Config{Path: path})
	if err := open(t, sqlite.Config{Path: path, MustExist: true}).Verify(t.Context()); err != nil {
		t.Errorf("verify of the file that was created: %v", err)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	installed(t, sqlite.Config{Path: filepath.Join(dir, "pgqrs.db")})
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", f.Name(), info.Mode().Perm())
		}
		seen[f.Name()] = true
	}
	if !seen["pgqrs.db"] || !seen["pgqrs.db-wal"] {
		t.Errorf("the files are %v, want pgqrs.db and pgqrs.db-wal among them", seen)
	}
}

// A path is a path, whatever SQLite's own names for files would make of it.
func TestStrangePaths(t *testing.T) {
	for _, name := range []string{"a b?mode=memory#x%20.db", ":memory:", "file:x", "ünï.db"} {
		dir := t.TempDir()
		installed(t, sqlite.Config{Path: filepath.Join(dir, name)})
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%q: %v, %v; want a database file", name, info, err)
		}
	}
}

func TestWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		text:                                store.ErrDSN,
		dir:                                 store.ErrDSN,
		filepath.Join(dir, "none", "x.db"):  store.ErrUnavailable,
		filepath.Join(text, "under-a-file"): store.ErrUnavailable,
		"":                                  store.ErrDSN,
	} {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
		if !errors.Is(err, want) {
			t.Errorf("open of %q: %v, want %v", path, err, want)
		}
		if err == nil {
			_ = s.Close()
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("error %q does not name %s", err, path)
		}
	}
}

func TestNotInstalled(t *testing.T) {
	s := open(t, sqlite.Config{Path: filepath.Join(t.TempDir(), "empty.db")})
	calls := map[string]func() error{
		"verify": func() error { return s.Verify(t.Context()) },
		"admin":  func() error { _, err := s.Admin(t.Context(), store.WorkerOptions{}); return err },
		"list":   func() error { _, err := s.Queues().List(t.Context(), store.Page{}); return err },
	}
	for name, call := range calls {
		err := call()
		if !errors.Is(err, store.ErrNotInstalled) || !strings.Contains(err.Error(), "pgqrsd install") {
			t.Errorf("%s: %v, want %v and the command that installs", name, err, store.ErrNotInstalled)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path})
	execute(t, raw(t, path), `INSERT INTO schema_versions (version_id, is_applied) VALUES (99, 1)`)
	for name, err := range map[string]error{"install": s.Install(t.Context()), "verify": s.Verify(t.Context())} {
		newer, is := errors.AsType[*store.SchemaVersionError](err)
		if !is || newer.Have != 99 || newer.Want != 1 {
			t.Errorf("%s over a newer schema: %v", name, err)
		}
	}
}

// Handles of one process lock each other out as processes do: SQLite's locks
// are the file's, and so are ours.
func TestInstallAtTheSameTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	var all sync.WaitGroup
	for range 6 {
		s := open(t, sqlite.Config{Path: path})
		all.Go(func() {
			if err := s.Install(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := open(t, sqlite.Config{Path: path, MustExist: true})
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".install"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock file of the installation is still there: %v", err)
	}
}

func TestLockForRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	release, err := sqlite.LockForRun(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.LockForRun(path)
	var running *sqlite.RunningError
	if !errors.As(err, &running) || running.PID != os.Getpid() || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("second lock: %v, want a *RunningError with the process that holds it", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = sqlite.LockForRun(path)
	if err != nil {
		t.Fatalf("lock after its release: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	path := filepath.Join(dir, "pgqrs.db")
	_, locking := sqlite.LockForRun(path)
	_, opening := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	for _, err := range []error{locking, opening} {
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), path+": the directory "+dir+" does not exist; create it") {
			t.Errorf("error is %v", err)
		}
	}
}

// TestAnotherProcessWrites holds the write lock as the command line would.
func TestAnotherProcessWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path, StatementTimeout: 200 * time.Millisecond})
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	put := func(ctx context.Context, s store.Store) error {
		_, err := s.Messages().Insert(ctx, []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}})
		return err
	}
	other := raw(t, path)
	execute(t, other, "BEGIN IMMEDIATE")

	if err := put(t.Context(), s); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("write while another holds the lock: %v, want %v", err, store.ErrUnavailable)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := put(cancelled, s); !errors.Is(err, context.Canceled) {
		t.Errorf("write by a cancelled caller: %v, want %v", err, context.Canceled)
	}
	if n, err := s.Messages().Count(t.Context(), store.MessageFilter{Queue: "q"}); err != nil || n != 0 {
		t.Errorf("read while another holds the lock: %d, %v; want 0", n, err)
	}

	patient := open(t, sqlite.Config{Path: path})
	done := make(chan error, 1)
	go func() { done <- put(t.Context(), patient) }()
	execute(t, other, "COMMIT")
	if err := <-done; err != nil {
		t.Errorf("write that waited for the lock: %v", err)
	}
	if err := put(t.Context(), s); err != nil {
		t.Errorf("write after the lock was free: %v", err)
	}
}

// A claim is not flushed, and a crash of the machine may lose it: the writes
// under it find their lease lost, and the message can be leased again.
func TestLostClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path})
	ctx := t.Context()
	if _, err := s.Queues().Insert(ctx, "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Messages().Insert(ctx, []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Consumer(ctx, "q", store.WorkerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	take := func() store.LeasedMessage {
		t.Helper()
		got, err := c.Dequeue(ctx, 10, time.Minute)
		if err != nil || len(got) != 1 {
			t.Fatalf("dequeue: %v, %v; want one message", got, err)
		}
		return got[0]
	}
	first := take()
	other := raw(t, path)
	execute(t, other, "INSERT INTO ready SELECT l.queue_id, m.priority, m.id, l.ready_at FROM leases l JOIN messages m ON m.id = l.message_id")
	execute(t, other, "DELETE FROM leases")
	execute(t, other, "DELETE FROM claims")
	second := take()
	if second.ID != first.ID || second.Lease == first.Lease {
		t.Fatalf("leases %+v and %+v, want the same message under another fence", first.Lease, second.Lease)
	}
	for lease, want := range map[store.Lease]error{first.Lease: store.ErrLeaseLost, second.Lease: nil} {
		errs, err := c.Archive(ctx, lease)
		if err != nil || !errors.Is(errs[0], want) {
			t.Errorf("settle under %+v: %v, %v; want %v", lease, errs, err, want)
		}
	}
}

// Ids are never used again, not even after everything was deleted.
func TestIDsAreNeverReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path})
	ctx := t.Context()
	last := map[string]int64{}
	for range 3 {
		q, err := s.Queues().Insert(ctx, "q", store.QueuePolicy{})
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.Messages().Insert(ctx, []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Producer(ctx, store.ProducerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for what, id := range map[string]int64{"queue": q.ID, "message": ids[0], "worker": p.ID()} {
			if id <= last[what] {
				t.Errorf("%s id %d follows %d", what, id, last[what])
			}
			last[what] = id
		}
		if err := p.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Queues().Delete(ctx, "q", true); err != nil {
			t.Fatal(err)
		}
	}
}

// What is written to a file that is deleted or replaced would be lost, so
// nothing is acknowledged any more.
func TestFileGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, sqlite.Config{Path: path})
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.WriteFile(path, nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}})
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("enqueue into a file that is gone: %v, want ErrUnavailable", err)
		}
		if err := s.Ping(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("ping of a file that is gone: %v, want ErrUnavailable", err)
		}
	}
}
