package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

const waitLimit = 3 * time.Minute

// serveTestHandler is the test binary as a handler: its jobs wait until they
// are cancelled.
func serveTestHandler() {
	handlers.Serve(handlers.Handle("wait", func(ctx context.Context, _ string) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
}

// running is a `pgqrsd run` in a process of its own.
type running struct {
	*cli
	cmd    *exec.Cmd
	config string
	lines  chan string
	exited chan struct{}
	notify *net.UnixConn
}

func startRun(t *testing.T, config string) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgqrsd-run-") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &running{
		cli:    &cli{T: t, global: []string{"--dsn", "sqlite:" + filepath.Join(dir, "test.db")}},
		config: filepath.Join(dir, "config.toml"), lines: make(chan string, 10_000), exited: make(chan struct{}),
	}
	plugins := filepath.Join(dir, "plugins")
	r.must(os.Mkdir(plugins, 0o755))
	self, err := os.Executable()
	r.must(err)
	r.must(os.Symlink(self, filepath.Join(plugins, "waiter")))
	r.configure(config)
	r.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	r.must(err)
	t.Cleanup(func() { _ = r.notify.Close() })

	r.cmd = exec.Command(self, append(r.global, "--config", r.config, "run", "--plugins", "plugins", "--http", "127.0.0.1:0")...)
	r.cmd.Dir = dir
	r.cmd.Env = []string{asPgqrsd + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + dir, "NOTIFY_SOCKET=" + filepath.Join(dir, "notify")}
	stderr, err := r.cmd.StderrPipe()
	r.must(err)
	r.must(r.cmd.Start())
	go func() {
		defer close(r.exited)
		for in := bufio.NewScanner(stderr); in.Scan(); {
			select {
			case r.lines <- in.Text():
			default: // nobody reads so many
			}
		}
		_ = r.cmd.Wait() // the tests look at ProcessState
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.exited
	})
	return r
}

func (r *running) configure(doc string) {
	r.Helper()
	r.must(os.WriteFile(r.config, []byte(doc), 0o600))
}

// logged waits for a line of the log with this text.
func (r *running) logged(text string) {
	r.Helper()
	var seen []string
	limit := time.After(waitLimit)
	for {
		select {
		case line := <-r.lines:
			seen = append(seen, line)
			if strings.Contains(line, text) {
				return
			}
		case <-limit:
			r.Fatalf("the log does not say %q:\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

// notified waits until the process told its service manager something.
func (r *running) notified(text string) {
	r.Helper()
	r.must(r.notify.SetReadDeadline(time.Now().Add(waitLimit)))
	buf := make([]byte, 4096)
	for {
		n, err := r.notify.Read(buf)
		if err != nil {
			r.Fatalf("waiting for %s: %v", text, err)
		}
		if strings.Contains(string(buf[:n]), text) {
			return
		}
	}
}

func (r *running) signal(sig os.Signal) {
	r.Helper()
	r.must(r.cmd.Process.Signal(sig))
}

func (r *running) exit() int {
	r.Helper()
	select {
	case <-r.exited:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(waitLimit):
		r.Fatal("the daemon does not end")
		return 0
	}
}

// leased waits until a worker holds so many messages of the queue.
func (r *running) leased(queue string, n int) {
	r.Helper()
	deadline := time.Now().Add(waitLimit)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		if len(r.array("message", "list", queue, "--state", "leased")) == n {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("%d messages of %s are not leased", n, queue)
		}
	}
}

func TestRunOnAFreshSQLiteFile(t *testing.T) {
	r := startRun(t, "")
	r.notified("READY=1")
	r.ok("message", "enqueue", "wait", "--payload", `"long"`)
	r.leased("wait", 1)
	list := r.array("handler", "list")
	if len(list) != 1 || list[0]["name"] != "waiter" || list[0]["state"] != "serving" || fmt.Sprint(list[0]["queues"]) != "[wait]" || list[0]["error"] != "" {
		t.Errorf("handler list prints %v", list)
	}
	r.fits(r.ok("handler", "list"))
	r.fits(r.ok("worker", "list"))
	r.fits(r.ok("message", "list", "wait"))
	path := strings.TrimPrefix(r.global[1], "sqlite:")
	second := r.run("run", "--http", "")
	want := fmt.Sprintf("pgqrsd: another pgqrsd (process %d) runs on %s; stop it first\n", r.cmd.Process.Pid, path)
	if second.status != exitError || second.stderr != want {
		t.Errorf("a second daemon on the file: status %d, %q, want 1, %q", second.status, second.stderr, want)
	}

	r.signal(syscall.SIGTERM)
	r.signal(syscall.SIGINT) // the job would outlast the drain
	r.notified("STOPPING=1")
	if code := r.exit(); code != exitError {
		t.Errorf("after a second signal the status is %d, want 1", code)
	}
	got := r.array("message", "list", "wait")
	if len(got) != 1 || got[0]["state"] != "ready" || got[0]["attempts"] != 0.0 {
		t.Errorf("the running message became %v", got)
	}
}

// Whoever shut the Admin down still sees what the daemon's handlers are.
func TestHandlerListOfADaemonWithoutAdmin(t *testing.T) {
	r := startRun(t, "[handlers.ghost]\nargs = [\"x\"]\n[handlers.waiter]\n")
	r.must(os.WriteFile(filepath.Join(filepath.Dir(r.config), "plugins", "broken"), []byte("hello\n"), 0o755))
	r.logged("handlers.ghost is configured")
	r.notified("READY=1")
	if path := r.handler("broken", "refused")["path"].(string); !filepath.IsAbs(path) {
		t.Errorf("the path %s is not absolute", path)
	}
	admin := fmt.Sprint(r.array("worker", "list", "--kind", "admin")[0]["id"])
	for _, verb := range []string{"suspend", "shutdown"} {
		r.ok("worker", verb, admin)
		reason := r.handler("broken", "refused")["error"].(string)
		table := r.ok("handler", "list")
		r.fits(table)
		if whole := strings.Join(strings.Fields(table), " "); reason == "" || !strings.Contains(whole, "error: "+reason) {
			t.Errorf("after %s of the admin handler list prints\n%s\nwithout %q", verb, table, reason)
		}
		r.handler("waiter", "serving")
	}
	r.signal(syscall.SIGTERM)
	r.exit()
	if got := r.run("handler", "list"); got.stderr != "no daemon is running on this database\n" {
		t.Errorf("without a daemon handler list gives %+v", got)
	}
}

// handler waits until a handler has a state.
func (r *running) handler(name, state string) map[string]any {
	r.Helper()
	deadline := time.Now().Add(waitLimit)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		list := r.array("handler", "list")
		for _, h := range list {
			if h["name"] == name && h["state"] == state {
				tick.Stop()
				return h
			}
		}
		if time.Now().After(deadline) {
			r.Fatalf("handler %s is not %s: %v", name, state, list)
		}
	}
}

func TestRunStopsGracefully(t *testing.T) {
	r := startRun(t, "[daemon]\ndrain_timeout = \"0s\"\n")
	r.notified("READY=1")
	r.ok("message", "enqueue", "wait", "--payload", `"until cancelled"`)
	r.leased("wait", 1)
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != exitOK {
		t.Errorf("after SIGTERM the status is %d, want 0", code)
	}
	got := r.array("message", "list", "wait")
	if len(got) != 1 || got[0]["state"] != "ready" || got[0]["attempts"] != 0.0 {
		t.Errorf("the cancelled message became %v", got)
	}
}

func TestRunReloads(t *testing.T) {
	r := startRun(t, "")
	r.notified("READY=1")
	r.configure("[daemon]\ndrain_timeout = 5\n")
	r.signal(syscall.SIGHUP)
	r.logged("config.toml:2: daemon.drain_timeout: must be a duration")
	r.configure("[store]\npool_size = 3\n")
	r.signal(syscall.SIGHUP)
	r.logged("[store] cannot change while running")
	r.configure("[log]\nlevel = \"debug\"\n[queues.fresh]\nconcurrency = 2\n")
	r.signal(syscall.SIGHUP)
	r.notified("MONOTONIC_USEC=")
	r.logged("configuration read again")
	deadline := time.Now().Add(waitLimit)
	for tick := time.NewTicker(20 * time.Millisecond); r.run("queue", "get", "fresh").status != exitOK; <-tick.C {
		if time.Now().After(deadline) {
			r.Fatal("the queue of the new configuration is not created")
		}
	}
	r.signal(syscall.SIGTSTP)
	r.logged("quiet")
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != exitOK {
		t.Errorf("the status is %d, want 0", code)
	}
}

func TestHandlerCheck(t *testing.T) {
	c := &cli{T: t}
	self, err := os.Executable()
	c.must(err)
	if got := c.object("handler", "check", self); got["state"] != "serving" || fmt.Sprint(got["queues"]) != "[wait]" {
		t.Errorf("handler check prints %v", got)
	}
	text := filepath.Join(t.TempDir(), "text")
	c.must(os.WriteFile(text, []byte("hello\n"), 0o755))
	for _, path := range []string{text, "/bin/true"} {
		c.fails(exitError, []string{path}, "handler", "check", path)
		if r := c.run("-o", "json", "handler", "check", path); !strings.Contains(r.stdout, `"state": "refused"`) {
			t.Errorf("handler check of %s prints %s", path, r.stdout)
		}
	}
	t.Chdir(filepath.Dir(text))
	table := c.run("handler", "check", "text").stdout
	if !strings.Contains(table, text+"\n") || !strings.Contains(table, "\nerror:") || !strings.Contains(table, "it is no program") {
		t.Errorf("handler check of a relative path prints\n%s", table)
	}
	c.fails(exitError, []string{"/nope"}, "handler", "check", "/nope")
	if _, err := os.Stat("/nope"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("/nope exists")
	}
}
