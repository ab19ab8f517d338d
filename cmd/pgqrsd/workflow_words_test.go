package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// contains checks what a text must have and must not have.
func (c *cli) contains(text string, has []string, hasNot ...string) {
	c.Helper()
	for _, want := range has {
		if !strings.Contains(text, want) {
			c.Errorf("%q is not in\n%s", want, text)
		}
	}
	for _, not := range hasNot {
		if strings.Contains(text, not) {
			c.Errorf("%q is in\n%s", not, text)
		}
	}
}

func startFlow(c *cli) string {
	c.Helper()
	return strings.TrimSpace(c.ok("workflow", "create", "flow"))
}

// A variable that a script forgot to set must not start a second run.
func TestEmptyFlagsAreRefused(t *testing.T) {
	c := newCLI(t)
	newFlow(c)
	id := startFlow(c)
	for _, line := range [][]string{
		{"workflow", "create", "flow", "--key", ""}, {"workflow", "send", id, "go", "--key", ""}, {"workflow", "fork", id, "--from", ""},
	} {
		c.fails(exitUsage, []string{line[len(line)-2] + " is empty; leave it out to"}, line...)
	}
	if runs := c.array("workflow", "list"); len(runs) != 1 {
		t.Errorf("the runs are %v", runs)
	}
}

func TestWorkflowRefusals(t *testing.T) {
	c := newCLI(t)
	newFlow(c)
	id := startFlow(c)
	c.fails(exitError, []string{`start workflow "flow": read the input: open /nope`}, "workflow", "create", "flow", "--input", "@/nope")
	c.fails(exitError, []string{`start workflow "flow": input breaks rule json`}, "workflow", "create", "flow", "--input", "{")
	c.fails(exitError, []string{`start workflow "": workflow name is empty`}, "workflow", "create", "")
	c.fails(exitError, []string{"read the payload: open /nope"}, "workflow", "send", id, "go", "--payload", "@/nope")
	c.fails(exitError, []string{fmt.Sprintf("retry run %s: it is queued, and only a failed run can be retried\n", id)}, "workflow", "retry", id)
	c.fails(exitUsage, []string{`--after must be a whole number, not "x"`}, "workflow", "list", "--after", "x")
	c.fails(exitUsage, []string{"--limit: \"99999999999999999999\" is too large"}, "workflow", "list", "--limit", "99999999999999999999")
	c.ok("queue", "create", "jobs")
	job := strings.TrimSpace(c.ok("message", "enqueue", "jobs", "--payload", "1"))
	for _, verb := range []string{"get", "cancel", "pause", "resume", "retry", "fork", "signals", "events", "result"} {
		c.fails(exitError, []string{fmt.Sprintf("message %s is a job, not a run; see `pgqrsd message get %s`", job, job)}, "workflow", verb, job)
	}
	c.fails(exitError, []string{"is a job, not a run"}, "workflow", "send", job, "go")
	c.fails(exitError, []string{"is a job, not a run"}, "workflow", "event", job, "done")
}

// A run that is paused while it runs says so until it stops.
func TestPauseOfARunningRunShows(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		id := startFlow(c)
		lease(c, c.openStore())
		c.contains(c.run("workflow", "pause", id).stderr, []string{"run " + id + " is running and pauses at its next step"})
		if got := c.object("workflow", "pause", id); got["status"] != "running" || got["pausing"] != true {
			c.Errorf("pausing prints %v", got)
		}
		if got := c.object("workflow", "get", id); got["pausing"] != true {
			c.Errorf("get prints %v", got)
		}
		c.contains(c.ok("workflow", "get", id), []string{", and pauses at its next step"})
		c.contains(c.ok("workflow", "list"), []string{", pausing"})
		c.ok("workflow", "cancel", id)
		c.fails(exitError, []string{"it is being cancelled"}, "workflow", "pause", id)
		if got := c.object("workflow", "get", id); got["pausing"] != nil || got["status"] != "cancelling" {
			c.Errorf("get of a run that is being cancelled prints %v", got)
		}
	})
}

// What failed before a run was cancelled is not why it has no result, and
// nothing waits in it any more.
func TestCancelledRunShowsWhy(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		id := startFlow(c)
		s := c.openStore()
		consumer, l := lease(c, s)
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeRetry, Error: "no route"})
		consumer, l = lease(c, s)
		nap := func(name string) store.StepResult {
			return store.StepResult{StepKey: store.StepKey{Name: name}, Kind: store.StepSleep, State: store.StepWaiting, Delay: time.Hour}
		}
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeWait, Steps: []store.StepResult{nap("a/nap"), nap("b/nap")},
			Wait: &store.Wait{Kind: store.WaitSleep, For: "a/nap", Delay: time.Hour}})
		c.contains(c.ok("workflow", "get", id), []string{"waits for the end of sleep a/nap", "and 1 more of its steps wait", "due in"})
		c.ok("workflow", "cancel", id)
		r := c.run("workflow", "result", id)
		c.contains(r.stderr, []string{"was cancelled"}, "no route")
		text := c.ok("workflow", "get", id)
		c.contains(text, []string{"error 1:", "no route", "cancelled"}, "error 0", "due in", "error 2")
		for _, step := range c.object("workflow", "get", id)["steps"].([]any) {
			if s := step.(map[string]any); s["state"] != "cancelled" || s["due_at"] != nil {
				c.Errorf("a step of the cancelled run is %v", s)
			}
		}
	})
}

// The numbers of attempts begin again with a retry, those of the errors do not.
func TestErrorsAreShownInShort(t *testing.T) {
	var errs []store.AttemptError
	for i := range 7 {
		errs = append(errs, store.AttemptError{Attempt: i%3 + 1, At: time.Now(), Error: fmt.Sprintf("panic: %d\n\ngoroutine 1\n\tmain.go:1", i)})
	}
	fields := errorFields(errs)
	var names []string
	for _, f := range fields {
		names = append(names, f[0])
		if strings.Contains(f[1], "\n") || strings.Contains(f[1], "goroutine") {
			t.Errorf("%s shows more than a line: %q", f[0], f[1])
		}
	}
	if want := []string{"error 3", "error 4", "error 5", "error 6", "error 7", "all errors"}; !slices.Equal(names, want) {
		t.Errorf("shown are %q, want %q", names, want)
	}
	if last := fields[4][1]; !strings.HasSuffix(last, "panic: 6 …") || !strings.Contains(fields[5][1], "-o json shows all 7") {
		t.Errorf("the last fields are %q", fields[4:])
	}
	if fields := errorFields(errs[:0]); len(fields) != 0 {
		t.Errorf("no errors are shown as %q", fields)
	}
}
