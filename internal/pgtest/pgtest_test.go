package pgtest

import (
	"bufio"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(t *testing.T, dsn, from string) int {
	t.Helper()
	var n int
	if err := connect(t, dsn).QueryRow(t.Context(), "select count(*) from "+from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestClusterOutlivesStopsAndCrashes(t *testing.T) {
	c := Start(t, Setting("application_name", "it's"))
	dsn := c.DSN()
	exec1(t, connect(t, c.SocketDSN()), "create table t (a int)")

	for _, stop := range []struct {
		name    string
		how     func()
		crashed bool
	}{
		{"StopFast", c.StopFast, false},
		{"StopImmediate", c.StopImmediate, true},
		{"Kill", c.Kill, true},
	} {
		before := count(t, dsn, "t")
		logged := len(c.Log())
		exec1(t, connect(t, dsn), "insert into t values (1)")
		stop.how()
		if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
			_ = conn.Close(t.Context())
			t.Fatalf("%s: the server still accepts connections", stop.name)
		}
		c.Start()
		if c.DSN() != dsn {
			t.Errorf("%s: DSN changed from %s to %s", stop.name, dsn, c.DSN())
		}
		if n := count(t, dsn, "t"); n != before+1 {
			t.Errorf("%s: %d rows after the restart, want %d", stop.name, n, before+1)
		}
		recovered := strings.Contains(c.Log()[logged:], "automatic recovery in progress")
		if recovered != stop.crashed {
			t.Errorf("%s: recovered from the log: %v, want %v", stop.name, recovered, stop.crashed)
		}
	}
}

func TestClusterIsDurableAndWantsThePassword(t *testing.T) {
	c := Start(t)
	conn := connect(t, c.DSN())
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := conn.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&value); err != nil || value != "on" {
			t.Errorf("%s = %q, %v; want on", name, value, err)
		}
	}
	u, err := url.Parse(c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "wrong")
	if _, err := pgx.Connect(t.Context(), u.String()); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("connect with a wrong password: %v, want SQLSTATE 28P01", err)
	}
}

func TestSchemaIsDropped(t *testing.T) {
	dsn := DSN(t)
	var name string
	t.Run("use a schema/with an odd name", func(t *testing.T) {
		name = Schema(t)
		if other := Schema(t); other == name {
			t.Errorf("two schemas with the same name %s", name)
		}
		exec1(t, connect(t, dsn), "create schema "+name+"; create table "+name+".t (a int)")
	})
	if n := count(t, dsn, "pg_namespace where nspname = '"+name+"'"); n != 0 {
		t.Errorf("schema %s is still there", name)
	}
}

func TestBinDirSaysWhatToType(t *testing.T) {
	t.Setenv("PGQRS_TEST_PG_BINDIR", t.TempDir())
	if _, err := BinDir(); err == nil || !strings.Contains(err.Error(), "PGQRS_TEST_PG_BINDIR") {
		t.Errorf("BinDir: %v, want an error about PGQRS_TEST_PG_BINDIR", err)
	}
	for _, hint := range []string{"scripts/with-postgres.sh", "apt-get install postgresql", "PGQRS_TEST_DSN"} {
		if !strings.Contains(errNoServer.Error(), hint) {
			t.Errorf("the error for no server does not mention %q", hint)
		}
	}
}

// TestKilledProcessLeavesNothing starts a cluster in a second test process
// and ends that with SIGKILL.
func TestKilledProcessLeavesNothing(t *testing.T) {
	const marker = "PGQRS_TEST_PGTEST_CHILD"
	if os.Getenv(marker) != "" {
		c := Start(t, Fast())
		os.Stdout.WriteString("cluster " + c.dir + "\n")
		select {}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if d, ok := strings.CutPrefix(lines.Text(), "cluster "); ok {
			dir = d
			break
		}
	}
	if dir == "" {
		t.Fatalf("the second process started no cluster: %v", cmd.Wait())
	}
	pid, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	proc := "/proc/" + first
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	deadline := time.After(time.Minute)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for _, path := range []string{dir, proc} {
		for {
			if _, err := os.Stat(path); os.IsNotExist(err) {
				break
			}
			select {
			case <-deadline:
				t.Fatalf("%s is still there", path)
			case <-look.C:
			}
		}
	}
}
