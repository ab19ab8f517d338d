package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// lastWords is how long the output of a dead process is still read. It is at
// its end at once, unless a grandchild that left the process group holds it.
const lastWords = 300 * time.Millisecond

// forker starts processes from one thread that does not exit: the kernel sends
// a child its death signal when the thread that forked it exits, not when the
// whole process does.
type forker struct {
	starts chan func()
	done   chan struct{}
}

func newForker() *forker {
	f := &forker{starts: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for start := range f.starts {
			start()
		}
	}()
	return f
}

// start is cmd.Start. A file that was just written may still be open for
// writing in a child that another thread forked at that moment and that has
// not yet executed its program; that is over soon.
func (f *forker) start(cmd *exec.Cmd) error {
	errs := make(chan error)
	f.starts <- func() { errs <- cmd.Start() }
	return <-errs
}

// close ends the thread. Every child must be dead.
func (f *forker) close() {
	close(f.starts)
	<-f.done
}

// child is one process, in a process group of its own.
type child struct {
	cmd *exec.Cmd
	pid int
	// dead is closed once the process is reaped, its group was killed and its
	// output is read.
	dead chan struct{}
	// exited is closed a little earlier: the process is reaped.
	exited chan struct{}

	mu     sync.Mutex
	reaped bool
	killed bool // by us, before it exited
}

// startChild starts cmd with its output going to the two splitters, which are
// flushed at its end.
func startChild(f *forker, cmd *exec.Cmd, stdout, stderr *lineSplitter) (*child, error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		_, _ = outR.Close(), outW.Close()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	cmd.SysProcAttr = childAttributes()
	err = f.start(cmd)
	_, _ = outW.Close(), errW.Close()
	if err != nil {
		_, _ = outR.Close(), errR.Close()
		return nil, err
	}
	c := &child{cmd: cmd, pid: cmd.Process.Pid, dead: make(chan struct{}), exited: make(chan struct{})}
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(outR, stdout) })
	pumps.Go(func() { pump(errR, stderr) })
	go func() {
		defer close(c.dead)
		c.reap()
		close(c.exited)
		deadline := time.Now().Add(lastWords)
		_, _ = outR.SetReadDeadline(deadline), errR.SetReadDeadline(deadline)
		pumps.Wait()
	}()
	return c, nil
}

func pump(r *os.File, lines *lineSplitter) {
	_, _ = io.Copy(lines, r) // ends with EOF or the deadline; neither is news
	lines.flush()
	_ = r.Close()
}

// kill sends SIGKILL to the process group. It is harmless after the end.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return
	}
	c.killed = true
	c.killGroup()
}

func (c *child) killGroup() { _ = syscall.Kill(-c.pid, syscall.SIGKILL) }

// finish takes the exit status. It is called with mu held.
func (c *child) finish() {
	_ = c.cmd.Wait() // the status is in cmd.ProcessState, and no copying is waited for
	c.reaped = true
}

// selfEnded reports whether the process is gone and was not killed by us.
func (c *child) selfEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reaped && !c.killed
}

// ending says how the process ended, after dead: "exited with status 2".
func (c *child) ending() string {
	state := c.cmd.ProcessState
	if state == nil {
		return "ended"
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%s)", ws.Signal(), ws.Signal())
	}
	return fmt.Sprintf("exited with status %d", state.ExitCode())
}
