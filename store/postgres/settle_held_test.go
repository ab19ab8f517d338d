package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

// A transaction of an application that keeps a row locked holds up the outcomes
// that need it, and no others: they say so, and are settled when it has ended.
func TestARowThatIsKeptHoldsUpItsRunAlone(t *testing.T) {
	t.Parallel()
	wait := &store.Wait{Kind: store.WaitSignal, Delay: -1}
	child := store.StepResult{StepKey: key("child"), Kind: store.StepChild, State: store.StepWaiting, Delay: -1, Child: &store.NewRun{Workflow: "q"}}
	for name, c := range map[string]struct {
		// prepare sets the stage and returns the lease of the run that is held up.
		prepare func(t *testing.T, s *Store, c store.Consumer) store.Lease
		// keep locks a row of the run's or of another one's that there is.
		keep func(t *testing.T, s *Store, held store.Lease) pgx.Tx
		// outcomes are of the run that is held up.
		outcomes []store.Outcome
	}{
		"its row is being made": {
			prepare: func(t *testing.T, s *Store, c store.Consumer) store.Lease {
				startRun(t, s, "q")
				return lease1(t, c).Lease
			},
			keep:     func(t *testing.T, s *Store, l store.Lease) pgx.Tx { return begun(t, s, sendSignal, l.ID, nil) },
			outcomes: []store.Outcome{{Kind: store.OutcomeWait, Wait: wait}},
		},
		"its row is there": {
			prepare: leasedWithStep,
			keep:    func(t *testing.T, s *Store, l store.Lease) pgx.Tx { return begun(t, s, sendSignal, l.ID, nil) },
			// The step alone needs no row. It stays with the outcome that follows it.
			outcomes: []store.Outcome{
				{Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("b")}}},
				{Kind: store.OutcomeRetry, Error: "later", Delay: time.Hour},
			},
		},
		"its first step": {
			prepare: func(t *testing.T, s *Store, c store.Consumer) store.Lease {
				startRun(t, s, "q")
				return lease1(t, c).Lease
			},
			keep:     func(t *testing.T, s *Store, l store.Lease) pgx.Tx { return begun(t, s, sendSignal, l.ID, nil) },
			outcomes: []store.Outcome{{Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("a")}}}},
		},
		"the one that started it": {
			prepare: func(t *testing.T, s *Store, c store.Consumer) store.Lease {
				startRun(t, s, "q")
				waitFor(t, c, lease1(t, c), store.WaitChild, 0, child)
				return lease1(t, c).Lease
			},
			keep: func(t *testing.T, s *Store, l store.Lease) pgx.Tx {
				return begun(t, s, sendSignal, getRun(t, s, l.ID).Parent, nil)
			},
			outcomes: []store.Outcome{{Kind: store.OutcomeDone}},
		},
		"the one that it sends to": {
			prepare: func(t *testing.T, s *Store, c store.Consumer) store.Lease {
				target := startRun(t, s, "other")
				startRun(t, s, "q")
				l := lease1(t, c).Lease
				settle1(t, c, store.Outcome{Lease: l, Kind: store.OutcomeStep, Steps: []store.StepResult{{StepKey: store.StepKey{Name: "to", Occurrence: int(target)}}}})
				return l
			},
			keep: func(t *testing.T, s *Store, l store.Lease) pgx.Tx {
				return begun(t, s, sendSignal, load1(t, s, l.ID).Steps[0].Occurrence, nil)
			},
			outcomes: []store.Outcome{{Kind: store.OutcomeStep, Steps: []store.StepResult{
				{StepKey: key("send"), Kind: store.StepSend, Send: &store.NewSignal{Topic: "x"}}}}}, // to whom is filled in
		},
		"a step in a transaction": {
			prepare: func(t *testing.T, s *Store, c store.Consumer) store.Lease {
				startRun(t, s, "q")
				return lease1(t, c).Lease
			},
			keep:     completing("pay"),
			outcomes: []store.Outcome{{Kind: store.OutcomeDone}},
		},
		"a step in a transaction that is recorded as well": {
			prepare:  leasedWithStep,
			keep:     completing("pay"),
			outcomes: []store.Outcome{{Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("pay")}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := flow(t, "q")
			if _, err := s.Queues().Insert(t.Context(), "other", store.QueuePolicy{Kind: store.WorkflowQueue}); err != nil {
				t.Fatal(err)
			}
			by := newConsumer(t, s, "q")
			held := c.prepare(t, s, by)
			for i := range c.outcomes {
				c.outcomes[i].Lease = held
				for j := range c.outcomes[i].Steps {
					if send := c.outcomes[i].Steps[j].Send; send != nil {
						send.Run = int64(load1(t, s, held.ID).Steps[0].Occurrence)
					}
				}
			}
			tx := c.keep(t, s, held)
			// The second time it is known, and not waited for.
			for _, kind := range []store.OutcomeKind{store.OutcomeDone, store.OutcomeRelease} {
				startRun(t, s, "q")
				beside := lease1(t, by)
				got, err := by.Settle(t.Context(), append([]store.Outcome{{Lease: beside.Lease, Kind: kind}}, c.outcomes...))
				if err != nil || got[0].Err != nil {
					t.Fatalf("the run beside it: %+v, %v", got, err)
				}
				for _, r := range got[1:] {
					if !errors.Is(r.Err, store.ErrUnavailable) {
						t.Errorf("the run that is held up: %+v", r)
					}
				}
				if kind == store.OutcomeRelease {
					settle1(t, by, store.Outcome{Lease: lease1(t, by).Lease, Kind: store.OutcomeDone})
				}
			}
			commit(t, tx)
			got, err := by.Settle(t.Context(), c.outcomes)
			for _, r := range got {
				err = errors.Join(err, r.Err)
			}
			if err != nil {
				t.Errorf("when the transaction has ended: %v", err)
			}
			if n := len(by.(*consumer).holdings.held); n != 0 {
				t.Errorf("%d leases are still noted as held up", n)
			}
		})
	}
}

// leasedWithStep starts a run and leases it; a step of it is recorded.
func leasedWithStep(t *testing.T, s *Store, c store.Consumer) store.Lease {
	t.Helper()
	startRun(t, s, "q")
	l := lease1(t, c).Lease
	settle1(t, c, store.Outcome{Lease: l, Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("a")}}})
	return l
}

// completing records a step of a run in a transaction that stays open.
func completing(step string) func(t *testing.T, s *Store, l store.Lease) pgx.Tx {
	return func(t *testing.T, s *Store, l store.Lease) pgx.Tx {
		t.Helper()
		tx := begun(t, s, `select`)
		if err := completeStep(t, s, tx, l, step); err != nil {
			t.Fatal(err)
		}
		return tx
	}
}

// A step that is settled alone, of which a transaction has a record that is not
// committed, is held up as among others: it says so, and is not waited for twice.
func TestALoneStepThatIsKeptIsHeldUp(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	startRun(t, s, "q")
	l := lease1(t, c).Lease
	step := func(name string) []store.Outcome {
		return []store.Outcome{{Lease: l, Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key(name), State: store.StepSucceeded}}}}
	}
	settle1(t, c, step("first")[0])
	tx := completing("pay")(t, s, l)
	var took []int64
	for range 2 {
		took = append(took, sent(s, func() {
			got, err := c.Settle(t.Context(), step("pay"))
			if err != nil || !errors.Is(got[0].Err, store.ErrUnavailable) {
				t.Fatalf("settled %+v, %v; want %v for the step", got, err, store.ErrUnavailable)
			}
		}))
	}
	if took[1] != took[0]-1 {
		t.Errorf("it took %d statements, then %d; want one less, for the one that waits", took[0], took[1])
	}
	commit(t, tx)
	// The first to look finds it free, so that the next is one statement again.
	settle1(t, c, step("pay")[0])
	if n := sent(s, func() { settle1(t, c, step("next")[0]) }); n != 1 {
		t.Errorf("the next step took %d statements", n)
	}
	if st := load1(t, s, l.ID).Steps[1]; st.Name != "pay" || string(st.Output) != `{"ok": true}` {
		t.Errorf("the step is %+v, want the transaction's", st)
	}
}
