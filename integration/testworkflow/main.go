// Command testworkflow is the workflow that the integration tests run. What a
// run does stands in its input; what its code did goes to a journal file, so
// that a test knows the truth without asking the daemon.
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

// op is one thing that a run does.
type op struct {
	// Op is step, sleep, receive, child, event, send or branches.
	Op   string `json:"op"`
	Name string `json:"name"`
	// Gate names a file in GATES that must exist before a step's body goes on.
	Gate string `json:"gate,omitempty"`
	// MS is a sleep's length, a receive's time-out, and the delay of a step's tries.
	MS int `json:"ms,omitempty"`
	// Until is when a sleep ends, Unix milliseconds, instead of MS.
	Until int64 `json:"until,omitempty"`
	// Tries of a step, of which the first Fail ones fail, and the first Die ones
	// kill the process.
	Tries int `json:"tries,omitempty"`
	Fail  int `json:"fail,omitempty"`
	Die   int `json:"die,omitempty"`
	// Timeout of a step's tries, in milliseconds.
	Timeout int `json:"timeout,omitempty"`
	// Deaf makes a step wait for its gate whatever becomes of its ctx.
	Deaf bool `json:"deaf,omitempty"`
	// UnlessFile makes a step fail for good until the file exists in GATES.
	UnlessFile string `json:"unless_file,omitempty"`
	// Run and Payload of a signal to send; Payload of an event.
	Run     int64           `json:"run,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
	// Ops are a child's, or one of each branch.
	Ops []op `json:"ops,omitempty"`
}

// name of the workflow that the tests start.
const name = "flow"

func main() {
	options := []handlers.WorkflowOption{}
	if versions := os.Getenv("CARRIES_ON"); versions != "" {
		options = append(options, handlers.CarriesOn(strings.Split(versions, ",")...))
	}
	handlers.Serve(
		handlers.Workflow(name, flow, options...),
		handlers.Version(os.Getenv("VERSION")),
	)
}

// flow does what its input says and returns what came of each.
func flow(ctx context.Context, ops []op) ([]string, error) {
	if err := journal(ctx, "run", "-"); err != nil {
		return nil, err
	}
	results := []string{}
	for _, o := range ops {
		out, err := o.do(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.Op, o.Name, err)
		}
		if err := journal(ctx, "after", o.Name); err != nil {
			return nil, err
		}
		results = append(results, out)
	}
	return results, nil
}

func (o op) do(ctx context.Context) (string, error) {
	wait := time.Duration(o.MS) * time.Millisecond
	switch o.Op {
	case "step":
		options := []handlers.StepOption{handlers.Tries(max(o.Tries, 1)), handlers.Backoff(wait, wait)}
		if o.Timeout > 0 {
			options = append(options, handlers.StepTimeout(time.Duration(o.Timeout)*time.Millisecond))
		}
		return handlers.Step(ctx, o.Name, o.body, options...)
	case "sleep":
		if o.Until != 0 {
			wait = time.Until(time.UnixMilli(o.Until)) // recorded by the first call
		}
		return "slept", handlers.Sleep(ctx, o.Name, wait)
	case "receive":
		got, err := handlers.Receive[json.RawMessage](ctx, o.Name, wait)
		if errors.Is(err, handlers.ErrTimeout) {
			return "timed out", nil
		}
		return string(got), err
	case "child":
		out, err := handlers.Child[[]string](ctx, o.Name, name, o.Ops)
		var failed *handlers.StepError
		if errors.As(err, &failed) {
			return "failed: " + failed.Reason, nil
		}
		return strings.Join(out, "+"), err
	case "event":
		return "set", handlers.SetEvent(ctx, o.Name, o.Payload)
	case "send":
		return "sent", handlers.Send(ctx, o.Name, o.Run, o.Name, o.Payload)
	case "branches":
		return o.branches(ctx)
	}
	return "", handlers.Discard(fmt.Errorf("no such op %q", o.Op))
}

// branches does each of its ops in a branch of its own, all at once.
func (o op) branches(ctx context.Context) (string, error) {
	outs := make([]string, len(o.Ops))
	g := handlers.NewGroup(ctx)
	for i, b := range o.Ops {
		g.Go(b.Name, func(ctx context.Context) (err error) {
			outs[i], err = b.do(ctx)
			return err
		})
	}
	err := g.Wait()
	return strings.Join(outs, "|"), err
}

// body returns a word that no other run of a body returns.
func (o op) body(ctx context.Context) (string, error) {
	tries, err := o.bodies(ctx)
	if err != nil {
		return "", err
	}
	if err := journal(ctx, "body", o.Name); err != nil {
		return "", err
	}
	if tries < o.Die {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if o.Gate != "" {
		if o.Deaf {
			ctx = context.WithoutCancel(ctx)
		}
		if err := waitForFile(ctx, o.Gate); err != nil {
			return "", err
		}
	}
	if o.UnlessFile != "" && !exists(o.UnlessFile) {
		return "", handlers.Discard(fmt.Errorf("file %s is missing", o.UnlessFile))
	}
	if tries < o.Fail {
		return "", fmt.Errorf("try %d fails", tries+1)
	}
	return fmt.Sprintf("%s-%d-%d", o.Name, os.Getpid(), time.Now().UnixNano()), nil
}

// bodies counts how often this step's body has run before.
func (o op) bodies(ctx context.Context) (int, error) {
	if o.Fail == 0 && o.Die == 0 {
		return 0, nil
	}
	raw, err := os.ReadFile(os.Getenv("JOURNAL"))
	return strings.Count(string(raw), fmt.Sprintf("body %d %s ", handlers.Info(ctx).ID, o.Name)), err
}

func exists(file string) bool {
	_, err := os.Stat(filepath.Join(os.Getenv("GATES"), file))
	return err == nil
}

func waitForFile(ctx context.Context, file string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !exists(file) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// journal appends one line; O_APPEND keeps the lines of many runs whole.
func journal(ctx context.Context, event, step string) error {
	f, err := os.OpenFile(os.Getenv("JOURNAL"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d %s %d\n", event, handlers.Info(ctx).ID, step, time.Now().UnixMicro())
	return errors.Join(err, f.Close())
}
