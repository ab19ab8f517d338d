package host

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// hostEnv makes the test binary a host that is going to be killed.
const hostEnv = "HOST_TEST_HOST"

// runHostToBeKilled prints a line for each serving handler whenever something
// has changed.
func runHostToBeKilled(dir string) {
	var h *Host
	h, err := New(Config{
		Dir: dir, StateDir: filepath.Join(dir, ".state"), ScanInterval: 50 * time.Millisecond,
		PingInterval: 50 * time.Millisecond, PingTimeout: 300 * time.Millisecond,
		OnChange: func() {
			for _, s := range h.Status() {
				fmt.Println(s.Name, s.State, s.PID)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = h.Run(context.Background())
}

// victim is such a host in a process of its own.
type victim struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startVictim(t *testing.T, queues ...string) *victim {
	t.Helper()
	v := &victim{t: t, dir: t.TempDir()}
	for _, q := range queues {
		v.put(q)
	}
	self, err := os.Executable()
	must(t, err)
	v.cmd = exec.Command(self)
	v.cmd.Env = append(os.Environ(), hostEnv+"="+v.dir)
	v.cmd.Stderr = os.Stderr
	stdout, err := v.cmd.StdoutPipe()
	must(t, err)
	v.lines = bufio.NewScanner(stdout)
	must(t, v.cmd.Start())
	t.Cleanup(v.bury)
	return v
}

func (v *victim) put(queue string) {
	v.t.Helper()
	must(v.t, os.WriteFile(filepath.Join(v.dir, queue), []byte(fakeConfig{Queues: []string{queue}}.script(v.t)), 0o755))
}

// bury kills the host and removes what it left, as its next life does.
func (v *victim) bury() {
	_, _ = v.cmd.Process.Kill(), v.cmd.Wait()
	next, err := New(Config{StateDir: filepath.Join(v.dir, ".state")})
	if err != nil {
		v.t.Error(err)
		return
	}
	_ = os.RemoveAll(next.launcher.sockets)
}

// serving waits until a handler serves and returns its process.
func (v *victim) serving(name string) int {
	v.t.Helper()
	for v.lines.Scan() {
		var got string
		var state State
		var pid int
		if _, err := fmt.Sscan(v.lines.Text(), &got, &state, &pid); err != nil {
			v.t.Fatalf("the host says %q", v.lines.Text())
		}
		if got == name && state == Serving {
			return pid
		}
	}
	v.t.Fatalf("the host ended before %s served", name)
	return 0
}

// A host that is SIGKILLed leaves no handler behind: the kernel kills what one
// thread of it forked, and a handler that reads its lifeline goes by itself.
func TestHandlersDieWithTheirHost(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "terminated": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			v := startVictim(t, "a", "b")
			pids := []int{v.serving("a"), v.serving("b")}
			must(t, v.cmd.Process.Signal(sig))
			for _, pid := range pids {
				untilTrue(t, "the handler to die", func() bool { return !alive(pid) })
			}
		})
	}
}

// A host that was stopped for longer than its handlers may be silent does not
// take its own absence for theirs.
func TestStoppedHostKeepsItsHandlers(t *testing.T) {
	v := startVictim(t, "a")
	pid := v.serving("a")
	must(t, v.cmd.Process.Signal(syscall.SIGSTOP))
	untilTrue(t, "the host to stop", func() bool { return processState(v.cmd.Process.Pid) == "T" })
	<-time.After(900 * time.Millisecond) // three times the limit
	must(t, v.cmd.Process.Signal(syscall.SIGCONT))
	v.put("b")
	v.serving("b") // by then the host has looked after a many times
	if !alive(pid) {
		t.Error("the handler was killed")
	}
}
