package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// A consumer that learns that a claim is lost forgets it.
func TestLostClaimsAreForgotten(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	enqueue(t, s, "q", 3)
	c := newConsumer(t, s, "q").(*consumer)
	var leases []store.Lease
	for range 3 {
		got, err := c.Dequeue(t.Context(), 1, time.Hour)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		leases = append(leases, got[0].Lease)
	}
	if _, err := s.exec(t.Context(), "lose claims", `delete from {{schema}}.claims where claim < $1`, leases[2].Claim); err != nil {
		t.Fatal(err)
	}
	errs, err := c.Started(t.Context(), leases[0])
	if err != nil || !errors.Is(errs[0], store.ErrLeaseLost) {
		t.Fatal(errs, err)
	}
	errs, err = c.Extend(t.Context(), time.Hour, leases[1:]...)
	if err != nil || !errors.Is(errs[0], store.ErrLeaseLost) || errs[1] != nil {
		t.Fatal(errs, err)
	}
	if got := c.holdings.lowest(99); got != leases[2].Claim {
		t.Errorf("the lowest claim is %d, want %d: the others are lost", got, leases[2].Claim)
	}
}

// A store forgets consumers that were taken for dead, however it hears of it.
func TestStoppedConsumersAreForgotten(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	for name, hear := range map[string]func(c store.Consumer) error{
		"heartbeat": func(c store.Consumer) error { _, err := s.Workers().Heartbeat(t.Context(), c.ID()); return err },
		"dequeue": func(c store.Consumer) error {
			var refused *store.NotReadyError
			if _, err := c.Dequeue(t.Context(), 1, time.Hour); !errors.As(err, &refused) {
				return err
			}
			return nil
		},
	} {
		c, err := s.Consumer(t.Context(), "q", store.WorkerOptions{Name: "w", Slot: "s"})
		if err != nil {
			t.Fatal(err)
		}
		if _, known := s.holding.Load(c.ID()); !known {
			t.Fatal("a new consumer is unknown")
		}
		if n, err := admin.ReclaimSlot(t.Context(), "s"); err != nil || n.Workers != 1 {
			t.Fatal(n, err)
		}
		if err := hear(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, known := s.holding.Load(c.ID()); known {
			t.Errorf("%s: the stopped consumer is still kept", name)
		}
	}
}

// A run's row is asked for until it has what a step notes in it, and then no more.
func TestStepsOfANotedRunCostNoStatementForItsRow(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{Kind: store.WorkflowQueue})
	enqueue(t, s, "q", 1)
	c := newConsumer(t, s, "q").(*consumer)
	got, err := c.Dequeue(t.Context(), 1, time.Hour)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	statements := func(step, version string) int64 {
		return sent(s, func() {
			settle1(t, c, store.Outcome{
				Lease: got[0].Lease, Kind: store.OutcomeStep, Version: version,
				Steps: []store.StepResult{{StepKey: store.StepKey{Name: step, Occurrence: 1}, State: store.StepSucceeded, Output: []byte(`1`)}},
			})
		})
	}
	first, second := statements("a", ""), statements("b", "")
	versioned, last := statements("c", "v1"), statements("d", "v1")
	if second >= versioned || first < versioned || last != second {
		t.Errorf("statements of a run's first steps: %d, %d, with a version %d, %d", first, second, versioned, last)
	}
	run, err := s.Workflows().Get(t.Context(), got[0].ID)
	if err != nil || run.Version != "v1" || run.Steps != 4 {
		t.Errorf("version %q, %d steps, %v", run.Version, run.Steps, err)
	}
}
