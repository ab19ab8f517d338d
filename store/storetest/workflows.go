package storetest

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func workflowCases() []testCase {
	return []testCase{
		{"Create", createWorkflow},
		{"CreateUnknown", createUnknown},
		{"KeyIsIdempotent", keyIdempotent},
		{"KeyConflict", keyConflict},
		{"KeyOfAnInputWithOtherSpaces", keySpaces},
		{"KeyLength", keyLength},
		{"KeyRaces", keyRaces},
		{"Get", workflowGet},
		{"ListIsPagedAndFiltered", workflowList},
		{"Delete", workflowDelete},
		{"Start", workflowStart},
		{"StartCountsAsStarted", workflowStartCounts},
		{"Complete", workflowComplete},
		{"CompleteWithBadOutput", workflowBadOutput},
		{"Fail", workflowFail},
		{"MissingRun", workflowMissing},
		{"FinishedRun", workflowTerminal},
		{"CancelledRun", workflowCancelled},
		{"LostLease", workflowLost},
		{"LeaseOfAnotherRun", workflowWrongLease},
		{"TwoHoldersOneWrites", workflowTwoHolders},
	}
}

// flow makes a queue of workflows.
func (f *fixture) flow(name string) string {
	f.Helper()
	return f.queue(name, store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 3})
}

func (f *fixture) run(workflow, key string) int64 {
	f.Helper()
	id, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: workflow, Input: payload(1), Key: key})
	f.ok(err)
	if !created || id <= 0 {
		f.Fatalf("run %d, created %t", id, created)
	}
	return id
}

// leasedRun starts a run and leases it.
func (f *fixture) leasedRun() (store.Consumer, store.LeasedMessage) {
	f.Helper()
	q := f.flow("flow")
	f.run(q, "")
	c := f.consumer(q)
	return c, f.take1(c)
}

func (f *fixture) getRun(id int64) store.Run {
	f.Helper()
	r, err := f.s.Workflows().Get(f.ctx, id)
	f.ok(err)
	equal(f, "id of the run", r.ID, id)
	return r
}

func createWorkflow(f *fixture) {
	q := f.flow("flow")
	headers := map[string]string{"traceparent": "00-1"}
	id, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{
		Workflow: q, Input: []byte(`{"b":1, "a":2}`), Key: "order-1", Delay: lease, Headers: headers,
	})
	f.ok(err)
	equal(f, "created", created, true)
	r := f.getRun(id)
	equal(f, "state", r.State, store.Delayed)
	equal(f, "key", r.Key, "order-1")
	equal(f, "queue", r.Queue, q)
	equal(f, "input", string(r.Payload), `{"b":1, "a":2}`)
	equal(f, "steps", r.Steps, 0)
	equalTime(f, "available at", r.AvailableAt, f.clock.Now().Add(lease))
	equalTime(f, "begun at", r.BegunAt, time.Time{})
	if !maps.Equal(r.Headers, headers) {
		f.Fatalf("headers are %v", r.Headers)
	}
	f.clock.Advance(lease)
	f.promote(f.admin(), 1, 1, -1)
	equal(f, "message", f.take1(f.consumer(q)).ID, id)

	other, created, err := f.s.Workflows().Insert(f.ctx, store.NewRun{Workflow: q, Input: payload(1)})
	f.ok(err)
	if !created || other == id || f.s.Workflow(other).ID() != other {
		f.Fatalf("run %d, created %t", other, created)
	}
}

func createUnknown(f *fixture) {
	f.flow("flow")
	_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: "flaw", Input: payload(1)})
	f.unknownQueue(err, "flaw")
	_, _, err = f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: "flow", Input: []byte(`nope`)})
	equal(f, "rule", as[*store.PayloadError](f, err).Rule, store.RuleJSON)
	f.queue("jobs")
	for _, bad := range []store.NewRun{
		{Workflow: "flow", Input: payload(1), Delay: -1},
		{Workflow: "flow", Input: payload(1), Key: "a\x00"},
		{Workflow: "flow", Input: payload(1), Key: "\xff"},
		{Workflow: "no flow", Input: payload(1)},
		{Workflow: "jobs", Input: payload(1)},
	} {
		_, created, err := f.s.CreateWorkflow(f.ctx, bad)
		f.is(err, store.ErrInvalid)
		equal(f, "created", created, false)
	}
	equal(f, "messages stored", len(f.ledger()), 0)
}

func workflowGet(f *fixture) {
	c, l := f.leasedRun()
	r := f.getRun(l.ID)
	equal(f, "state", r.State, store.Leased)
	equal(f, "worker", r.Worker, c.ID())
	f.step(l, "one", 0, `1`)
	f.step(l, "two", 0, `2`)
	equal(f, "steps", f.getRun(l.ID).Steps, 2)
	f.done(c, l)
	r = f.getRun(l.ID)
	equal(f, "state", r.State, store.Done)
	equal(f, "steps", r.Steps, 2)
	_, err := f.s.Workflows().Get(f.ctx, missing)
	f.is(err, store.ErrNotFound)
	_, err = f.s.Workflows().Get(f.ctx, f.enqueue1(f.queue("jobs"))) // a message, but no run
	f.is(err, store.ErrNotFound)
}

func workflowList(f *fixture) {
	a, b := f.flow("a"), f.flow("b")
	f.enqueue(f.queue("jobs"), 3)
	var inA, all []int64
	for i := range 6 {
		id := f.run([]string{a, b}[i%2], "")
		if all = append(all, id); i%2 == 0 {
			inA = append(inA, id)
		}
	}
	c := f.consumer(a)
	f.done(c, f.take1(c))
	f.settleAs(c, store.Dead, outcome(f.take1(c), store.OutcomeDiscard))
	for _, t := range []struct {
		filter store.RunFilter
		want   []int64
	}{
		{store.RunFilter{}, all},
		{store.RunFilter{Workflow: a}, inA},
		{store.RunFilter{Workflow: a, State: store.Done}, inA[:1]},
		{store.RunFilter{Workflow: a, State: store.Dead}, inA[1:2]},
		{store.RunFilter{Workflow: a, State: store.Ready}, inA[2:]},
		{store.RunFilter{State: store.Cancelled}, nil},
		{store.RunFilter{Workflow: a, Open: true}, inA[2:]},
		{store.RunFilter{Workflow: a, Open: true, Status: store.RunFailed}, nil},
		{store.RunFilter{Workflow: a, Open: true, State: store.Dead}, nil},
	} {
		n, err := f.s.Workflows().Count(f.ctx, t.filter)
		f.ok(err)
		equal(f, fmt.Sprintf("count of %+v", t.filter), n, int64(len(t.want)))
		for _, limit := range []int{1, 4, 50} {
			got := f.pages(limit, func(p store.Page) ([]store.Message, error) {
				filter := t.filter
				filter.Page = p
				runs, err := f.s.Workflows().List(f.ctx, filter)
				msgs := make([]store.Message, len(runs))
				for i, r := range runs {
					msgs[i] = r.Message
				}
				return msgs, err
			})
			equalIDs(f, fmt.Sprintf("runs of %+v", t.filter), got, t.want)
		}
	}
}

func workflowDelete(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "k")
	table := f.s.Workflows()
	f.is(table.Delete(f.ctx, id), store.ErrInvalid)
	c := f.consumer(q)
	l := f.take1(c)
	f.is(table.Delete(f.ctx, id), store.ErrLeased)
	f.step(l, "one", 0, `1`)
	f.done(c, l)
	f.ok(table.Delete(f.ctx, id))
	f.gone(id)
	f.noSteps(id)
	f.is(table.Delete(f.ctx, id), store.ErrNotFound)
	if again := f.run(q, "k"); again <= id {
		f.Fatalf("run %d came after run %d", again, id)
	}
}

func workflowStart(f *fixture) {
	c, l := f.leasedRun()
	w := f.s.Workflow(l.ID)
	at := f.clock.Now()
	f.ok(w.Start(f.ctx, l.Lease))
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, at)
	f.clock.Advance(time.Second)
	f.ok(w.Start(f.ctx, l.Lease))
	f.settle(c, outcome(l, store.OutcomeRetry))
	l = f.take1(c)
	f.ok(w.Start(f.ctx, l.Lease)) // again, after a crash
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, at)
	f.done(c, l)
	equalTime(f, "begun at", f.getRun(l.ID).BegunAt, at)
}

// workflowStartCounts: a run that has begun loses an attempt with its lease.
func workflowStartCounts(f *fixture) {
	c, l := f.leasedRun()
	f.ok(f.s.Workflow(l.ID).Start(f.ctx, l.Lease))
	equal(f, "started", f.get(l.ID).Started, true)
	f.runOut()
	equal(f, "attempt", f.take1(c).Attempt, 2)
}

func workflowComplete(f *fixture) {
	c, l := f.leasedRun()
	w := f.s.Workflow(l.ID)
	f.ok(w.Start(f.ctx, l.Lease))
	f.ok(w.Complete(f.ctx, l.Lease, []byte(`{"sum": 3}`)))
	m := f.state(l.ID, store.Done, 0)
	equal(f, "output", string(m.Output), `{"sum": 3}`)
	equal(f, "worker", m.Worker, c.ID())
	f.settleIs(c, store.ErrLeaseLost, outcome(l, store.OutcomeDone))
	f.takeNone(c)
}

func workflowBadOutput(f *fixture) {
	_, l := f.leasedRun()
	w := f.s.Workflow(l.ID)
	err := w.Complete(f.ctx, l.Lease, []byte(`{`))
	equal(f, "rule", as[*store.PayloadError](f, err).Rule, store.RuleJSON)
	f.state(l.ID, store.Leased, 0)
	f.ok(w.Complete(f.ctx, l.Lease, nil))
}

func workflowFail(f *fixture) {
	_, l := f.leasedRun()
	f.ok(f.s.Workflow(l.ID).Fail(f.ctx, l.Lease, "no \x00 such order"))
	m := f.state(l.ID, store.Dead, 1)
	equal(f, "errors", len(m.Errors), 1)
	equal(f, "reason", m.Errors[0].Error, store.CleanText("no \x00 such order"))
}

// workflowRefused tries every write of a handle and checks that each is refused.
func (f *fixture) workflowRefused(id int64, l store.Lease, want error) {
	f.Helper()
	before, gone := f.snapshot(id)
	w := f.s.Workflow(id)
	f.is(w.Start(f.ctx, l), want)
	f.is(w.Complete(f.ctx, l, payload(9)), want)
	f.is(w.Fail(f.ctx, l, "late"), want)
	f.unchanged(before, gone, id)
}

func workflowMissing(f *fixture) {
	_, l := f.leasedRun()
	l.ID = missing
	f.workflowRefused(missing, l.Lease, store.ErrNotFound)
}

func workflowTerminal(f *fixture) {
	c, l := f.leasedRun()
	f.done(c, l)
	f.workflowRefused(l.ID, l.Lease, store.ErrTerminal)
}

func workflowCancelled(f *fixture) {
	q := f.flow("flow")
	id := f.run(q, "k")
	errs, err := f.s.Archive().Insert(f.ctx, "not wanted", id)
	f.allOK(errs, err)
	r := f.getRun(id)
	equal(f, "state", r.State, store.Cancelled)
	equal(f, "key", r.Key, "k")
	f.workflowRefused(id, store.Lease{Worker: 1, Claim: 1, ID: id}, store.ErrTerminal)
	f.ok(f.s.Workflows().Delete(f.ctx, id))
}

func workflowLost(f *fixture) {
	c, l := f.leasedRun()
	f.runOut()
	again := f.take1(c)
	f.workflowRefused(l.ID, l.Lease, store.ErrLeaseLost)
	f.ok(f.s.Workflow(l.ID).Complete(f.ctx, again.Lease, nil))
}

func workflowWrongLease(f *fixture) {
	q := f.flow("flow")
	first, second := f.run(q, ""), f.run(q, "")
	c := f.consumer(q)
	got := f.take(c, 2)
	f.workflowRefused(first, got[1].Lease, store.ErrLeaseLost)
	f.state(second, store.Leased, 0)
	f.done(c, got...)
}

func workflowTwoHolders(f *fixture) {
	q := f.flow("flow")
	a, b := f.consumer(q), f.on(f.second()).consumer(q)
	for range races {
		id := f.run(q, "")
		la := f.take1(a)
		f.runOut()
		lb := f.take1(b)
		var errA, errB error
		race(
			func() { errA = f.s.Workflow(id).Complete(f.ctx, la.Lease, []byte(`"a"`)) },
			func() { errB = f.s.Workflow(id).Complete(f.ctx, lb.Lease, []byte(`"b"`)) },
		)
		f.ok(errB)
		if !errors.Is(errA, store.ErrLeaseLost) && !errors.Is(errA, store.ErrTerminal) {
			f.Fatalf("the holder of the lost lease got %v", errA)
		}
		equal(f, "output", string(f.state(id, store.Done, 0).Output), `"b"`)
	}
}
