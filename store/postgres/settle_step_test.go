package postgres

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// A step that is recorded alone, which is one call of a function, becomes the
// same as one that is recorded among others.
func TestALoneStepIsRecordedAsManyAre(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "flow")
	alone, among, other := startRun(t, s, "flow"), startRun(t, s, "flow"), startRun(t, s, "flow")
	c := newConsumer(t, s, "flow")
	leases := map[int64]store.Lease{}
	leased, err := c.Dequeue(t.Context(), 3, time.Hour)
	if err != nil || len(leased) != 3 {
		t.Fatalf("%d runs, %v", len(leased), err)
	}
	for _, l := range leased {
		leases[l.ID] = l.Lease
	}
	step := func(run int64, r store.StepResult) store.Outcome {
		return store.Outcome{Lease: leases[run], Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{r}}
	}
	// From here on all that a step notes of its run is noted.
	for _, run := range []int64{alone, among, other} {
		settle1(t, c, step(run, store.StepResult{StepKey: key("first"), State: store.StepSucceeded}))
	}

	at := func(name string, occurrence int) store.StepKey {
		return store.StepKey{Name: name, Occurrence: occurrence}
	}
	for i, r := range []store.StepResult{
		{StepKey: at("a", 0), Kind: store.StepBody, Position: 2, State: store.StepSucceeded, Output: []byte(`{"of": "a"}`), Took: time.Minute},
		{StepKey: at("a", 0), Kind: store.StepBody, Position: 2, State: store.StepFailed, Error: "too late"},
		{StepKey: at("a", 1), Kind: store.StepBody, Position: 3, State: store.StepWaiting, Tries: 1, Error: "not yet", Delay: time.Hour},
		{StepKey: at("a", 1), Kind: store.StepBody, Position: 3, State: store.StepWaiting, Tries: 1, Error: "the same try", Delay: time.Minute},
		{StepKey: at("a", 1), Kind: store.StepBody, Position: 3, State: store.StepWaiting, Tries: 2, Error: "still not", Delay: 2 * time.Hour},
		{StepKey: at("a", 2), Kind: store.StepBody, State: store.StepWaiting, Error: "never", Delay: -1},
		{StepKey: at("a", 1), Kind: store.StepBody, Position: 3, State: store.StepFailed, Tries: 3, Error: "in the end"},
		{StepKey: at("b", 0), Kind: store.StepSignal, Position: 4, State: store.StepWaiting, Topic: "it", Delay: time.Hour},
		{StepKey: at("b", 0), Kind: store.StepSignal, Position: 4, State: store.StepFailed, Error: "no signal"},
		{StepKey: at("c", 0), Kind: store.StepSleep, Position: 5, State: store.StepSucceeded},
	} {
		if n := sent(s, func() { settle1(t, c, step(alone, r)) }); n != 1 {
			t.Errorf("step %d alone took %d statements", i, n)
		}
		o := step(other, store.StepResult{StepKey: at("filler", i), State: store.StepSucceeded})
		got, err := c.Settle(t.Context(), []store.Outcome{step(among, r), o})
		if err != nil || got[0].Err != nil || got[1].Err != nil {
			t.Fatal(got, err)
		}
		if a, b := timeless(t, s, alone), timeless(t, s, among); !reflect.DeepEqual(a, b) {
			t.Fatalf("after step %d, alone:\n%+v\namong others:\n%+v", i, a, b)
		}
	}

	for _, run := range []int64{alone, among} {
		if _, err := s.Workflows().Cancel(t.Context(), run, false); err != nil {
			t.Fatal(err)
		}
	}
	last := store.StepResult{StepKey: at("last", 0), State: store.StepSucceeded}
	if got := settle1(t, c, step(alone, last)); got.Halt != store.HaltCancel || got.State != store.Leased {
		t.Errorf("the run is being cancelled, and the answer is %+v", got)
	}
	lost := leases[among]
	settle1(t, c, store.Outcome{Lease: lost, Kind: store.OutcomeRelease})
	got, err := c.Settle(t.Context(), []store.Outcome{step(among, last)})
	if err != nil || !errors.Is(got[0].Err, store.ErrLeaseLost) {
		t.Errorf("under a lost lease: %+v, %v", got, err)
	}
}

// timeless is the recorded steps of a run but for what depends on the time.
func timeless(t *testing.T, s *Store, run int64) []store.StepRecord {
	t.Helper()
	steps, err := s.Workflows().Steps(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	for i := range steps {
		r := &steps[i]
		if r.FinishedAt.IsZero() != (r.State == store.StepWaiting) || r.StartedAt.IsZero() {
			t.Errorf("%s[%d] is %s, started at %v, finished at %v", r.Name, r.Occurrence, r.State, r.StartedAt, r.FinishedAt)
		}
		if r.FinishedAt.Before(r.StartedAt) && !r.FinishedAt.IsZero() {
			t.Errorf("%s[%d] finished at %v, before it started at %v", r.Name, r.Occurrence, r.FinishedAt, r.StartedAt)
		}
		r.Run, r.StartedAt, r.FinishedAt, r.DueAt = 0, time.Time{}, time.Time{}, time.Time{}
		r.Remaining = r.Remaining.Round(time.Minute)
	}
	return steps
}
