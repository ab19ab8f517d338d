package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An owner is the account that the server runs as when we are root, as
// PostgreSQL refuses to run as root. A nil owner means our own account.
type owner struct{ uid, gid uint32 }

func findOwner() (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &owner{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("pgtest: root cannot run PostgreSQL, and there is neither a user postgres nor a user nobody")
}

func (o *owner) credential() *syscall.Credential {
	if o == nil {
		return nil
	}
	return &syscall.Credential{Uid: o.uid, Gid: o.gid}
}

func (o *owner) chown(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// makeDir makes the cluster's directory where its owner can reach it and the
// path of the Unix socket in it stays under the kernel's limit of 107 bytes.
func makeDir(o *owner) (string, error) {
	parent := os.TempDir()
	if len(parent) > 60 || (o != nil && !reachable(parent)) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pgtest-")
	if err != nil {
		return "", err
	}
	return dir, o.chown(dir)
}

// reachable says whether any user may walk to dir.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// A server is one run of the cluster's postgres program. It is our own child,
// as pg_ctl's would become a zombie where nobody reaps orphans, and a zombie's
// lock file still counts.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been reaped
}

func (c *Cluster) start() error {
	if c.server != nil {
		return errors.New("pgtest: the server runs already")
	}
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s := &server{
		cmd:  c.command(context.Background(), "postgres", "-D", c.data(), "-p", strconv.Itoa(c.port)),
		done: make(chan struct{}),
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is in its log
		close(s.done)
	}()
	c.server = s

	timeout := time.After(startLimit)
	for !c.ready() {
		select {
		case <-s.done:
			c.server = nil
			err = errors.New("pgtest: the server stopped while it started")
		case <-timeout:
			err = fmt.Errorf("pgtest: the server was not ready after %s", startLimit)
		case <-time.After(5 * time.Millisecond):
			continue
		}
		text, readErr := os.ReadFile(c.logFile())
		return errors.Join(fmt.Errorf("%w; its log:\n%s", err, text), readErr)
	}
	return nil
}

// ready looks where pg_ctl does: the file's first line is the process id, the
// eighth its state.
func (c *Cluster) ready() bool {
	b, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(c.server.cmd.Process.Pid) && strings.TrimSpace(lines[7]) == "ready"
}

func (c *Cluster) stop(sig syscall.Signal) error {
	if c.server == nil {
		return errors.New("pgtest: the server does not run")
	}
	if err := c.server.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("pgtest: signal the server: %w", err)
	}
	select {
	case <-c.server.done:
		c.server = nil
		return nil
	case <-time.After(startLimit):
		return fmt.Errorf("pgtest: the server was still there %s after %s", startLimit, sig)
	}
}

func (c *Cluster) kill() error {
	if c.server == nil {
		return errors.New("pgtest: the server does not run")
	}
	// Stop the postmaster first, so that it starts no process that we miss.
	postmaster := c.server.cmd.Process
	if err := postmaster.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pgtest: stop the server: %w", err)
	}
	pids := children(postmaster.Pid)
	if err := c.stop(syscall.SIGKILL); err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtest: kill process %d: %w", pid, err)
		}
	}
	// They are not our children, so there is nothing to wait on.
	deadline := time.After(10 * time.Second)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for _, pid := range pids {
		for alive(pid) {
			select {
			case <-deadline:
				return fmt.Errorf("pgtest: process %d is still there after SIGKILL", pid)
			case <-look.C:
			}
		}
	}
	return nil
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	var found []int
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // the only error is a bad pattern
	for _, path := range paths {
		if _, ppid := stat(path); ppid == pid {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil {
				found = append(found, child)
			}
		}
	}
	return found
}

// alive says whether the process runs; a zombie does not.
func alive(pid int) bool {
	state, _ := stat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return state != 0 && state != 'Z' && state != 'X'
}

// stat reads state and parent from a process's stat file; 0, 0 if it is gone.
func stat(path string) (state byte, ppid int) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	// The second field is the name in parentheses, which may hold anything.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 {
		return 0, 0
	}
	ppid, err = strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, 0
	}
	return fields[0][0], ppid
}
