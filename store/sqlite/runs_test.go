package sqlite

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// TestRunsAreAConstantNumberOfStatements settles batches of 6 and of 120 runs
// with steps of every kind.
func TestRunsAreAConstantNumberOfStatements(t *testing.T) {
	few, many := countOfRuns(t, 6), countOfRuns(t, 120)
	for name, n := range few {
		if many[name] != n {
			t.Errorf("%s takes %d statements for 6 runs and %d for 120", name, n, many[name])
		}
		t.Logf("%s: %d statements, begin and commit among them", name, n)
	}
}

// countOfRuns counts the statements of what is done to size runs.
func countOfRuns(t *testing.T, size int) map[string]int {
	t.Helper()
	d := openTest(t)
	ctx := t.Context()
	for _, name := range []string{"flow", "child"} {
		if _, err := d.Queues().Insert(ctx, name, store.QueuePolicy{Kind: store.WorkflowQueue}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := d.Consumer(ctx, "flow", store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	msgs := make([]store.NewMessage, size)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: "flow", Payload: []byte(`1`)}
	}
	ids, err := d.Messages().Insert(ctx, msgs)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, _, err := d.Workflows().Send(ctx, store.NewSignal{Run: id, Topic: "go"}); err != nil {
			t.Fatal(err)
		}
	}
	leased, err := c.Dequeue(ctx, size, time.Minute)
	if err != nil || len(leased) != size {
		t.Fatalf("leased %d runs of %d: %v", len(leased), size, err)
	}
	states, err := d.Workflows().Load(ctx, ids...)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, kind := range []string{"first step", "step", "special step", "wait", "late"} {
		outcomes := make([]store.Outcome, size)
		for i := range leased {
			outcomes[i] = ofKind(kind, leased[i], states[i])
		}
		before := d.writer.s.ran
		settled, err := c.Settle(ctx, outcomes)
		counts[kind] = d.writer.s.ran - before
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for i, s := range settled {
			if (s.Err != nil) != (kind == "late") {
				t.Fatalf("%s of run %d: %v", kind, leased[i].ID, s.Err)
			}
		}
	}
	return counts
}

func ofKind(kind string, l store.LeasedMessage, state store.RunState) store.Outcome {
	o := store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v1"}
	step := func(name string, r store.StepResult) {
		r.StepKey = store.StepKey{Name: name}
		o.Steps = append(o.Steps, r)
	}
	switch kind {
	case "special step":
		step("receive", store.StepResult{Kind: store.StepSignal, Signal: state.Signals[0].ID})
		step("child", store.StepResult{Kind: store.StepChild, State: store.StepWaiting, Child: &store.NewRun{Workflow: "child"}})
		step("send", store.StepResult{Kind: store.StepSend, Send: &store.NewSignal{Run: l.ID, Topic: "note", Key: fmt.Sprint(l.ID)}})
		step("event", store.StepResult{Kind: store.StepEvent, Topic: "stage"})
	case "wait", "late":
		o.Kind, o.Wait = store.OutcomeWait, &store.Wait{Kind: store.WaitSleep, Delay: time.Hour, News: state.News + 1}
		step("nap", store.StepResult{Kind: store.StepSleep, State: store.StepWaiting, Delay: time.Hour})
	default:
		step(kind, store.StepResult{Output: []byte(`1`)})
	}
	return o
}
