package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// childArgument makes this program run one contender in a process of its own.
const childArgument = "child"

// A task is what a child process is told on its standard input, for a DSN may
// hold a password and is no argument. The child prints its figures as JSON.
type task struct {
	Kind     string        `json:"kind"`
	DSN      string        `json:"dsn,omitempty"`
	File     string        `json:"file,omitempty"` // of SQLite
	Messages int           `json:"messages"`
	Batch    int           `json:"batch,omitempty"`
	Steps    int           `json:"steps,omitempty"` // of each workflow
	Every    time.Duration `json:"every,omitempty"` // between messages
}

// The kinds of task.
const (
	kindBare         = "bare"
	kindEnqueue      = "enqueue"
	kindRiver        = "river"
	kindRiverSQLite  = "river-sqlite"
	kindRiverEnqueue = "river-enqueue"
	kindRiverLatency = "river-latency"
	kindDBOS         = "dbos"
	kindDBOSAlone    = "dbos-alone"
	kindDBOSQueue    = "dbos-queue"
	kindCommit       = "commit"
)

func runChild(ctx context.Context, in io.Reader, out io.Writer) error {
	var t task
	if err := json.NewDecoder(in).Decode(&t); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	kinds := map[string]func(context.Context, task) (figures, error){
		kindBare:         bareLoop,
		kindEnqueue:      enqueueBatches,
		kindRiver:        riverDrain,
		kindRiverSQLite:  riverSQLiteDrain,
		kindRiverEnqueue: riverEnqueueBatches,
		kindRiverLatency: riverLatency,
		kindDBOS:         dbosStart,
		kindDBOSAlone:    dbosAlone,
		kindDBOSQueue:    dbosDrain,
		kindCommit:       bareCommits,
	}
	measure, ok := kinds[t.Kind]
	if !ok {
		return fmt.Errorf("no contender %q", t.Kind)
	}
	f, err := measure(ctx, t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Kind, err)
	}
	return json.NewEncoder(out).Encode(f)
}

// child runs a task in a process of its own, and cleans up after it.
func (l *lab) child(ctx context.Context, t task) (figures, error) {
	return cleanly(ctx, l.dsn, func() (figures, error) {
		in, err := json.Marshal(t)
		if err != nil {
			return nil, err
		}
		cmd := command(ctx, l.self, childArgument)
		cmd.Stdin = bytes.NewReader(in)
		out, err := output(cmd)
		if err != nil {
			return nil, err
		}
		var f figures
		if err := json.Unmarshal(out, &f); err != nil {
			return nil, fmt.Errorf("read what %s measured: %w", t.Kind, err)
		}
		return f, nil
	})
}

// command is one that gets SIGTERM when ctx ends, and time to clean up.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// output runs cmd and returns what it printed. What it said on stderr is its
// error's text.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, commandError(cmd, err, said.Bytes())
	}
	return out.Bytes(), nil
}

func commandError(cmd *exec.Cmd, err error, said []byte) error {
	var exit *exec.ExitError
	if last := lastLines(said, 10); errors.As(err, &exit) && last != "" {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, last)
	}
	return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
