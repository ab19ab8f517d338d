package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// flows is a world of the handler testworkflow, whose workflow is "flow".
type flows struct{ *world }

// onFlows runs a test on SQLite and on Postgres.
func onFlows(t *testing.T, test func(t *testing.T, w *flows)) {
	t.Helper()
	onBackends(t, func(t *testing.T, w *world) { test(t, newFlows(t, w)) })
}

func newFlows(t *testing.T, w *world) *flows {
	t.Helper()
	must(t, os.Remove(filepath.Join(w.dir, "plugins", "testhandler")))
	w.plugin("testworkflow", "testworkflow")
	return &flows{w}
}

// settings are those of queue flow and of its handler.
func (w *flows) settings(queue string, env ...string) settings {
	text := "[queues.flow]\n" + queue + "\n[queues.flow.backoff]\ndelay = \"10ms\"\ncap = \"20ms\"\n[handlers.testworkflow.env]\n"
	for _, kv := range append(env, "JOURNAL="+w.journalPath(), "GATES="+filepath.Join(w.dir, "gates")) {
		name, value, _ := strings.Cut(kv, "=")
		text += fmt.Sprintf("%s = %q\n", name, value)
	}
	return settings{extra: text}
}

// up starts a daemon and waits until the workflow's queue is there.
func (w *flows) up(name string, s settings) *process {
	w.t.Helper()
	p := w.start(name, s)
	w.queueThere("flow")
	return p
}

// queueThere waits until a handler that serves the queue has made it.
func (w *world) queueThere(queue string) {
	w.t.Helper()
	eventually(w.t, "queue "+queue+" to be there", func() bool {
		_, err := w.store.Queues().Get(w.t.Context(), queue)
		return err == nil
	}, func() string { return "" })
}

// eventually waits until what holds, and otherwise says how the runs are.
func (w *flows) eventually(what string, holds func() bool) {
	w.t.Helper()
	eventually(w.t, what, holds, w.openRuns)
}

// openRuns says which runs have not ended, and where they are.
func (w *world) openRuns() string {
	var b strings.Builder
	runs, err := w.store.Workflows().List(context.WithoutCancel(w.t.Context()), store.RunFilter{Page: store.Page{Limit: 1000}})
	fmt.Fprintf(&b, "%d runs %s\n", len(runs), errOrEmpty(err))
	for _, r := range runs {
		if !r.Status.Terminal() {
			fmt.Fprintf(&b, "run %d: %s, message %s due %s, wait %+v, %d steps, %d attempts, errors %v\n",
				r.ID, r.Status, r.State, r.AvailableAt, r.Wait, r.Steps, r.Attempts, r.Errors)
		}
	}
	return b.String()
}

// op is one thing that a run does; see testworkflow.
type op map[string]any

func step(name string) op { return op{"op": "step", "name": name} }

func receive(topic string) op { return op{"op": "receive", "name": topic} }

// with is o with one more setting.
func (o op) with(key string, value any) op {
	o[key] = value
	return o
}

// create starts a run through the command line.
func (w *flows) create(ops ...op) int64 {
	w.t.Helper()
	raw, err := json.Marshal(ops)
	must(w.t, err)
	var made struct{ ID int64 }
	w.cliOK(&made, "workflow", "create", "flow", "--input", string(raw))
	return made.ID
}

// tryCreate starts a run, if the database lets it. Tried again with the same key
// it is the same run.
func (w *flows) tryCreate(key string, ops ...op) (int64, error) {
	w.t.Helper()
	raw, err := json.Marshal(ops)
	must(w.t, err)
	id, _, err := w.store.CreateWorkflow(w.t.Context(), store.NewRun{Workflow: "flow", Input: raw, Key: key})
	return id, err
}

// createMany starts the same run n times.
func (w *flows) createMany(n int, ops ...op) []int64 {
	w.t.Helper()
	raw, err := json.Marshal(ops)
	must(w.t, err)
	ids := make([]int64, n)
	for i := range ids {
		ids[i], _, err = w.store.CreateWorkflow(w.t.Context(), store.NewRun{Workflow: "flow", Input: raw})
		must(w.t, err)
	}
	return ids
}

// ask asks the database, which may be away for a moment after it was killed.
func ask[T any](w *world, question func(ctx context.Context) (T, error)) (answer T) {
	w.t.Helper()
	eventually(w.t, "the database to answer", func() bool {
		var err error
		if answer, err = question(w.t.Context()); errors.Is(err, store.ErrUnavailable) {
			return false
		}
		must(w.t, err)
		return true
	}, w.openRuns)
	return answer
}

func (w *world) run(id int64) store.Run {
	w.t.Helper()
	return ask(w, func(ctx context.Context) (store.Run, error) { return w.store.Workflows().Get(ctx, id) })
}

func (w *world) steps(id int64) []store.StepRecord {
	w.t.Helper()
	return ask(w, func(ctx context.Context) ([]store.StepRecord, error) { return w.store.Workflows().Steps(ctx, id) })
}

// becomes waits until a run has a status.
func (w *flows) becomes(id int64, want store.RunStatus) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("run %d to be %s", id, want), func() bool {
		r := w.run(id)
		if r.Status != want && r.Status.Terminal() {
			w.t.Fatalf("run %d is %s, want %s: %v", id, r.Status, want, r.Errors)
		}
		return r.Status == want
	})
}

// waitsFor waits until a run waits for a thing of a kind.
func (w *flows) waitsFor(id int64, kind store.WaitKind, what string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("run %d to wait for %s %s", id, kind, what), func() bool {
		r := w.run(id)
		if r.Status.Terminal() {
			w.t.Fatalf("run %d is %s before it waits for %s %s: %v", id, r.Status, kind, what, r.Errors)
		}
		return r.Status == store.RunWaiting && r.Wait != nil && r.Wait.Kind == kind && r.Wait.For == what
	})
}

// output waits for the end of a run that must succeed, without a failed attempt,
// and returns what came of each op.
func (w *flows) output(id int64) []string {
	w.t.Helper()
	w.becomes(id, store.RunSucceeded)
	if r := w.run(id); r.Attempts != 0 {
		w.t.Errorf("run %d has %d failed attempts: %v", id, r.Attempts, r.Errors)
	}
	var out []string
	must(w.t, json.Unmarshal(w.run(id).Output, &out))
	return out
}

func (w *flows) send(id int64, topic, payload string) {
	w.t.Helper()
	w.cliOK(nil, "workflow", "send", fmt.Sprint(id), topic, "--payload", payload)
}

// detail is `workflow get`.
func (w *flows) detail(id int64) view.RunDetail {
	w.t.Helper()
	var d view.RunDetail
	w.cliOK(&d, "workflow", "get", fmt.Sprint(id))
	return d
}

// line is one line of the workflows' journal.
type line struct {
	kind  string
	run   int64
	step  string
	micro int64
}

func (w *flows) lines() []line {
	w.t.Helper()
	raw, err := os.ReadFile(w.journalPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(w.t, err)
	var lines []line
	for text := range strings.Lines(string(raw)) {
		f := strings.Fields(text)
		if len(f) != 4 {
			continue // a line that a killed process did not finish
		}
		run, errRun := strconv.ParseInt(f[1], 10, 64)
		micro, errMicro := strconv.ParseInt(f[3], 10, 64)
		must(w.t, errors.Join(errRun, errMicro))
		lines = append(lines, line{f[0], run, f[2], micro})
	}
	return lines
}

// count counts the journal's lines of a kind about a run's step.
func (w *flows) count(kind string, run int64, step string) int {
	w.t.Helper()
	n := 0
	for _, l := range w.lines() {
		if l.kind == kind && l.run == run && l.step == step {
			n++
		}
	}
	return n
}

// noneRanAgain checks that no step's body began after the step was recorded: by
// the journal, in which the function says that it has the step's result, and by
// the time at which the database recorded it.
func (w *flows) noneRanAgain(ids ...int64) {
	w.t.Helper()
	type key struct {
		run  int64
		step string
	}
	recorded := make(map[key]store.StepRecord)
	for _, id := range ids {
		for _, s := range w.steps(id) {
			recorded[key{id, s.Name[strings.LastIndexByte(s.Name, '/')+1:]}] = s // without its branch
		}
	}
	had := make(map[key]bool)
	for _, l := range w.lines() {
		k := key{l.run, l.step}
		if !slices.Contains(ids, l.run) {
			continue
		}
		switch l.kind {
		case "after":
			had[k] = true
		case "body":
			s, ok := recorded[k]
			if had[k] || ok && s.State != store.StepWaiting && l.micro > s.FinishedAt.UnixMicro() {
				w.t.Errorf("run %d: the body of step %s ran again after it was recorded at %s", l.run, l.step, s.FinishedAt)
			}
		}
	}
}
