package integration

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a running `pgqrsd run`, with systemd's side of the notify socket.
type process struct {
	w      *world
	name   string
	cmd    *exec.Cmd
	notify *notifySocket
	logs   *lockedBuffer
	exited chan struct{}
	err    error // of Wait, once exited
}

// start runs a daemon and waits for READY=1.
func (w *world) start(name string, s settings) *process {
	w.t.Helper()
	p := w.spawn(name, s)
	p.waitFor("READY=1")
	return p
}

// spawn runs a daemon and waits for nothing.
func (w *world) spawn(name string, s settings) *process {
	w.t.Helper()
	return w.spawnConfig(name, w.config(name, s))
}

func (w *world) spawnConfig(name, config string) *process {
	w.t.Helper()
	p := &process{w: w, name: name, notify: listenNotify(w.t), logs: &lockedBuffer{}, exited: make(chan struct{})}
	args := append([]string{"--config", config}, w.globalArgs()...)
	p.cmd = exec.Command(filepath.Join(bin, cmp.Or(w.binary, "pgqrsd")), append(args, "run", "--plugins", filepath.Join(w.dir, "plugins"))...)
	p.cmd.Env = append(baseEnv(), append(w.environ, "NOTIFY_SOCKET="+p.notify.path)...)
	p.cmd.Dir = w.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := p.cmd.StderrPipe()
	must(w.t, err)
	p.cmd.Stdout = p.cmd.Stderr
	must(w.t, p.cmd.Start())
	go p.collect(stderr)
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	return p
}

// collect copies the log, line by line and with the daemon's name, and then
// waits for the process.
func (p *process) collect(r interface{ Read([]byte) (int, error) }) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(p.logs, lines.Text())
		fmt.Fprintln(p.w.logs, p.name, lines.Text())
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

// waitFor waits for a notification, such as READY=1.
func (p *process) waitFor(state string) {
	p.w.t.Helper()
	timeout := time.After(deadline)
	for !p.notify.has(state) {
		select {
		case <-p.notify.news:
		case <-p.exited:
			p.w.t.Fatalf("daemon %s ended before it said %s: %v\n%s", p.name, state, p.err, p.logs.tail(8000))
		case <-timeout:
			p.w.t.Fatalf("daemon %s did not say %s; it said %q", p.name, state, p.notify.all())
		}
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.w.t.Helper()
	must(p.w.t, p.cmd.Process.Signal(sig))
}

// kill is SIGKILL, waited for.
func (p *process) kill() {
	p.w.t.Helper()
	p.signal(syscall.SIGKILL)
	p.wait()
}

// wait waits for the end and returns the exit status, -1 for a signal.
func (p *process) wait() int {
	p.w.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(deadline):
		p.w.t.Fatalf("daemon %s did not end\n%s", p.name, p.logs.tail(8000))
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop is SIGTERM and a clean end.
func (p *process) stop() {
	p.w.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.w.t.Fatalf("daemon %s ended with status %d after SIGTERM\n%s", p.name, code, p.logs.tail(8000))
	}
}

// url is the daemon's HTTP address, as it published it, with a path.
func (p *process) url(path string) string {
	p.w.t.Helper()
	var addr string
	p.w.eventually("the daemon's HTTP address in its log", func() bool {
		m := httpAddr.FindStringSubmatch(p.logs.String())
		if m != nil {
			addr = m[1]
		}
		return m != nil
	})
	return "http://" + addr + path
}

var httpAddr = regexp.MustCompile(`(?i)http[^\n]*?(127\.0\.0\.1:[1-9][0-9]*)`)

func (p *process) get(path string) int {
	p.w.t.Helper()
	resp, err := http.Get(p.url(path))
	must(p.w.t, err)
	must(p.w.t, resp.Body.Close())
	return resp.StatusCode
}

// children lists the live processes that a daemon started, by pid.
func (p *process) children() []int {
	p.w.t.Helper()
	return childrenOf(p.w.t, p.cmd.Process.Pid)
}

// childrenOf lists the processes that a process started, by pid; none if it is
// gone.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	// Children are listed under the thread that forked them.
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	var pids []int
	for _, file := range threads {
		raw, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		must(t, err)
		pids = append(pids, atois(strings.Fields(string(raw)))...)
	}
	return pids
}

func atois(fields []string) []int {
	var out []int
	for _, f := range fields {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
	f := strings.Fields(rest)
	return len(f) > 0 && f[0] != "Z" && f[0] != "X"
}

// notifySocket is what systemd would listen on.
type notifySocket struct {
	path string
	conn *net.UnixConn
	news chan struct{}

	mu   sync.Mutex
	said []string
}

func listenNotify(t *testing.T) *notifySocket {
	t.Helper()
	// A socket's path is at most 108 bytes, and t.TempDir may be longer.
	dir, err := os.MkdirTemp("", "notify")
	must(t, err)
	n := &notifySocket{path: filepath.Join(dir, "s"), news: make(chan struct{}, 1)}
	n.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.read()
	}()
	t.Cleanup(func() {
		_ = n.conn.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return n
}

func (n *notifySocket) read() {
	buf := make([]byte, 64<<10)
	for {
		c, err := n.conn.Read(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		n.said = append(n.said, strings.Split(strings.TrimSpace(string(buf[:c])), "\n")...)
		n.mu.Unlock()
		select {
		case n.news <- struct{}{}:
		default:
		}
	}
}

func (n *notifySocket) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.said...)
}

func (n *notifySocket) has(state string) bool {
	for _, s := range n.all() {
		if s == state {
			return true
		}
	}
	return false
}
