package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// flow is the workflow of these tests, on a queue of its own.
func newFlow(c *cli) {
	c.Helper()
	c.fails(exitError, []string{`workflow "flow" does not exist`, "pgqrsd queue create flow --kind workflow"}, "workflow", "create", "flow")
	if q := c.object("queue", "create", "flow", "--kind", "workflow"); q["kind"] != "workflow" {
		c.Fatalf("created the queue %v", q)
	}
}

// lease takes the next run of the workflow as a daemon would.
func lease(c *cli, s store.Store) (store.Consumer, store.Lease) {
	c.Helper()
	consumer, err := s.Consumer(c.Context(), "flow", store.WorkerOptions{Name: "test"})
	c.must(err)
	leased, err := consumer.Dequeue(c.Context(), 1, time.Minute)
	c.must(err)
	if len(leased) != 1 {
		c.Fatalf("%d runs are ready, want one", len(leased))
	}
	return consumer, leased[0].Lease
}

func settle(c *cli, consumer store.Consumer, outcomes ...store.Outcome) {
	c.Helper()
	settled, err := consumer.Settle(c.Context(), outcomes)
	c.must(err)
	for _, s := range settled {
		c.must(s.Err)
	}
}

func TestWorkflowCreate(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		file := filepath.Join(c.TempDir(), "in.json")
		c.must(os.WriteFile(file, []byte(`{"a": [1]}`), 0o600))
		first := c.object("workflow", "create", "flow", "--input", "@"+file, "--key", "k")
		if first["created"] != true {
			c.Errorf("created %v", first)
		}
		again := c.run("workflow", "create", "flow", "--input", "@"+file, "--key", "k")
		if again.stdout != fmt.Sprintf("%v\n", first["id"]) || !strings.Contains(again.stderr, `the key "k" before`) {
			c.Errorf("the second start with the key gives %+v", again)
		}
		c.fails(exitError, []string{"key already used with another input"}, "workflow", "create", "flow", "--input", "2", "--key", "k")
		c.fails(exitError, []string{"input", "json"}, "workflow", "create", "flow", "--input", "{oops")
		c.fails(exitError, []string{`workflow "flo" does not exist; did you mean flow?`}, "workflow", "create", "flo")
		c.ok("queue", "create", "jobs")
		c.fails(exitError, []string{"jobs"}, "workflow", "create", "jobs")
		c.fails(exitError, []string{`queue "jobs" is for jobs`}, "workflow", "list", "jobs")
		later := c.ok("workflow", "create", "flow", "--delay", "1h")
		table := c.ok("workflow", "list", "flow")
		c.fits(table)
		if !strings.Contains(table, "queued") || !strings.Contains(table, "waiting") {
			c.Errorf("workflow list prints\n%s", table)
		}
		waiting := c.array("workflow", "list", "--status", "waiting")
		if len(waiting) != 1 || fmt.Sprintf("%v\n", waiting[0]["id"]) != later || waiting[0]["wait"].(map[string]any)["kind"] != "start" {
			c.Errorf("those that wait are %v", waiting)
		}
		c.fails(exitUsage, []string{"--status must be one of queued, running"}, "workflow", "list", "--status", "asleep")
		c.fails(exitError, []string{"has not ended", "--wait"}, "workflow", "result", strings.TrimSpace(later))
		c.fails(exitError, []string{"has not ended within 30ms", "waits for its start"}, "workflow", "result", strings.TrimSpace(later), "--wait", "--timeout", "30ms")
		c.fails(exitError, []string{"not found"}, "workflow", "get", "99999")
		c.fails(exitUsage, []string{"--timeout is for --wait"}, "workflow", "result", "1", "--timeout", "1s")
		c.fails(exitError, []string{"has not set event told", "--wait"}, "workflow", "event", strings.TrimSpace(later), "told")
		c.fails(exitError, []string{"has not set event told", "within 30ms", "waits for its start"}, "workflow", "event", strings.TrimSpace(later), "told", "--wait", "--timeout", "30ms")
	})
}

func TestWorkflowTimeline(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		id := fmt.Sprint(c.object("workflow", "create", "flow", "--input", `{"n": 1}`)["id"])
		consumer, l := lease(c, c.openStore())
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeWait, Version: "v7", Steps: []store.StepResult{
			{StepKey: store.StepKey{Name: "charge"}, Output: []byte(`"C-1"`), Tries: 2, Took: 312 * time.Millisecond},
			{StepKey: store.StepKey{Name: "charge", Occurrence: 1}, Error: "refused\nby the bank", Position: 1},
			{StepKey: store.StepKey{Name: "told"}, Kind: store.StepEvent, Topic: "told", Output: []byte(`[1, 2]`), Position: 2},
			{StepKey: store.StepKey{Name: "approved"}, Kind: store.StepSignal, Topic: "approved", State: store.StepWaiting, Delay: 72 * time.Hour, Position: 3},
		}, Wait: &store.Wait{Kind: store.WaitSignal, For: "approved", Delay: 72 * time.Hour}})

		text := c.ok("workflow", "get", id)
		for _, want := range []string{"waits for signal approved until ", "71h left", "version:         v7", "charge#1", "refused by the bank", "312ms"} {
			if !strings.Contains(text, want) {
				c.Errorf("workflow get lacks %q:\n%s", want, text)
			}
		}
		_, timeline, _ := strings.Cut(text, "\n\n")
		c.fits(timeline)
		run := c.object("workflow", "get", id)
		steps := run["steps"].([]any)
		if len(steps) != 4 || run["status"] != "waiting" || run["step_count"] != 4.0 || run["wait"].(map[string]any)["for"] != "approved" {
			c.Fatalf("workflow get prints %v", run)
		}
		if s := steps[0].(map[string]any); s["state"] != "succeeded" || s["tries"] != 2.0 || s["output"] != "C-1" || s["output_bytes"] != 5.0 || s["duration_seconds"].(float64) < 0.3 {
			c.Errorf("the first step is %v", s)
		}
		if s := steps[3].(map[string]any); s["state"] != "waiting" || s["kind"] != "signal" || s["due_at"] == nil || s["finished_at"] != nil {
			c.Errorf("the last step is %v", s)
		}
		if events := c.array("workflow", "events", id); len(events) != 1 || events[0]["name"] != "told" || len(events[0]["value"].([]any)) != 2 {
			c.Errorf("the events are %v", events)
		}
		c.fits(c.ok("workflow", "events", id))

		sent := c.object("workflow", "send", id, "approved", "--payload", "true", "--key", "a")
		again := c.object("workflow", "send", id, "approved", "--payload", "true", "--key", "a")
		if sent["created"] != true || again["created"] != false || again["id"] != sent["id"] {
			c.Errorf("sending twice gives %v and %v", sent, again)
		}
		if signals := c.array("workflow", "signals", id); len(signals) != 1 || signals[0]["taken"] != false || signals[0]["payload"] != true {
			c.Errorf("the signals are %v", signals)
		}
		c.fits(c.ok("workflow", "signals", id))
		if got := c.object("workflow", "get", id); got["status"] != "queued" {
			c.Errorf("after the signal the run is %v", got["status"])
		}
		consumer, l = lease(c, c.openStore())
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeDone, Output: []byte(`{"paid":true}`)})
		if out := c.ok("workflow", "result", id, "--wait"); strings.Join(strings.Fields(out), "") != `{"paid":true}` {
			c.Errorf("the result is %q", out)
		}
		c.fails(exitError, []string{"finished"}, "workflow", "send", id, "approved")
		if out := c.ok("workflow", "event", id, "told", "--wait"); strings.Join(strings.Fields(out), "") != `[1,2]` {
			c.Errorf("the event is %q", out)
		}
		c.fails(exitError, []string{"succeeded without setting event other"}, "workflow", "event", id, "other", "--wait")
	})
}

func TestWorkflowSteering(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		id := fmt.Sprint(c.object("workflow", "create", "flow", "--input", `{"n": 1}`)["id"])
		if got := c.object("workflow", "pause", id); got["status"] != "paused" {
			c.Errorf("paused it is %v", got)
		}
		if text := c.ok("workflow", "get", id); !strings.Contains(text, "pgqrsd workflow resume "+id) {
			c.Errorf("workflow get does not say how a paused run is resumed:\n%s", text)
		}
		if got := c.object("workflow", "resume", id); got["status"] != "queued" {
			c.Errorf("resumed it is %v", got)
		}
		consumer, l := lease(c, c.openStore())
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeDiscard, Error: "no more", Steps: []store.StepResult{
			{StepKey: store.StepKey{Name: "a"}, Output: []byte(`1`)},
			{StepKey: store.StepKey{Name: "a", Occurrence: 1}, Error: "no more", Position: 1},
			{StepKey: store.StepKey{Name: "a#0"}, Position: 2},
		}, Failed: []store.Place{{Position: 1}}})
		c.fails(exitError, []string{"failed: no more"}, "workflow", "result", id)
		fork := c.object("workflow", "fork", id, "--from", "a#1")
		forked := c.object("workflow", "get", fmt.Sprint(fork["id"]))
		if forked["status"] != "queued" || len(forked["steps"].([]any)) != 1 || forked["input"].(map[string]any)["n"] != 1.0 {
			c.Errorf("the fork is %v", forked)
		}
		called := c.object("workflow", "fork", id, "--from", "a#0") // a step is called so itself
		if got := c.object("workflow", "get", fmt.Sprint(called["id"])); len(got["steps"].([]any)) != 2 {
			c.Errorf("the fork from the step that is called a#0 is %v", got)
		}
		c.object("workflow", "cancel", fmt.Sprint(called["id"]))
		c.fails(exitError, []string{"b"}, "workflow", "fork", id, "--from", "b")
		c.fails(exitError, []string{"not found"}, "workflow", "fork", "999999", "--from", "a#1")
		c.fails(exitUsage, []string{"STEP#N"}, "workflow", "fork", id, "--from", "a#x")
		if got := c.object("workflow", "cancel", fmt.Sprint(fork["id"])); got["status"] != "cancelled" {
			c.Errorf("cancelled the fork is %v", got)
		}
		if got := c.object("workflow", "retry", id); got["status"] != "queued" {
			c.Errorf("retried it is %v", got)
		}
		if got := c.object("workflow", "get", id); len(got["steps"].([]any)) != 1 || got["attempts"] != 0.0 {
			c.Errorf("retried it is %v", got)
		}
		lease(c, c.openStore())
		if r := c.run("workflow", "cancel", id, "--descend"); !strings.Contains(r.stderr, "stops at its next step") {
			c.Errorf("cancelling a leased run gives %+v", r)
		}
		c.fails(exitError, []string{"finished"}, "workflow", "pause", fmt.Sprint(fork["id"]))
	})
}

func TestParseStep(t *testing.T) {
	for text, want := range map[string]store.StepKey{
		"a": {Name: "a"}, "a#2": {Name: "a", Occurrence: 2}, "b#1/a": {Name: "b#1/a"}, "b#1/a#3": {Name: "b#1/a", Occurrence: 3}, "": {},
	} {
		if got, err := parseStep(text); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
}
