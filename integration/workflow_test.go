package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// The example order is charged, sleeps, is approved and shipped, with the daemon
// and its handler killed on the way, and its charge's body runs once.
func TestWorkflowOrder(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		w.plugin("order", "order")
		ledger := filepath.Join(w.dir, "ledger")
		s := settings{extra: fmt.Sprintf("[handlers.order.env]\nORDER_LEDGER = %q\nORDER_COOL_OFF = \"1s\"", ledger)}
		f := &flows{w}
		d := w.start("a", s)
		w.eventually("workflow order to be served", func() bool {
			_, err := w.store.Queues().Get(t.Context(), "order")
			return err == nil
		})
		var made, again struct {
			ID      int64
			Created bool
		}
		create := []string{"workflow", "create", "order", "--input", `{"item": "book", "cents": 1299}`, "--key", "k"}
		w.cliOK(&made, create...)
		w.cliOK(&again, create...)
		if !made.Created || again.Created || again.ID != made.ID {
			t.Fatalf("starting twice with one key gives %+v and %+v", made, again)
		}
		id := fmt.Sprint(made.ID)
		w.eventually("the charge to be recorded", func() bool {
			steps := f.detail(made.ID).Steps
			return len(steps) > 0 && steps[0].Name == "charge" && steps[0].State == store.StepSucceeded
		})
		d.kill()
		d = w.start("b", s)
		f.waitsFor(made.ID, store.WaitSignal, "approved")
		if text, _, _ := w.cli("workflow", "get", id); !strings.Contains(text, "waits for signal approved until") || !strings.Contains(text, "71h left") {
			t.Errorf("workflow get does not say what the run waits for:\n%s", text)
		}
		w.cliOK(nil, "workflow", "send", id, "approved", "--payload", "true")
		stdout, stderr, code := w.cli("workflow", "result", id, "--wait", "--timeout", "1m")
		var receipt struct{ Charge, Tracking string }
		if err := json.Unmarshal([]byte(stdout), &receipt); err != nil || code != 0 || receipt.Charge != "C-"+id+"/charge/0" || receipt.Tracking == "" {
			t.Fatalf("the result is %q with status %d: %s", stdout, code, stderr)
		}
		raw, err := os.ReadFile(ledger)
		must(t, err)
		if n := strings.Count(string(raw), "charge "); n != 1 {
			t.Errorf("the charge ran %d times, want once:\n%s", n, raw)
		}
		detail := f.detail(made.ID)
		var names []string
		for _, step := range detail.Steps {
			names = append(names, step.Name)
			if step.State != store.StepSucceeded {
				t.Errorf("step %s is %s", step.Name, step.State)
			}
		}
		if want := []string{"charge", "charged", "cool-off", "approved", "ship"}; !slices.Equal(names, want) {
			t.Errorf("the steps are %v, want %v", names, want)
		}
		if child := f.run(detail.Steps[len(detail.Steps)-1].Child); child.Parent != made.ID || child.Status != store.RunSucceeded {
			t.Errorf("the child's parent is %d, its status %s", child.Parent, child.Status)
		}
		var events []view.Event
		w.cliOK(&events, "workflow", "events", id)
		if len(events) != 1 || events[0].Name != "charged" || string(events[0].Value) != `"`+receipt.Charge+`"` {
			t.Errorf("the events are %+v", events)
		}
		d.stop()
	})
}

// Signals arrive before the run begins, while a step of it runs, while it waits
// for them, and while it waits for something else: each is received once, in order.
func TestWorkflowSignals(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		s := w.settings("")
		d := w.up("a", s)
		d.stop()
		id := w.create(receive("early"), step("work").with("gate", "work"), receive("meanwhile"),
			receive("awaited"), receive("twice"), receive("twice"), receive("never").with("ms", 50))
		w.send(id, "early", "1")
		w.send(id, "twice", "5")
		d = w.up("b", s)
		w.eventually("the step to run", func() bool { return w.count("body", id, "work") == 1 })
		w.send(id, "meanwhile", "2")
		w.openGate("work")
		w.waitsFor(id, store.WaitSignal, "awaited")
		w.send(id, "twice", "6") // wakes it for nothing that it waits for
		w.send(id, "awaited", "4")
		out := w.output(id)
		if got := strings.Join(append(out[:1:1], out[2:]...), " "); got != "1 2 4 5 6 timed out" {
			t.Errorf("received %q", got)
		}
		if n := w.count("body", id, "work"); n != 1 {
			t.Errorf("the step's body ran %d times", n)
		}
		if _, stderr, code := w.cli("workflow", "send", fmt.Sprint(id), "late"); code != 1 || !strings.Contains(stderr, "finished") {
			t.Errorf("a signal to a finished run: status %d, %s", code, stderr)
		}
		var signals []view.Signal
		w.cliOK(&signals, "workflow", "signals", fmt.Sprint(id))
		if len(signals) != 5 || slices.ContainsFunc(signals, func(s view.Signal) bool { return !s.Taken }) {
			t.Errorf("the signals are %+v", signals)
		}
		d.stop()
	})
}

// A run that is cancelled while a step runs lets it finish, records it, and goes
// no further; when its process dies meanwhile, no code of it runs again.
func TestWorkflowCancel(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		s := w.settings("")
		d := w.up("a", s)
		stops := w.create(step("first").with("gate", "go"), step("second"))
		dies := w.create(step("first").with("gate", "never"), step("second"))
		waits := w.create(receive("nothing"))
		parent := w.create(op{"op": "child", "name": "kid", "ops": []op{receive("nothing")}})
		for _, id := range []int64{stops, dies} {
			w.eventually("the first step to run", func() bool { return w.count("body", id, "first") == 1 })
		}
		w.waitsFor(waits, store.WaitSignal, "nothing")
		w.waitsFor(parent, store.WaitChild, "kid")
		kid := w.detail(parent).Steps[0].Child
		w.waitsFor(kid, store.WaitSignal, "nothing")
		w.cancel(stops, store.RunCancelling)
		w.cancel(dies, store.RunCancelling)
		w.cancel(waits, store.RunCancelled)
		w.cancel(parent, store.RunCancelled, "--descend")
		w.becomes(kid, store.RunCancelled)
		w.openGate("go")
		w.becomes(stops, store.RunCancelled)
		if steps := w.detail(stops).Steps; len(steps) != 1 || steps[0].State != store.StepSucceeded {
			t.Errorf("the steps of the cancelled run are %+v", steps)
		}
		must(t, syscall.Kill(d.children()[0], syscall.SIGKILL))
		w.becomes(dies, store.RunCancelled)
		for _, id := range []int64{stops, dies} {
			if n, m := w.count("run", id, "-"), w.count("body", id, "second"); n != 1 || m != 0 {
				t.Errorf("run %d began %d times, and its second step %d times, after it was cancelled", id, n, m)
			}
		}
		if _, stderr, code := w.cli("workflow", "result", fmt.Sprint(stops)); code != 1 || !strings.Contains(stderr, "cancelled") {
			t.Errorf("the result of a cancelled run: status %d, %s", code, stderr)
		}
		d.stop()
	})
}

func (w *flows) cancel(id int64, want store.RunStatus, flags ...string) {
	w.t.Helper()
	var got struct{ Status store.RunStatus }
	w.cliOK(&got, append([]string{"workflow", "cancel", fmt.Sprint(id)}, flags...)...)
	if got.Status != want {
		w.t.Errorf("cancelling run %d makes it %s, want %s", id, got.Status, want)
	}
}

// A paused run holds nothing and carries on when it is resumed; a step's tries
// and waits cost the run no attempt.
func TestWorkflowPausesAndTriesAgain(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings("max_attempts = 1"))
		id := w.create(step("flaky").with("tries", 3).with("fail", 2).with("ms", 30), step("gated").with("gate", "go"),
			op{"op": "sleep", "name": "nap", "ms": 30}, step("last"))
		w.eventually("the gated step to run", func() bool { return w.count("body", id, "gated") == 1 })
		w.cliOK(nil, "workflow", "pause", fmt.Sprint(id))
		w.openGate("go")
		w.eventually("the run to be paused", func() bool {
			r := w.run(id)
			return r.Status == store.RunPaused && r.State == store.Delayed
		})
		w.send(id, "whatever", "1") // does not wake it
		if r := w.run(id); r.Status != store.RunPaused || r.State != store.Delayed {
			t.Errorf("after a signal the paused run is %s, its message %s", r.Status, r.State)
		}
		w.cliOK(nil, "workflow", "resume", fmt.Sprint(id))
		w.output(id)
		for name, want := range map[string]int{"flaky": 3, "gated": 1, "last": 1} {
			if n := w.count("body", id, name); n != want {
				t.Errorf("the body of %s ran %d times, want %d", name, n, want)
			}
		}
		d.stop()
	})
}

// A run whose step fails for good fails; it is retried after the mend, and forked,
// without what was recorded before, or beside it in another branch, running again.
// A time-out that the run had come to terms with stays one.
func TestWorkflowRetryAndFork(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings(""))
		id := w.create(receive("late").with("ms", 1), step("before"), op{"op": "branches", "name": "all", "ops": []op{
			step("breaks").with("unless_file", "mended"), step("beside"),
		}}, step("behind"))
		w.becomes(id, store.RunFailed)
		if _, stderr, code := w.cli("workflow", "result", fmt.Sprint(id)); code != 1 || !strings.Contains(stderr, "file mended is missing") {
			t.Errorf("the result of a failed run: status %d, %s", code, stderr)
		}
		w.openGate("mended")
		w.cliOK(nil, "workflow", "retry", fmt.Sprint(id))
		first := w.output(id)
		var forked struct{ ID int64 }
		w.cliOK(&forked, "workflow", "fork", fmt.Sprint(id), "--from", "behind")
		second := w.output(forked.ID)
		if !slices.Equal(first[:3], second[:3]) || first[3] == second[3] || first[0] != "timed out" {
			t.Errorf("the fork from the last step has %v, the run had %v", second, first)
		}
		for name, want := range map[string]int{"before": 1, "breaks": 2, "beside": 1, "behind": 1} {
			if n := w.count("body", id, name); n != want {
				t.Errorf("the body of %s ran %d times, want %d", name, n, want)
			}
		}
		d.stop()
	})
}

// Branches of a run wait at once for a signal, a sleep and a child that fails,
// and send each other signals; the handler is killed in between.
func TestWorkflowBranchesAndChildren(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings("max_attempts = 20"))
		fails := op{"op": "child", "name": "bad", "ops": []op{step("x").with("unless_file", "none")}}
		works := op{"op": "child", "name": "good", "ops": []op{step("y").with("die", 1), receive("word")}}
		id := w.create(op{"op": "branches", "name": "all", "ops": []op{
			receive("sig"), {"op": "sleep", "name": "nap", "ms": 100}, fails, works, step("z").with("die", 1),
		}}, step("end"))
		var good int64
		w.eventually("the good child to wait for its word", func() bool {
			for _, s := range w.detail(id).Steps {
				if strings.HasSuffix(s.Name, "good") && s.Child != 0 {
					good = s.Child
					r := w.run(good)
					return r.Status == store.RunWaiting && r.Wait.Kind == store.WaitSignal
				}
			}
			return false
		})
		w.send(id, "sig", `"hello"`)
		w.create(op{"op": "send", "name": "word", "run": good, "payload": "7"})
		w.becomes(id, store.RunSucceeded)
		var out []string
		must(t, json.Unmarshal(w.run(id).Output, &out))
		parts := strings.Split(out[0], "|")
		if parts[0] != `"hello"` || parts[1] != "slept" || !strings.HasPrefix(parts[2], "failed: ") || !strings.Contains(parts[2], "file none is missing") || !strings.HasSuffix(parts[3], `+"7"`) || !strings.HasPrefix(parts[4], "z-") {
			t.Errorf("the branches gave %q", out[0])
		}
		w.noneRanAgain(id, good)
		d.stop()
	})
}

// A run waits, and fails not, while no handler carries on its version.
func TestWorkflowVersions(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings("", "VERSION=v1"))
		id := w.create(step("first"), receive("go"), step("last"))
		w.waitsFor(id, store.WaitSignal, "go")
		if v := w.run(id).Version; v != "v1" {
			t.Errorf("the run's version is %q, want v1", v)
		}
		d.stop()
		d = w.up("b", w.settings("", "VERSION=v2", "CARRIES_ON=v2"))
		w.send(id, "go", "1")
		w.waitsFor(id, store.WaitVersion, "v1")
		fresh := w.create(step("only"))
		w.output(fresh)
		var stats struct {
			Waiting int64 `json:"runs_waiting_for_version"`
		}
		w.cliOK(&stats, "stats")
		if stats.Waiting != 1 {
			t.Errorf("stats counts %d runs that wait for a version, want 1", stats.Waiting)
		}
		d.stop()
		d = w.up("c", w.settings("", "VERSION=v3", "CARRIES_ON=v1,v2"))
		w.output(id)
		if n := w.count("body", id, "first"); n != 1 {
			t.Errorf("the first step's body ran %d times", n)
		}
		d.stop()
	})
}

// The HTTP API does what the command line does, for callers of any language.
func TestWorkflowHTTP(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		d := w.up("a", w.settings(""))
		var made struct{ ID int64 }
		w.post(d, http.StatusCreated, "/api/v1/workflows/flow/runs", `{"input": [{"op":"event","name":"ready","payload":{"a":1}},{"op":"receive","name":"go"}], "key": "k"}`, &made)
		run := fmt.Sprintf("/api/v1/runs/%d", made.ID)
		var event view.Event
		w.fetch(d, http.StatusOK, run+"/events/ready?wait=50s", &event)
		if string(event.Value) != `{"a":1}` {
			t.Errorf("the event is %s", event.Value)
		}
		w.waitsFor(made.ID, store.WaitSignal, "go")
		var result view.RunResult
		w.fetch(d, http.StatusAccepted, run+"/result?wait=20ms", &result)
		if result.Status != store.RunWaiting || result.Wait == nil || result.Wait.For != "go" {
			t.Errorf("before its end the result is %+v", result)
		}
		w.post(d, http.StatusCreated, run+"/signals", `{"topic": "go", "payload": [1], "key": "s"}`, nil)
		w.fetch(d, http.StatusOK, run+"/result?wait=50s", &result)
		if result.Status != store.RunSucceeded || string(result.Output) != `["set","[1]"]` {
			t.Errorf("the result is %+v", result)
		}
		var detail view.RunDetail
		w.fetch(d, http.StatusOK, run, &detail)
		if len(detail.Steps) != 2 || detail.Steps[1].Kind != store.StepSignal {
			t.Errorf("the run is %+v", detail)
		}
		d.stop()
	})
}

func (w *flows) post(d *process, want int, path, body string, v any) {
	w.t.Helper()
	resp, err := http.Post(d.url(path), "application/json", strings.NewReader(body))
	w.answered(resp, err, want, v)
}

func (w *flows) fetch(d *process, want int, path string, v any) {
	w.t.Helper()
	resp, err := http.Get(d.url(path))
	w.answered(resp, err, want, v)
}

func (w *flows) answered(resp *http.Response, err error, want int, v any) {
	w.t.Helper()
	must(w.t, err)
	defer func() { must(w.t, resp.Body.Close()) }()
	var raw json.RawMessage
	must(w.t, json.NewDecoder(resp.Body).Decode(&raw))
	if resp.StatusCode != want {
		w.t.Fatalf("%s %s answers %d, want %d: %s", resp.Request.Method, resp.Request.URL.Path, resp.StatusCode, want, raw)
	}
	if v != nil {
		must(w.t, json.Unmarshal(raw, v))
	}
}
