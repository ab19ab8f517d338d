package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// TestMain makes the test binary be what the bench starts of itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case DaemonCommand:
			if err := ServeDaemon(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		case HandlerCommand:
			ServeHandler(os.Args[2], os.Args[3:])
			return
		}
	}
	os.Exit(m.Run())
}

// bed is a database of a test's own and a directory for temporary files, both
// of which a run must leave as they were.
type bed struct {
	*testing.T
	store anystore.Config
	tmp   string
	conn  *pgx.Conn // nil on SQLite
}

// onBackends runs a test on each backend.
func onBackends(t *testing.T, test func(b *bed)) {
	t.Run("sqlite", func(t *testing.T) { test(sqliteBed(t)) })
	t.Run("postgres", func(t *testing.T) { test(postgresBed(t)) })
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, tmp: t.TempDir()}
	t.Setenv("TMPDIR", b.tmp)
	return b
}

func sqliteBed(t *testing.T) *bed {
	b := newBed(t)
	b.store.DSN = "sqlite:" + filepath.Join(b.tmp, "prod.db")
	return b
}

func postgresBed(t *testing.T) *bed {
	t.Helper()
	b := newBed(t)
	admin := connect(t, pgtest.DSN(t))
	name := "bench_" + unique()
	runSQL(t, admin, "create database "+name)
	t.Cleanup(func() { runSQL(t, admin, "drop database "+name+" with (force)") })
	u, err := url.Parse(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	b.store.DSN = u.String()
	b.conn = connect(t, b.store.DSN)
	return b
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func runSQL(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Fatal(err)
	}
}

// run runs a bench that must succeed and leave nothing.
func (b *bed) run(change func(o *Options)) *Report {
	b.Helper()
	report, err := b.try(b.Context(), change)
	if err != nil {
		b.Fatal(err)
	}
	b.clean()
	return report
}

func (b *bed) try(ctx context.Context, change func(o *Options)) (*Report, error) {
	b.Helper()
	o := DefaultOptions()
	o.QueueSize = 500
	change(&o)
	return Run(ctx, Config{
		Store: b.store, Options: o, Version: "v-test",
		Progress: func(string) {}, Say: func(line string) { b.Errorf("the bench says: %s", line) },
	})
}

// clean checks that no scratch is left, and no process.
func (b *bed) clean() {
	b.Helper()
	if left := b.scratches(); len(left) > 0 {
		b.Errorf("left behind: %v", left)
	}
	pids, err := b.daemons()
	if err != nil {
		b.Fatal(err)
	}
	if len(pids) > 0 {
		b.Errorf("daemons run on: %v", pids)
	}
}

// daemons are the living daemon processes of benches.
func (*bed) daemons() (daemons []int, err error) {
	pids, err := children(os.Getpid())
	for _, pid := range pids {
		if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); alive(pid) && bytes.Contains(args, []byte(DaemonCommand)) {
			daemons = append(daemons, pid)
		}
	}
	return daemons, err
}

// scratches lists directories, and schemas, that runs have made.
func (b *bed) scratches() []string {
	b.Helper()
	left, err := filepath.Glob(filepath.Join(b.tmp, "*bench*"))
	if err != nil {
		b.Fatal(err)
	}
	if b.conn != nil {
		left = append(left, b.schemas()...)
	}
	return left
}

func (b *bed) schemas() []string {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 10*time.Second)
	defer cancel()
	rows, err := b.conn.Query(ctx, "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)' order by 1")
	if err != nil {
		b.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.Fatal(err)
	}
	return names
}
