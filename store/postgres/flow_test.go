package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

// flow opens a store with a workflow queue.
func flow(t *testing.T, queue string) (*Store, Config) {
	t.Helper()
	return installed(t, queue, store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 3})
}

func startRun(t *testing.T, s *Store, queue string) int64 {
	t.Helper()
	id, _, err := s.CreateWorkflow(t.Context(), store.NewRun{Workflow: queue})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// lease1 leases one run.
func lease1(t *testing.T, c store.Consumer) store.LeasedMessage {
	t.Helper()
	got, err := c.Dequeue(t.Context(), 1, time.Hour)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v; want one", len(got), err)
	}
	return got[0]
}

// settle1 settles one outcome, which must be in order.
func settle1(t *testing.T, c store.Consumer, o store.Outcome) store.Settled {
	t.Helper()
	got, err := c.Settle(t.Context(), []store.Outcome{o})
	if err != nil || got[0].Err != nil {
		t.Fatalf("settle %s of run %d: %+v, %v", o.Kind, o.ID, got, err)
	}
	return got[0]
}

// waitFor lets a run wait until it is woken.
func waitFor(t *testing.T, c store.Consumer, l store.LeasedMessage, kind store.WaitKind, news int64, steps ...store.StepResult) store.Settled {
	t.Helper()
	return settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeWait, Version: "v1", Steps: steps,
		Wait: &store.Wait{Kind: kind, For: "it", Delay: -1, News: news}})
}

func load1(t *testing.T, s *Store, id int64) store.RunState {
	t.Helper()
	got, err := s.Workflows().Load(t.Context(), id)
	if err != nil || len(got) != 1 || got[0].Run != id {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	return got[0]
}

func getRun(t *testing.T, s *Store, id int64) store.Run {
	t.Helper()
	r, err := s.Workflows().Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(name string) store.StepKey { return store.StepKey{Name: name} }

// A child's end is its parent's step, however it ends.
func TestEndsOfChildren(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "parent")
	if _, err := s.Queues().Insert(t.Context(), "child", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1}); err != nil {
		t.Fatal(err)
	}
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	parents := newConsumer(t, s, "parent")
	children, err := s.Consumer(t.Context(), "child", store.WorkerOptions{Name: "children", Slot: "children"})
	if err != nil {
		t.Fatal(err)
	}
	// as ends the child when it has been leased; others that has not been.
	as := func(kind store.OutcomeKind) func(int64) error {
		return func(int64) error {
			settle1(t, children, store.Outcome{Lease: lease1(t, children).Lease, Kind: kind, Output: []byte(`{"n": 1}`), Error: "no luck"})
			return nil
		}
	}
	for name, c := range map[string]struct {
		end   func(child int64) error
		state store.StepState
		says  string
	}{
		"done":    {as(store.OutcomeDone), store.StepSucceeded, `{"n": 1}`},
		"discard": {as(store.OutcomeDiscard), store.StepFailed, "no luck"},
		"retry":   {as(store.OutcomeRetry), store.StepFailed, "no luck"},
		"cancelled": {func(id int64) error { _, err := s.Workflows().Cancel(t.Context(), id, false); return err },
			store.StepFailed, "was cancelled"},
		"deleted": {func(id int64) error { return s.Messages().Delete(t.Context(), id) }, store.StepFailed, "was deleted"},
		"purged": {func(int64) error { _, err := s.Queues().Purge(t.Context(), "child"); return err },
			store.StepFailed, "was deleted"},
		"lease ran out": {func(id int64) error {
			l, err := children.Dequeue(t.Context(), 1, time.Microsecond)
			if err != nil || len(l) != 1 {
				return fmt.Errorf("%d messages, %w", len(l), err)
			}
			if errs, err := children.Started(t.Context(), l[0].Lease); errors.Join(append(errs, err)...) != nil {
				return errors.Join(append(errs, err)...)
			}
			_, err = admin.GiveBack(t.Context())
			return err
		}, store.StepFailed, reasonRanOut},
	} {
		parent := startRun(t, s, "parent")
		l := lease1(t, parents)
		waiting := store.StepResult{StepKey: key("ship"), Kind: store.StepChild, State: store.StepWaiting, Delay: -1,
			Child: &store.NewRun{Workflow: "child", Input: []byte(`7`)}}
		if got := waitFor(t, parents, l, store.WaitChild, 0, waiting); got.State != store.Delayed {
			t.Fatalf("%s: the parent is %s", name, got.State)
		}
		child := load1(t, s, parent).Steps[0].Child
		if r := getRun(t, s, child); r.Parent != parent || string(r.Payload) != `7` {
			t.Fatalf("%s: the child is %+v", name, r)
		}
		if r := getRun(t, s, parent); r.Status != store.RunWaiting || r.Wait.Kind != store.WaitChild || !r.Wait.Until.IsZero() {
			t.Fatalf("%s: the parent is %s, %+v", name, r.Status, r.Wait)
		}
		if err := c.end(child); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l = lease1(t, parents) // it is awake
		step := load1(t, s, parent).Steps[0]
		if text := string(step.Output) + step.Error; step.State != c.state || !strings.Contains(text, c.says) {
			t.Errorf("%s: the step is %s with %q, want %s with %q", name, step.State, text, c.state, c.says)
		}
		settle1(t, parents, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone})
	}
}

// Runs that wait until they are woken are no messages that will be due.
func TestWaitingWithoutLimitIsNeverDue(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	c := newConsumer(t, s, "q")
	promote := func(want int64, next func(time.Duration) bool) {
		t.Helper()
		n, after, err := admin.Promote(t.Context(), 100)
		if err != nil || n != want || !next(after) {
			t.Fatalf("%d promoted, the next after %s, %v; want %d", n, after, err, want)
		}
	}
	for range 3 {
		startRun(t, s, "q")
		waitFor(t, c, lease1(t, c), store.WaitSignal, 0)
	}
	promote(0, func(d time.Duration) bool { return d < 0 })
	id := startRun(t, s, "q")
	settle1(t, c, store.Outcome{Lease: lease1(t, c).Lease, Kind: store.OutcomeWait, Wait: &store.Wait{Kind: store.WaitSleep, Delay: time.Hour}})
	promote(0, func(d time.Duration) bool { return d > 0 && d <= time.Hour })
	if _, err := s.exec(t.Context(), "let it be due", `update {{schema}}.delayed set due_at = now() where id = $1`, id); err != nil {
		t.Fatal(err)
	}
	promote(1, func(d time.Duration) bool { return d < 0 })
	if l := lease1(t, c); l.ID != id {
		t.Errorf("run %d is ready, want %d", l.ID, id)
	}
}

// An application sends a signal within its own transaction, and the daemon hears of it.
func TestSendSignalInSQL(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	c := newConsumer(t, s, "q")
	id := startRun(t, s, "q")
	waitFor(t, c, lease1(t, c), store.WaitSignal, 0)
	woken := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	listening := make(chan error, 1)
	go func() { listening <- s.Listen(ctx, func(q string) { woken <- q }) }()
	<-woken // it listens
	send := func(run int64) (signal int64, err error) {
		err = pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), s.sql(`select {{schema}}.send_signal($1, 'approved', '{"by": "me"}', 'k')`), run).Scan(&signal)
		})
		return signal, err
	}
	first, err := send(id)
	if err != nil {
		t.Fatal(err)
	}
	for q := range woken {
		if q == "q" {
			break
		}
	}
	if again, err := send(id); err != nil || again != first {
		t.Errorf("signal %d, %v; want %d again", again, err, first)
	}
	l := lease1(t, c)
	state := load1(t, s, id)
	if len(state.Signals) != 1 || state.Signals[0].Topic != "approved" || string(state.Signals[0].Payload) != `{"by": "me"}` || state.News != 1 {
		t.Errorf("the run has %+v", state)
	}
	settle1(t, c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone})
	if _, err := s.Queues().Insert(t.Context(), "jobs", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "jobs", Payload: []byte("1")}})
	if err != nil {
		t.Fatal(err)
	}
	for missing, why := range map[int64]string{id: "it has ended", id + 1000: "there is no such run", jobs[0]: "it is a job, not a run"} {
		if _, err := send(missing); !isState(err, "PQ003") || !strings.Contains(err.Error(), why) {
			t.Errorf("a signal to run %d, which is not there: %v", missing, err)
		}
	}
	cancel()
	if err := <-listening; err != nil {
		t.Error(err)
	}
}

// What other senders may not send, an application may not either.
func TestSendSignalRefuses(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	id := startRun(t, s, "q")
	deep := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + `"[\"{"` + strings.Repeat(`]}`, n/2) }
	large := `"` + strings.Repeat("x", store.DefaultMaxPayloadBytes-2) + `"`
	tests := map[string]struct{ topic, payload, key, state string }{
		"no topic":      {"", "1", "", "22023"},
		"long topic":    {strings.Repeat("é", store.MaxTopic/2) + "x", "1", "", "22023"},
		"slash":         {"a/b", "1", "", "22023"},
		"long key":      {"a", "1", strings.Repeat("k", store.MaxSignalKey+1), "22023"},
		"large payload": {"a", large + " ", "", "22023"},
		"deep payload":  {"a", "[" + deep(64) + "]", "", "22023"},
		"NUL":           {"a", `"\u0000"`, "", "22P05"},
		"the largest":   {strings.Repeat("é", store.MaxTopic/2), large, strings.Repeat("k", store.MaxSignalKey), ""},
		"the deepest":   {"a", "[" + deep(62) + "]", "", ""},
	}
	for name, tt := range tests {
		_, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.send_signal($1, $2, $3::text::json, $4)`), id, tt.topic, tt.payload, tt.key)
		if (err == nil) != (tt.state == "") || err != nil && !isState(err, tt.state) {
			t.Errorf("%s: %v, want state %q", name, err, tt.state)
		}
	}
	if n := len(load1(t, s, id).Signals); n != 2 {
		t.Errorf("%d signals were sent, want 2", n)
	}
	// It has one large signal.
	for range store.MaxSignalBytes/len(large) - 2 {
		if _, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.send_signal($1, 'a', $2::text::json)`), id, large); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.pool.Exec(t.Context(), s.sql(`select {{schema}}.send_signal($1, 'a', $2::text::json)`), id, large); !isState(err, "PQ004") {
		t.Errorf("a signal more than a run may have: %v", err)
	}
}
