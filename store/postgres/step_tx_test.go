package postgres

import (
	"errors"
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
