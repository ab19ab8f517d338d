package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// keep begins a transaction that keeps a run's row locked.
func (f *fixture) keep(schema string, run int64) *pgx.Conn {
	f.Helper()
	conn, err := pgx.Connect(f.Context(), pgtest.DSN(f.T))
	f.must(err)
	f.Cleanup(func() { _ = conn.Close(context.WithoutCancel(f.Context())) })
	f.exec(conn, `begin`)
	_, err = conn.Exec(f.Context(), `select `+pgx.Identifier{schema}.Sanitize()+`.send_signal($1, 'unasked', 'null')`, run)
	f.must(err)
	return conn
}

// An application's transaction that stays open holds up the result of the run
// that it concerns until it ends, and no other.
func TestAnOpenTransactionHoldsUpItsRunAlone(t *testing.T) {
	schema, cfg, log := overheard(t)
	f := run(t, cfg)
	parent := f.begin(plan{Do: "child", Child: &plan{Do: "wait", File: f.path("go")}})
	f.reaches(parent, store.RunWaiting)

	conn := f.keep(schema, parent)
	f.touch("go")
	f.eventually("the child's result is held up", func() bool { return log.has("results wait for rows") })
	for range 3 {
		f.reaches(f.begin(plan{Do: "steps", N: 2}), store.RunSucceeded)
	}
	f.eventually("the child's result alone is unsettled", func() bool { return f.metric("pgqrsd_unsettled", "queue", "flow") == 1 })
	f.exec(conn, `commit`)
	if r := f.reaches(parent, store.RunSucceeded); r.Attempts != 0 {
		t.Errorf("it cost the parent %d attempts", r.Attempts)
	}
	f.eventually("nothing is unsettled", func() bool { return f.metric("pgqrsd_unsettled", "queue", "flow") == 0 })
}

// A result that comes while a step of its run is held up is recorded after it:
// it ends the lease that the step needs.
func TestAResultWaitsForItsStep(t *testing.T) {
	schema, cfg, log := overheard(t)
	f := runUnserved(t, cfg)
	var other made
	f.answers(http.StatusCreated, "POST", "/api/v1/workflows/unserved/runs", `{}`, &other)
	id := f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path("diary")})
	f.eventually("its code runs", func() bool { return len(f.noted(f.path("diary"))) > 0 })
	f.d.mu.Lock()
	q := f.d.queues["flow"]
	f.d.mu.Unlock()
	conn := f.keep(schema, other.ID)

	ref := q.only(t)
	send := &handlerpb.Step{Name: "tell", Position: 1, Kind: "send", Run: other.ID, Topic: "told", Output: []byte("1")}
	q.Steps("v", []*handlerpb.StepCall{{Id: ref.ID, Claim: ref.Claim, Number: 1000, Steps: []*handlerpb.Step{send}}})
	f.eventually("the step is held up", func() bool { return log.has("results wait for rows") })
	q.Results([]host.Result{{Result: &handlerpb.Result{Id: ref.ID, Claim: ref.Claim, Outcome: handlerpb.Outcome_OUTCOME_DONE}}})
	f.exec(conn, `commit`)
	f.reaches(id, store.RunSucceeded)
	if steps := f.steps(id); !slices.Contains(steps, "tell succeeded") {
		t.Errorf("the steps are %q, and lack the one that was held up", steps)
	}
	f.touch("go")
	f.eventually("nothing is unsettled", func() bool { return f.metric("pgqrsd_unsettled", "queue", "flow") == 0 })
}

// only is the one job that a handler has.
func (q *queue) only(t *testing.T) host.Ref {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) != 1 {
		t.Fatalf("a handler has %d jobs, want one", len(q.jobs))
	}
	for ref := range q.jobs {
		return ref
	}
	panic("unreachable")
}

// Whatever order they come back in after they were put off, a job's calls go
// before its result.
func TestResultsDoNotOvertakeCalls(t *testing.T) {
	q := bookkeeping(t, 10)
	jobs := q.leased(1, 10, time.Now())
	ref := q.only(t)
	q.Steps("v", []*handlerpb.StepCall{{Id: ref.ID, Claim: ref.Claim, Number: 1, Steps: []*handlerpb.Step{{Name: "paid"}}}})
	q.Results(finished(jobs, time.Millisecond))
	kinds := func(want ...store.OutcomeKind) []entry {
		t.Helper()
		batch, outcomes := q.take(nil, nil, maxSettle)
		got := make([]store.OutcomeKind, len(outcomes))
		for i := range outcomes {
			got[i] = outcomes[i].Kind
		}
		if !slices.Equal(got, want) {
			t.Fatalf("to settle are %q, want %q", got, want)
		}
		return batch
	}
	back := func(n int) {
		t.Helper()
		for late := time.After(limit); ; {
			q.mu.Lock()
			off := q.putOff
			q.mu.Unlock()
			if off == 0 {
				break
			}
			select {
			case <-q.record:
			case <-late:
				t.Fatalf("%d are still put off", off)
			}
		}
		if _, results := q.left(); results != n {
			t.Fatalf("%d wait to be recorded, want %d", results, n)
		}
	}
	held := func(n int) []store.Settled { return slices.Repeat([]store.Settled{{Err: store.ErrLocked}}, n) }

	q.settled(kinds(store.OutcomeStep, store.OutcomeDone), held(2))
	kinds() // both are put off
	back(2)
	q.mu.Lock()
	if q.results[0].call != nil {
		slices.Reverse(q.results)
	}
	q.mu.Unlock()
	batch := kinds(store.OutcomeStep)
	if _, results := q.left(); results != 2 {
		t.Errorf("%d are unsettled, want 2", results)
	}
	back(2) // the one in hand, and the result
	q.settled(batch, held(1))
	kinds() // for the call is put off again
	back(2)
	q.mu.Lock()
	if q.results[0].call == nil {
		slices.Reverse(q.results)
	}
	q.mu.Unlock()
	kinds(store.OutcomeStep, store.OutcomeDone)
}

// Of those that are recorded one by one, a result waits as well.
func TestResultsRecordedOneByOneWait(t *testing.T) {
	q := bookkeeping(t, 10)
	jobs := q.leased(1, 10, time.Now())
	ref := q.only(t)
	q.Steps("v", []*handlerpb.StepCall{{Id: ref.ID, Claim: ref.Claim, Number: 1, Steps: []*handlerpb.Step{{Name: "paid"}}}})
	q.Results(finished(jobs, time.Millisecond))
	batch, _ := q.take(nil, nil, maxSettle)
	q.settled(batch[:1], []store.Settled{{Err: store.ErrLocked}})
	if rest := q.settleEach(t.Context(), batch[1:]); len(rest) != 0 || q.settling != 0 {
		t.Errorf("%d are to be tried again at once, and %d in hand, want none", len(rest), q.settling)
	}
	if _, results := q.left(); results != 2 {
		t.Errorf("%d are unsettled, want the call and the result", results)
	}
}

// What cannot be changed because an application's transaction keeps it locked is
// refused, and nothing else is: the database answers.
func TestALockedRunIsNoOutage(t *testing.T) {
	schema := pgtest.Schema(t)
	f := runUnserved(t, testConfig(t, openPostgres(t, pgtest.DSN(t), schema)))
	var one made
	f.answers(http.StatusCreated, "POST", "/api/v1/workflows/unserved/runs", `{}`, &one)
	conn := f.keep(schema, one.ID)
	path := fmt.Sprintf("/api/v1/runs/%d/pause", one.ID)
	code, header, body := f.call("POST", path, "")
	if want := `{"error":"` + store.ErrLocked.Error() + `","rule":"locked"}`; code != http.StatusServiceUnavailable || compact(t, body) != want || header.Get("Retry-After") != "1" {
		t.Errorf("answered %d %s, Retry-After %q, want %s", code, body, header.Get("Retry-After"), want)
	}
	if up := f.metric("pgqrsd_database_up"); up != 1 || f.d.database.isDown() {
		t.Errorf("pgqrsd_database_up is %v", up)
	}
	f.posts(`{"messages":[{"payload":{}}]}`, http.StatusCreated, "")
	f.exec(conn, `rollback`)
	f.answers(http.StatusOK, "POST", path, "", nil)
}

// A stop ends in its time though an application's transaction keeps the lease of
// a run, and says that it is left. The next daemon here takes it back.
func TestAStopEndsThoughALeaseIsKept(t *testing.T) {
	schema := pgtest.Schema(t)
	cfg := testConfig(t, openPostgres(t, pgtest.DSN(t), schema))
	f := run(t, cfg)
	begin := func(diary string) int64 {
		t.Helper()
		id := f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path(diary)})
		f.eventually("its code runs", func() bool { return slices.Contains(f.noted(f.path(diary)), "waits") })
		return id
	}
	kept := begin("kept")
	other := begin("other")
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	f.must(err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	f.exec(conn, `begin`)
	in := pgx.Identifier{schema}.Sanitize()
	_, err = conn.Exec(t.Context(), `select `+in+`.complete_step($1, worker_id, claim, 'waits', 0, 1, '""') from `+in+`.claims where $1 = any(ids)`, kept)
	f.must(err)

	f.stop()
	f.d.ReleaseNow() // which only makes it quicker
	if err := f.end(); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "1 messages stay leased") {
		t.Errorf("Run returned %v, want %v", err, store.ErrLocked)
	}
	if m := f.get(kept); m.State != store.Leased {
		t.Errorf("the run whose lease is kept is %s", m.State)
	}
	if m := f.get(other); m.State != store.Ready || m.Attempts != 0 {
		t.Errorf("the other run is %s with %d attempts", m.State, m.Attempts)
	}
	f.exec(conn, `commit`)
	f.touch("go")
	again := run(t, cfg)
	for _, id := range []int64{kept, other} {
		if r := again.reaches(id, store.RunSucceeded); r.Attempts != 0 {
			t.Errorf("the stop cost run %d %d attempts", id, r.Attempts)
		}
	}
	if ran := f.noted(f.path("kept")); !slices.Equal(ran, []string{"before", "waits", "after"}) {
		t.Errorf("the steps %q ran, want not again the one that the transaction recorded", ran)
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
