package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
)

// yard is a database of a test's own and a directory for temporary files, in
// which benches run.
type yard struct {
	t    *testing.T
	dsn  string
	tmp  string
	conn *pgx.Conn // nil on SQLite
}

func onYards(t *testing.T, test func(t *testing.T, y *yard)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		y := newYard(t)
		y.dsn = "sqlite:" + filepath.Join(y.tmp, "prod.db")
		test(t, y)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgresYard(t))
	})
}

func newYard(t *testing.T) *yard {
	t.Helper()
	return &yard{t: t, tmp: t.TempDir()}
}

func postgresYard(t *testing.T) *yard {
	t.Helper()
	y := newYard(t)
	connect := func(dsn string) *pgx.Conn {
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), dsn)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		return conn
	}
	run := func(conn *pgx.Conn, sql string) {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), sql)
		must(t, err)
	}
	admin := connect(pgtest.DSN(t))
	name := fmt.Sprintf("bench_%d_%d", os.Getpid(), time.Now().UnixNano())
	run(admin, "create database "+name)
	t.Cleanup(func() { run(admin, "drop database "+name+" with (force)") })
	u, err := url.Parse(pgtest.DSN(t))
	must(t, err)
	u.Path = "/" + name
	y.dsn = u.String()
	y.conn = connect(y.dsn)
	return y
}

// scratches lists the directories and schemas of benches.
func (y *yard) scratches() []string {
	y.t.Helper()
	found, err := filepath.Glob(filepath.Join(y.tmp, "pgqrsd-*"))
	must(y.t, err)
	if y.conn != nil {
		rows, err := y.conn.Query(y.t.Context(), "select nspname from pg_namespace where nspname ~ '^pgqrs' order by 1")
		must(y.t, err)
		schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(y.t, err)
		found = append(found, schemas...)
	}
	return found
}

// eventually waits until what holds.
func (y *yard) eventually(what string, holds func() bool) {
	y.t.Helper()
	eventually(y.t, what, holds, func() string { return "" })
}

// benching is a running `pgqrsd bench`.
type benching struct {
	y      *yard
	cmd    *exec.Cmd
	out    bytes.Buffer // until it exited, nobody else's
	err    lockedBuffer
	exited chan struct{}
}

// bench starts a bench. The DSN goes by the environment, as a password should.
func (y *yard) bench(args ...string) *benching {
	y.t.Helper()
	return y.benchUnder(filepath.Join(bin, "pgqrsd"), append([]string{"-o", "json", "bench"}, args...)...)
}

// benchUnder starts a bench by another command.
func (y *yard) benchUnder(command string, args ...string) *benching {
	y.t.Helper()
	b := &benching{y: y, exited: make(chan struct{})}
	b.cmd = exec.Command(command, args...)
	b.cmd.Env = append(baseEnv(), "PGQRS_DSN="+y.dsn, "TMPDIR="+y.tmp)
	b.cmd.Dir = y.tmp
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.err
	must(y.t, b.cmd.Start())
	go func() {
		_ = b.cmd.Wait() // its status is in cmd.ProcessState
		close(b.exited)
	}()
	y.t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		<-b.exited
	})
	return b
}

// status waits for the end.
func (b *benching) status() int {
	b.y.t.Helper()
	select {
	case <-b.exited:
	case <-time.After(deadline):
		b.y.t.Fatal("the bench does not end")
	}
	return b.cmd.ProcessState.ExitCode()
}

// processes waits until the daemon and a handler run, and returns their ids.
func (b *benching) processes() []int {
	b.y.t.Helper()
	var all []int
	b.y.eventually("the bench to start a daemon, and that a handler", func() bool {
		select {
		case <-b.exited:
			b.y.t.Fatalf("the bench ended:\n%s", b.err.String())
		default:
		}
		all = nil
		for _, daemon := range childrenOf(b.y.t, b.cmd.Process.Pid) {
			if handlers := childrenOf(b.y.t, daemon); len(handlers) > 0 {
				all = append(append(all, daemon), handlers...)
			}
		}
		return len(all) > 1
	})
	return all
}

// measuring waits until a steady bench measures, and returns the processes that
// it measures. Before that it starts a handler that dies again, and a first child
// of a Go program may be the runtime's own, which looks at what clone can do.
func (b *benching) measuring() []int {
	b.y.t.Helper()
	b.y.eventually("the bench to measure", func() bool { return strings.Contains(b.err.String(), " enqueued, ") })
	return b.processes()
}

// gone waits until none of these processes runs.
func (y *yard) gone(pids []int) {
	y.t.Helper()
	y.eventually("the bench's processes to be gone", func() bool { return !slices.ContainsFunc(pids, alive) })
}

func TestBenchMeasures(t *testing.T) {
	t.Parallel()
	onYards(t, func(t *testing.T, y *yard) {
		b := y.bench("--queue-size", "2000", "--handlers", "2", "--archived", "100")
		if code := b.status(); code != 0 {
			t.Fatalf("status %d:\n%s", code, b.err.String())
		}
		var r struct {
			Mode          string  `json:"mode"`
			Backend       string  `json:"backend"`
			Messages      int     `json:"messages"`
			JobsPerSecond float64 `json:"jobs_per_second"`
			Memory        int64   `json:"daemon_peak_memory_bytes"`
			Settings      struct {
				QueueSize int `json:"queue_size"`
				Archived  int `json:"archived"`
			} `json:"settings"`
		}
		must(t, json.Unmarshal(b.out.Bytes(), &r))
		if r.Mode != "drain" || r.Messages != 2000 || r.JobsPerSecond <= 0 || r.Memory <= 0 || r.Settings.QueueSize != 2000 || r.Settings.Archived != 100 {
			t.Errorf("the report is %s", b.out.String())
		}
		if (y.conn != nil) != (r.Backend == "postgres") {
			t.Errorf("the backend is %s", r.Backend)
		}
		if left := y.scratches(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// A signal ends a bench in good order: status 1, the reason, nothing left.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGHUP": syscall.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(sig) { // and so it would be in the bench; one that is caught starts at its default there
				caught := make(chan os.Signal, 1)
				signal.Notify(caught, sig)
				defer signal.Reset(sig)
			}
			onYards(t, func(t *testing.T, y *yard) {
				b := y.bench("steady", "--duration", "1h", "--rate", "50")
				pids := b.processes()
				must(t, b.cmd.Process.Signal(sig))
				if code := b.status(); code != 1 || !strings.Contains(b.err.String(), "interrupted") || b.out.Len() > 0 {
					t.Errorf("status %d, stdout %q, stderr:\n%s", code, b.out.String(), b.err.String())
				}
				if left := y.scratches(); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				for _, pid := range pids {
					if alive(pid) {
						t.Errorf("process %d runs on", pid)
					}
				}
			})
		})
	}
}

// nohup means what it always means.
func TestBenchUnderNohup(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.dsn = "sqlite:" + filepath.Join(y.tmp, "prod.db")
	b := y.benchUnder("nohup", filepath.Join(bin, "pgqrsd"), "-o", "json", "bench", "idle", "--duration", "1s", "--queues", "1")
	b.processes()
	must(t, b.cmd.Process.Signal(syscall.SIGHUP))
	if code := b.status(); code != 0 || !json.Valid(b.out.Bytes()) {
		t.Errorf("status %d, stdout %q, stderr:\n%s", code, b.out.String(), b.err.String())
	}
}

// A schema that cannot be dropped costs no figures: the report is printed, and
// the error names what is left.
func TestBenchPrintsTheReportBesideTheError(t *testing.T) {
	t.Parallel()
	y := postgresYard(t)
	_, err := y.conn.Exec(t.Context(), `
		create function refuse() returns event_trigger language plpgsql as $$ begin raise 'nothing is dropped here'; end $$;
		create event trigger refuse on ddl_command_start when tag in ('DROP SCHEMA') execute function refuse()`)
	must(t, err)
	b := y.bench("--queue-size", "300")
	code, left := b.status(), y.scratches()
	if code != 1 || len(left) != 1 {
		t.Fatalf("status %d, left behind: %v, stderr:\n%s", code, left, b.err.String())
	}
	if !json.Valid(b.out.Bytes()) || !strings.Contains(b.out.String(), `"jobs_per_second"`) {
		t.Errorf("the report is %q", b.out.String())
	}
	if said := b.err.String(); !strings.Contains(said, left[0]) || !strings.Contains(said, "nothing is dropped here") {
		t.Errorf("%s is left, and the error is:\n%s", left[0], said)
	}
}

// What a killed bench leaves, the next one removes; a living one's it leaves.
func TestBenchKilled(t *testing.T) {
	t.Parallel()
	onYards(t, func(t *testing.T, y *yard) {
		killed := y.bench("steady", "--duration", "1h", "--rate", "50")
		pids := killed.processes()
		killed.kill()
		y.gone(pids) // the daemon learns that its bench is gone
		if len(y.scratches()) == 0 {
			t.Fatal("SIGKILL left nothing; this test is about what it leaves")
		}
		living := y.bench("idle", "--duration", "1h", "--queues", "2")
		living.processes()
		held := y.scratches()
		if y.conn != nil && len(held) != 2 || y.conn == nil && len(held) != 1 {
			t.Errorf("beside the living run's scratch there is more: %v", held)
		}
		next := y.bench("--queue-size", "300")
		if code := next.status(); code != 0 {
			t.Fatalf("status %d:\n%s", code, next.err.String())
		}
		if now := y.scratches(); !slices.Equal(now, held) {
			t.Errorf("there is %v, want what the living run has: %v", now, held)
		}
		must(t, living.cmd.Process.Signal(syscall.SIGTERM))
		if code := living.status(); code != 1 {
			t.Errorf("the living run ended with status %d:\n%s", code, living.err.String())
		}
		if left := y.scratches(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func (b *benching) kill() {
	b.y.t.Helper()
	must(b.y.t, b.cmd.Process.Kill())
	b.status()
}

// The password is in no process's arguments, and in the handlers' environment
// neither.
func TestBenchKeepsThePassword(t *testing.T) {
	t.Parallel()
	y := postgresYard(t)
	u, err := url.Parse(y.dsn)
	must(t, err)
	password, ok := u.User.Password()
	if !ok || password == "" { // a server that wants none takes any
		password = "of-this-test-alone"
		y.dsn = withPassword(t, y.dsn, password)
	}
	b := y.bench("steady", "--duration", "1h", "--rate", "50")
	pids := b.measuring()
	for i, pid := range append([]int{b.cmd.Process.Pid}, pids...) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		must(t, err)
		if len(args) == 0 || bytes.Contains(args, []byte(password)) {
			t.Errorf("process %d is called %q", pid, args)
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		must(t, err)
		if i > 0 && bytes.Contains(environ, []byte(password)) {
			t.Errorf("process %d, %q, has the password in its environment", pid, args)
		}
	}
	must(t, b.cmd.Process.Signal(syscall.SIGTERM))
	if code := b.status(); code != 1 || strings.Contains(b.err.String(), password) {
		t.Errorf("status %d:\n%s", code, b.err.String())
	}
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.dsn = "sqlite:" + filepath.Join(y.tmp, "prod.db")
	for says, args := range map[string][]string{
		"--queue-size must be 1 to":              {"--queue-size", "0"},
		"--queue-size":                           {"--queue-size", "many"},
		"has no mode":                            {"fast"},
		"does not know what to do with":          {"drain", "steady"},
		"--rate is for bench steady, not for":    {"--rate", "5"},
		"--backlog is for bench drain, not for":  {"idle", "--backlog", "5"},
		"--retain must be archive or delete":     {"--retain", "keep"},
		"--fail-rate must be a share":            {"steady", "--fail-rate", "2"},
		"--sleep is of use only with":            {"--sleep", "5s"},
		"--duration must be":                     {"steady", "--duration", "1ms"},
		"is not a duration":                      {"steady", "--duration", "soon"},
		"--concurrency must be 1 to 100000, not": {"--concurrency", "100001"},
	} {
		b := y.bench(args...)
		if code := b.status(); code != 2 || !strings.Contains(b.err.String(), says) || b.out.Len() > 0 {
			t.Errorf("%v: status %d, stdout %q, stderr\n%s\nwant status 2 and: %s", args, code, b.out.String(), b.err.String(), says)
		}
	}
	if left := y.scratches(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
