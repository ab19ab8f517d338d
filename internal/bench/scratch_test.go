package bench

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
)

func (b *bed) open() *scratch {
	b.Helper()
	s, err := openScratch(b.Context(), b.store, func(line string) { b.Errorf("the scratch says: %s", line) })
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// A run removes what a dead one left, and nothing of a living one's.
func TestDeadRunsAreRemoved(t *testing.T) {
	onBackends(t, func(b *bed) {
		living := b.open()
		held := b.scratches()
		dead := b.open()
		abandon(b, dead)
		if n := len(b.scratches()); n != 2*len(held) {
			b.Fatalf("two runs made %v", b.scratches())
		}
		third := b.open()
		if err := third.remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		if now := b.scratches(); !slices.Equal(now, held) {
			b.Errorf("there is %v now, want what the living run has: %v", now, held)
		}
		if err := living.store.Verify(b.Context()); err != nil {
			b.Errorf("the living run lost its tables: %v", err)
		}
		if err := living.remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.clean()
	})
}

// abandon is the end of a run by SIGKILL, as far as others can see it: its
// locks are gone, and all else is there.
func abandon(b *bed, s *scratch) {
	b.Helper()
	if err := errors.Join(s.store.Close(), s.dir.lock.Close()); err != nil {
		b.Fatal(err)
	}
	if pg, ok := s.db.(*postgresSchema); ok {
		pg.close(b.Context())
	}
}

// What only looks like a scratch belongs to somebody else.
func TestOthersAreLeftAlone(t *testing.T) {
	b := postgresBed(t)
	mine := []string{"pgqrsd_bench_0123456789abcdef", "pgqrsd_bench_results", "pgqrsd_benchmarks"}
	for _, name := range mine { // without the comment, or of another form
		runSQL(t, b.conn, "create schema "+name)
	}
	runSQL(t, b.conn, "comment on schema pgqrsd_bench_results is '"+schemaComment+"'")
	target := t.TempDir()
	for path, make := range map[string]func(string) error{
		"pgqrsd-bench-results":          func(path string) error { return os.Mkdir(path, 0o700) },
		"pgqrsd-bench-0123456789abcdef": func(path string) error { return os.Symlink(target, path) },
		"pgqrsd-bench-0123456789abcde0": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		if err := make(filepath.Join(b.tmp, path)); err != nil {
			t.Fatal(err)
		}
	}
	before := b.scratches()
	if err := b.open().remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := b.scratches(); !slices.Equal(before, after) {
		t.Errorf("there was %v, now there is %v", before, after)
	}
	if _, err := os.Stat(target); err != nil {
		t.Error(err)
	}
}

// The transaction that holds the lock must not hold vacuum back, which is what
// --hold-snapshot is for.
func TestTheLockHoldsNoSnapshot(t *testing.T) {
	b := postgresBed(t)
	s := b.open()
	snapshots := func() (n int) {
		t.Helper()
		err := b.conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and state like 'idle%' and coalesce(backend_xmin, backend_xid) is not null`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := snapshots(); n != 0 {
		t.Errorf("%d idle connections hold a snapshot", n)
	}
	release, err := s.db.holdSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := snapshots(); n != 1 {
		t.Errorf("%d idle connections hold a snapshot, want 1", n)
	}
	if err := errors.Join(release(t.Context()), s.remove(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// A user without the right to create schemas learns which one it is.
func TestNoRightToCreate(t *testing.T) {
	b := postgresBed(t)
	role := "bench_" + unique()
	runSQL(t, b.conn, "create role "+role+" login password 'swordfish'")
	t.Cleanup(func() { runSQL(t, connect(t, pgtest.DSN(t)), "drop role "+role) })
	u, err := url.Parse(b.store.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "swordfish")
	b.store.DSN = u.String()
	_, err = b.try(t.Context(), func(*Options) {})
	if err == nil || !strings.Contains(err.Error(), "grant create on database") || strings.Contains(err.Error(), "swordfish") {
		t.Errorf("error is %v, want the statement that helps", err)
	}
	b.clean()
}

// A run that is stopped while it fills leaves nothing.
func TestInterruptedWhileFilling(t *testing.T) {
	onBackends(t, func(b *bed) {
		ctx, cancel := context.WithCancel(b.Context())
		o := DefaultOptions()
		o.QueueSize = 50_000_000
		_, err := Run(ctx, Config{Store: b.store, Options: o, Progress: func(line string) {
			if strings.HasPrefix(line, "enqueueing") {
				cancel()
			}
		}, Say: func(line string) { b.Errorf("the bench says: %s", line) }})
		if !errors.Is(err, ErrInterrupted) {
			b.Errorf("error is %v, want %v", err, ErrInterrupted)
		}
		b.clean()
	})
}

// A connection that a signal broke does not keep the schema from being dropped.
func TestRemoveWithABrokenConnection(t *testing.T) {
	b := postgresBed(t)
	s := b.open()
	pg, ok := s.db.(*postgresSchema)
	if !ok {
		t.Fatalf("the database is a %T", s.db)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pg.conn.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.clean()
}

// The server cuts what lies idle, or is restarted: the figures are there all the
// same, and the schema is not.
func TestConnectionsCutMeanwhile(t *testing.T) {
	for mode, measuring := range map[Mode]string{Drain: "draining", Steady: "enqueued", Idle: "measuring"} {
		t.Run(string(mode), func(t *testing.T) {
			b := postgresBed(t)
			o := DefaultOptions()
			o.Mode, o.QueueSize, o.Duration = mode, 500, time.Second
			cut := 0
			r, err := Run(t.Context(), Config{Store: b.store, Options: o, Progress: func(line string) {
				if cut == 0 && strings.Contains(line, measuring) {
					cut = b.cut()
				}
			}, Say: func(line string) { t.Errorf("the bench says: %s", line) }})
			if err != nil || r == nil {
				t.Fatalf("report %v, error %v", r, err)
			}
			if cut != 2 {
				t.Errorf("%d connections of the bench were cut, want 2", cut)
			}
			b.clean()
		})
	}
}

// cut ends the bench's own connections at the server and returns how many.
func (b *bed) cut() (n int) {
	b.Helper()
	err := b.conn.QueryRow(b.Context(), `select count(*) filter (where pg_terminate_backend(pid, 10000)) from pg_stat_activity
		where datname = current_database() and application_name = 'pgqrsd bench'`).Scan(&n)
	if err != nil {
		b.Error(err) // no Fatal: this is not the test's goroutine
	}
	return n
}

// What is left is told beside the report, and does not take its place.
func TestReportBesideWhatIsLeft(t *testing.T) {
	b := postgresBed(t)
	runSQL(t, b.conn, `create function refuse() returns event_trigger language plpgsql as $$ begin raise 'nothing is dropped here'; end $$`)
	runSQL(t, b.conn, `create event trigger refuse on ddl_command_start when tag in ('DROP SCHEMA') execute function refuse()`)
	r, err := b.try(t.Context(), func(*Options) {})
	if !errors.Is(err, errLeft) || !strings.Contains(err.Error(), "nothing is dropped here") {
		t.Errorf("error is %v", err)
	}
	if r == nil {
		t.Fatal("no report")
	}
	b.works(r, 500)
	runSQL(t, b.conn, "drop event trigger refuse")
	b.run(func(o *Options) { o.QueueSize = 50 }) // removes it
}

// The clocks are one machine's here, so that the difference that is seen between
// them is no more than the time that asking took.
func TestClock(t *testing.T) {
	onBackends(t, func(b *bed) {
		s := b.open()
		began := time.Now()
		ahead, err := s.db.clock(b.Context())
		if took := time.Since(began); err != nil || ahead.Abs() > took {
			b.Errorf("the database's clock is ahead by %s, after %s of asking: %v", ahead, took, err)
		}
		if err := s.remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	})
}
