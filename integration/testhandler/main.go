// Command testhandler is the handler that the integration tests run. What a job
// does stands in its payload; when it began and ended goes to a journal file,
// so that a test knows the truth without asking the daemon.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

// job is the payload.
type job struct {
	N int `json:"n"`
	// Gate names a file in GATES that must exist before the job goes on.
	Gate string `json:"gate"`
	// Ignore makes the job deaf to its context.
	Ignore bool `json:"ignore"`
	// Fail, Discard and Snooze end the job that way, at its first attempt only.
	Fail    string `json:"fail"`
	Discard string `json:"discard"`
	Panic   string `json:"panic"`
	// Kill makes the process kill itself, at the first attempt only.
	Kill bool `json:"kill"`
	// Follow puts a follow-up on this queue.
	Follow string `json:"follow"`
	// Print writes so many bytes on one line of stdout.
	Print int `json:"print"`
	// Raw is returned as the output as it stands.
	Raw string `json:"raw"`
	// Env names a variable whose value is the output.
	Env string `json:"env"`
}

func main() {
	var served []handlers.Option
	for _, queue := range strings.Split(envOr("QUEUES", "work"), ",") {
		served = append(served, handlers.Handle(queue, work))
	}
	handlers.Serve(served...)
}

func envOr(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

func work(ctx context.Context, in job) (json.RawMessage, error) {
	info := handlers.Info(ctx)
	if err := journal("start", info.ID, info.Attempt); err != nil {
		return nil, err
	}
	handlers.Logger(ctx).Debug("working", "n", in.N)
	first := info.Attempt == 1
	if in.Print > 0 {
		fmt.Println(strings.Repeat("x", in.Print))
	}
	if in.Kill && first {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if in.Gate != "" {
		if err := waitForGate(ctx, in); err != nil {
			return nil, errors.Join(err, journal("cancelled", info.ID, info.Attempt))
		}
	}
	if in.Panic != "" && first {
		panic(in.Panic)
	}
	if in.Fail != "" && first {
		return nil, handlers.Retry(errors.New(in.Fail), 0)
	}
	if in.Discard != "" {
		return nil, handlers.Discard(errors.New(in.Discard))
	}
	if in.Follow != "" {
		if err := handlers.Enqueue(ctx, in.Follow, map[string]int{"n": in.N}); err != nil {
			return nil, err
		}
	}
	if err := journal("end", info.ID, info.Attempt); err != nil {
		return nil, err
	}
	if in.Raw != "" {
		return json.RawMessage(in.Raw), nil
	}
	if in.Env != "" {
		return json.Marshal(os.Getenv(in.Env))
	}
	return json.Marshal(map[string]int{"n": in.N})
}

// waitForGate polls for the gate's file: the tests make it when they have seen
// what they waited for.
func waitForGate(ctx context.Context, in job) error {
	gate := filepath.Join(os.Getenv("GATES"), in.Gate)
	done := ctx.Done()
	if in.Ignore {
		done = nil
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(gate); err == nil {
			return nil
		}
		select {
		case <-done:
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// journal appends one line; O_APPEND keeps lines of many jobs whole.
func journal(event string, id int64, attempt int) error {
	f, err := os.OpenFile(os.Getenv("JOURNAL"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d %d %d\n", event, id, attempt, os.Getpid())
	return errors.Join(err, f.Close())
}
