package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The limits of the daemon's process.
const (
	readyTime = 60 * time.Second
	stopTime  = 30 * time.Second // after SIGTERM, before SIGKILL
	goneTime  = 5 * time.Second  // of the handlers, after the daemon
)

// process is the daemon's, with its handlers'.
type process struct {
	cmd      *exec.Cmd
	input    io.Closer // its end tells the process that we are gone
	log      *tail
	answer   chan ready
	exited   chan struct{}
	err      error // of Wait, once exited
	handlers []int
	*metrics
}

// startDaemon starts the process and waits for nothing.
func startDaemon(sp spec) (*process, error) {
	p := &process{log: &tail{}, answer: make(chan ready, 1), exited: make(chan struct{})}
	p.cmd = exec.Command(sp.Executable, DaemonCommand)
	p.cmd.Env = childEnv(os.Environ())
	p.cmd.Stderr = p.log
	// Ctrl-C in a terminal is for the bench, which ends the daemon in good order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	p.input = input
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	go p.wait(output)
	if err := json.NewEncoder(input).Encode(sp); err != nil {
		return nil, errors.Join(p.died(fmt.Errorf("tell the daemon what to do: %w", err)), p.stop())
	}
	return p, nil
}

// wait takes the process's answer and its end.
func (p *process) wait(output io.Reader) {
	defer close(p.exited)
	lines := bufio.NewReader(output)
	var r ready
	if line, err := lines.ReadBytes('\n'); err == nil && json.Unmarshal(line, &r) == nil {
		p.answer <- r
	}
	_, _ = io.Copy(io.Discard, lines)
	p.err = p.cmd.Wait()
}

// ready waits until the daemon serves the queues with so many handlers.
func (p *process) ready(ctx context.Context, handlers int) error {
	timeout := time.NewTimer(readyTime)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.exited:
		return p.died(nil)
	case <-timeout.C:
		return p.died(fmt.Errorf("the daemon was not ready within %s", readyTime))
	case r := <-p.answer:
		p.metrics = newMetrics(r.HTTP)
	}
	var err error
	if p.handlers, err = children(p.cmd.Process.Pid); err != nil {
		return err
	}
	if len(p.handlers) != handlers {
		return p.died(fmt.Errorf("the daemon has %d handler processes, not %d", len(p.handlers), handlers))
	}
	return nil
}

// died is err, or the process's end, with what it logged.
func (p *process) died(err error) error {
	if err == nil {
		err = errors.New("the daemon ended by itself")
		if p.err != nil {
			err = fmt.Errorf("the daemon ended by itself: %w", p.err)
		}
	}
	if log := p.log.text(); log != "" {
		return fmt.Errorf("%w; its log ends with:\n%s", err, log)
	}
	return err
}

// stop ends the process and waits until its handlers are gone too.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timeout := time.NewTimer(stopTime)
	defer timeout.Stop()
	var err error
	select {
	case <-p.exited:
		if p.err != nil {
			err = p.died(fmt.Errorf("stop the daemon: %w", p.err))
		}
	case <-timeout.C:
		err = p.died(fmt.Errorf("the daemon did not stop within %s of SIGTERM and was killed", stopTime))
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	_ = p.input.Close()
	return errors.Join(err, p.handlersGone())
}

// handlersGone waits for the handlers' end, which the daemon has waited for
// unless it was killed.
func (p *process) handlersGone() error {
	deadline := time.Now().Add(goneTime)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, pid := range p.handlers {
		for alive(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("%w: handler process %d did not end with its daemon", errLeft, pid)
			}
			<-tick.C
		}
	}
	return nil
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	end []byte
}

const tailBytes = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if extra := len(t.end) - tailBytes; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
