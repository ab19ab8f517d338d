package postgres

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/store"
)

func isState(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}

// completeStep records a step in a transaction that is an application's.
func completeStep(t *testing.T, s *Store, tx pgx.Tx, l store.Lease, name string) error {
	t.Helper()
	_, err := tx.Exec(t.Context(), s.sql(`select {{schema}}.complete_step($1, $2, $3, $4, 0, 0, '{"ok": true}')`), l.ID, l.Worker, l.Claim, name)
	return err
}

// A step that an application records in its own transaction is there with the
// transaction. Meanwhile the daemon renews the lease and settles others.
func TestCompleteStepInAForeignTransaction(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	startRun(t, s, "q")
	startRun(t, s, "q")
	got, err := c.Dequeue(t.Context(), 2, time.Hour)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	l, other := got[0], got[1]
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := completeStep(t, s, tx, l.Lease, "pay"); err != nil {
		t.Fatal(err)
	}
	if steps := load1(t, s, l.ID).Steps; len(steps) != 0 {
		t.Errorf("before the transaction ends there are %+v", steps)
	}
	if errs, err := c.Extend(t.Context(), time.Hour, l.Lease); errors.Join(append(errs, err)...) != nil {
		t.Error(errs, err)
	}
	step := store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("beside")}}}
	settle1(t, c, step)
	settle1(t, c, store.Outcome{Lease: other.Lease, Kind: store.OutcomeDone})
	if _, err := s.Workflows().Cancel(t.Context(), l.ID, false); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := load1(t, s, l.ID)
	if len(state.Steps) != 2 || state.Halt != store.HaltCancel {
		t.Fatalf("after the transaction there is %+v", state)
	}
	for _, r := range state.Steps {
		if r.Name == "pay" && (r.State != store.StepSucceeded || string(r.Output) != `{"ok": true}`) {
			t.Errorf("the step is %+v", r)
		}
	}
	refused := func(what string, l store.Lease, name, code string) {
		t.Helper()
		tx, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := completeStep(t, s, tx, l, name); !isState(err, code) {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
	refused("a step that is recorded", l.Lease, "pay", "PQ002")
	refused("a run that is done", other.Lease, "pay", "PQ001")
	refused("another claim's run", store.Lease{Worker: l.Worker, Claim: l.Claim + 1, ID: l.ID}, "late", "PQ001")
	settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRelease})
	refused("a lease that was given back", l.Lease, "late", "PQ001")
}

// A run that begins with a step of an application's transaction begins with
// it, under the version that the handler named: also when nothing else is
// recorded before another version's handler has the run.
func TestCompleteStepNotesWhatBegan(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	begin := func(args string) (store.LeasedMessage, time.Time) {
		t.Helper()
		startRun(t, s, "q")
		l := lease1(t, c)
		if _, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.complete_step($1, $2, $3, 'pay', 0, 0`+args+`)`), l.ID, l.Worker, l.Claim); err != nil {
			t.Fatal(err)
		}
		steps, err := s.Workflows().Steps(t.Context(), l.ID)
		if err != nil || len(steps) != 1 {
			t.Fatalf("the steps are %+v, %v", steps, err)
		}
		return l, steps[0].StartedAt
	}
	is := func(when string, id int64, version string, begun time.Time) {
		t.Helper()
		if v := load1(t, s, id).Version; v != version {
			t.Errorf("%s, the run is sent with version %q, want %q", when, v, version)
		}
		if r := getRun(t, s, id); r.Version != version || !r.BegunAt.Equal(begun) {
			t.Errorf("%s, the run has version %q and began at %s, want %q and %s", when, r.Version, r.BegunAt, version, begun)
		}
	}
	l, at := begin(`, '1', 'v1'`)
	is("with the step", l.ID, "v1", at)
	if _, _, err := s.Workflows().Send(t.Context(), store.NewSignal{Run: l.ID, Topic: "row"}); err != nil {
		t.Fatal(err)
	}
	is("with a row in runs", l.ID, "v1", at)
	settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v2", Steps: []store.StepResult{{StepKey: key("next"), Position: 1}}})
	is("with a step of another version's handler", l.ID, "v1", at)
	fork, err := s.Workflows().Fork(t.Context(), l.ID, key("next"))
	if err != nil || getRun(t, s, fork).Version != "v1" {
		t.Errorf("the fork is %+v, %v", getRun(t, s, fork), err)
	}
	settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone})
	is("when it has ended", l.ID, "v1", at)
	settle1(t, c, store.Outcome{Lease: lease1(t, c).Lease, Kind: store.OutcomeDone}) // the fork

	alone, at := begin(`, '1', 'v1'`)
	settle1(t, c, store.Outcome{Lease: alone.Lease, Kind: store.OutcomeDone})
	is("when it ended with nothing else", alone.ID, "v1", at)

	silent, at := begin(``)
	is("without a word of the version", silent.ID, "", at)
	settle1(t, c, store.Outcome{Lease: silent.Lease, Kind: store.OutcomeStep, Version: "v2", Steps: []store.StepResult{{StepKey: key("next"), Position: 1}}})
	is("with the first that names one", silent.ID, "v2", at)
	_, err = s.pool.Exec(t.Context(), s.sql(`select {{schema}}.complete_step($1, $2, $3, 'long', 0, 2, null, repeat('v', 129))`), silent.ID, silent.Worker, silent.Claim)
	if !isState(err, "22023") {
		t.Errorf("a version of 129 bytes: %v", err)
	}
}

// A lease does not run out while an application records a step under it, and
// no two holders record one step.
func TestCompleteStepHoldsTheLease(t *testing.T) {
	t.Parallel()
	s, cfg := flow(t, "q")
	id := startRun(t, s, "q")
	a, b := newConsumer(t, s, "q"), newConsumer(t, openStore(t, cfg), "q")
	got, err := a.Dequeue(t.Context(), 1, time.Microsecond)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := completeStep(t, s, tx, got[0].Lease, "pay"); err != nil {
		t.Fatal(err)
	}
	if again, err := b.Dequeue(t.Context(), 1, time.Hour); err != nil || len(again) != 0 {
		t.Errorf("leased %+v, %v, while its step is being recorded", again, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := lease1(t, b); l.ID != id || len(load1(t, s, id).Steps) != 1 {
		t.Errorf("leased %+v, with the steps %+v", l, load1(t, s, id).Steps)
	}
}

// What the daemon would not record, an application's transaction does not either.
func TestCompleteStepRefuses(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	startRun(t, s, "q")
	l := lease1(t, c)
	long := strings.Repeat("x", store.MaxStepName+1)
	tests := map[string]struct {
		name       any
		occurrence any
		position   any
		output     any
		state      string
	}{
		"no name":             {"", 0, 0, "1", "22023"},
		"null name":           {nil, 0, 0, "1", "22023"},
		"long name":           {long, 0, 0, "1", "22023"},
		"negative occurrence": {"a", -1, 0, "1", "22023"},
		"null occurrence":     {"a", nil, 0, "1", "22023"},
		"large occurrence":    {"a", 1 << 31, 0, "1", "22023"},
		"negative position":   {"a", 0, -1, "1", "22023"},
		"null position":       {"a", 0, nil, "1", "22023"},
		"large output":        {"a", 0, 0, `"` + strings.Repeat("x", store.MaxOutputBytes) + `"`, "22023"},
		"deep output":         {"a", 0, 0, strings.Repeat("[", 501) + strings.Repeat("]", 501), "22023"},
		"NUL":                 {"a", 0, 0, `"\u0000"`, "22P05"},
		"half a pair":         {"a", 0, 0, `"\ud800"`, "22P02"},
		"the largest":         {long[1:], 1<<31 - 1, 1<<31 - 1, strings.Repeat("[", 500) + strings.Repeat("]", 500), ""},
		"no output":           {"b", 0, 0, nil, ""},
	}
	for name, tt := range tests {
		_, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.complete_step($1, $2, $3, $4, $5, $6, $7::text::json)`),
			l.ID, l.Worker, l.Claim, tt.name, tt.occurrence, tt.position, tt.output)
		if (err == nil) != (tt.state == "") || err != nil && !isState(err, tt.state) {
			t.Errorf("%s: %v, want state %q", name, err, tt.state)
		}
	}
	if n := len(load1(t, s, l.ID).Steps); n != 2 {
		t.Errorf("%d steps are recorded, want 2", n)
	}
	for occurrence, text := range []string{"complete step b of run ", "complete step b#1 of run "} {
		_, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.complete_step($1, $2, $3, 'b', $4, 0, null)`), l.ID, l.Worker, l.Claim+int64(occurrence), occurrence)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error is %v, want one with %q", err, text)
		}
	}
}
