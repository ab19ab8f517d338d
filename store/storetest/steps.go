package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func stepCases() []testCase {
	return []testCase{
		{"ExecuteOnce", stepExecuteOnce},
		{"Failed", stepFailed},
		{"Typed", stepTyped},
		{"Occurrences", stepOccurrences},
		{"RunningAgainAfterACrash", stepRunningAgain},
		{"RecordedOnce", stepRecordedOnce},
		{"LostLease", stepLostLease},
		{"FinishedRun", stepFinishedRun},
		{"BadOutput", stepBadOutput},
		{"BadKey", stepBadKey},
		{"ListInOrder", stepList},
		{"OfNoRun", stepsOfNoRun},
		{"AcquireBeginsTheRun", acquireBegins},
		{"OfEachRunAlone", stepRunsApart},
		{"GoWithTheArchivedRun", stepArchiveDelete},
		{"WithAnOutcome", stepWithOutcome},
		{"CarryOnAfterACrash", workflowCarriesOn},
		{"KeptByReplay", workflowReplay},
	}
}

// acquire acquires a step and checks whether it is to be executed.
func (f *fixture) acquire(l store.LeasedMessage, name string, occurrence int, execute bool) store.Step {
	f.Helper()
	key := store.StepKey{Name: name, Occurrence: occurrence}
	s, err := f.s.AcquireStep(f.ctx, l.Lease, key)
	f.ok(err)
	equal(f, "execute", s.Execute(), execute)
	equal(f, "key", s.Record().StepKey, key)
	equal(f, "run", s.Record().Run, l.ID)
	return s
}

// step executes a step of a run and records its output.
func (f *fixture) step(l store.LeasedMessage, name string, occurrence int, output string) {
	f.Helper()
	f.ok(f.acquire(l, name, occurrence, true).Complete(f.ctx, []byte(output)))
}

func (f *fixture) steps(run int64) []store.StepRecord {
	f.Helper()
	steps, err := f.s.Workflows().Steps(f.ctx, run)
	f.ok(err)
	return steps
}

// noSteps checks that nothing is recorded of a run that is gone.
func (f *fixture) noSteps(run int64) {
	f.Helper()
	steps, err := f.s.Workflows().Steps(f.ctx, run)
	if err != nil && !errors.Is(err, store.ErrNotFound) || len(steps) > 0 {
		f.Fatalf("steps of run %d, which is gone, are %+v, error %v", run, steps, err)
	}
}

func stepExecuteOnce(f *fixture) {
	_, l := f.leasedRun()
	at := f.clock.Now()
	s := f.acquire(l, "fetch", 0, true)
	r := s.Record()
	equal(f, "state", r.State, store.StepRunning)
	equal(f, "tries", r.Tries, 1)
	equalTime(f, "started at", r.StartedAt, at)
	end := f.clock.Advance(time.Second)
	f.ok(s.Complete(f.ctx, []byte(` {"b":1, "a":2}`)))
	for _, r := range []store.StepRecord{f.acquire(l, "fetch", 0, false).Record(), f.steps(l.ID)[0]} {
		equal(f, "state", r.State, store.StepSucceeded)
		equal(f, "tries", r.Tries, 1)
		equal(f, "output", string(r.Output), ` {"b":1, "a":2}`)
		equalTime(f, "started at", r.StartedAt, at)
		equalTime(f, "finished at", r.FinishedAt, end)
	}
}

func stepFailed(f *fixture) {
	_, l := f.leasedRun()
	f.ok(f.acquire(l, "fetch", 0, true).Fail(f.ctx, "no \x00 route"))
	r := f.acquire(l, "fetch", 0, false).Record()
	equal(f, "state", r.State, store.StepFailed)
	equal(f, "error", r.Error, store.CleanText("no \x00 route"))
	key := store.StepKey{Name: "fetch"}
	_, _, execute, err := store.AcquireStep[int](f.ctx, f.s, l.Lease, key)
	equal(f, "execute", execute, false)
	e := as[*store.StepError](f, err)
	if e.StepKey != key || e.Reason != r.Error {
		f.Fatalf("error is %+v", *e)
	}
}

func stepTyped(f *fixture) {
	type totals struct {
		Lines int
		Names []string
	}
	_, l := f.leasedRun()
	key := store.StepKey{Name: "count"}
	s, out, execute, err := store.AcquireStep[totals](f.ctx, f.s, l.Lease, key)
	f.ok(err)
	equal(f, "execute", execute, true)
	equal(f, "lines before", out.Lines, 0)
	f.ok(store.Succeed(f.ctx, s, totals{Lines: 3, Names: []string{"a", "b"}}))
	_, out, execute, err = store.AcquireStep[totals](f.ctx, f.s, l.Lease, key)
	f.ok(err)
	equal(f, "execute", execute, false)
	if out.Lines != 3 || len(out.Names) != 2 || out.Names[1] != "b" {
		f.Fatalf("output is %+v", out)
	}
	if _, _, _, err := store.AcquireStep[int](f.ctx, f.s, l.Lease, key); err == nil {
		f.Fatal("an object was decoded as an int")
	}
	s = f.acquire(l, "odd", 0, true)
	f.is(store.Succeed(f.ctx, s, make(chan int)), store.ErrInvalid)
	f.ok(store.Succeed(f.ctx, s, struct{}{}))
}

func stepOccurrences(f *fixture) {
	_, l := f.leasedRun()
	for i := range 5 {
		f.step(l, "loop", i, fmt.Sprint(i))
	}
	f.step(l, "Loop", 0, `"another name"`)
	for i := range 5 {
		equal(f, "output", string(f.acquire(l, "loop", i, false).Record().Output), fmt.Sprint(i))
	}
	f.acquire(l, "loop", 5, true)
}

func stepRunningAgain(f *fixture) {
	c, l := f.leasedRun()
	old := f.acquire(l, "fetch", 0, true)
	f.runOut()
	b := f.on(f.second()).consumer(c.Queue())
	l = f.take1(b)
	s := f.acquire(l, "fetch", 0, true)
	equal(f, "tries", s.Record().Tries, 2)
	f.is(old.Complete(f.ctx, []byte(`"old"`)), store.ErrLeaseLost)
	f.is(old.Fail(f.ctx, "old"), store.ErrLeaseLost)
	equal(f, "state", f.steps(l.ID)[0].State, store.StepRunning)
	f.ok(s.Complete(f.ctx, []byte(`"new"`)))
	r := f.steps(l.ID)[0]
	equal(f, "output", string(r.Output), `"new"`)
	equal(f, "tries", r.Tries, 2)
	f.is(old.Complete(f.ctx, []byte(`"old"`)), store.ErrLeaseLost)
	equal(f, "output", string(f.steps(l.ID)[0].Output), `"new"`)
}

func stepRecordedOnce(f *fixture) {
	_, l := f.leasedRun()
	done, failed := f.acquire(l, "done", 0, true), f.acquire(l, "failed", 0, true)
	f.ok(done.Complete(f.ctx, []byte(`1`)))
	f.ok(failed.Fail(f.ctx, "no"))
	for _, s := range []store.Step{done, failed} {
		f.is(s.Complete(f.ctx, []byte(`2`)), store.ErrTerminal)
		f.is(s.Fail(f.ctx, "again"), store.ErrTerminal)
	}
	steps := f.steps(l.ID)
	equal(f, "output", string(steps[0].Output), `1`)
	equal(f, "error", steps[1].Error, "no")
}

func stepLostLease(f *fixture) {
	c, l := f.leasedRun()
	f.runOut()
	f.take1(c)
	_, err := f.s.AcquireStep(f.ctx, l.Lease, store.StepKey{Name: "fetch"})
	f.is(err, store.ErrLeaseLost)
	_, _, _, err = store.AcquireStep[int](f.ctx, f.s, l.Lease, store.StepKey{Name: "fetch"})
	f.is(err, store.ErrLeaseLost)
	equal(f, "steps", len(f.steps(l.ID)), 0)
}

func stepFinishedRun(f *fixture) {
	c, l := f.leasedRun()
	s := f.acquire(l, "fetch", 0, true)
	f.done(c, l)
	f.is(s.Complete(f.ctx, nil), store.ErrLeaseLost)
	_, err := f.s.AcquireStep(f.ctx, l.Lease, store.StepKey{Name: "late"})
	f.is(err, store.ErrLeaseLost)
	equal(f, "steps", len(f.steps(l.ID)), 1)
}

func stepBadOutput(f *fixture) {
	_, l := f.leasedRun()
	s := f.acquire(l, "fetch", 0, true)
	for output, rule := range map[string]string{
		`{`: store.RuleJSON, `"\u0000"`: store.RuleNUL, `1e999`: store.RuleNumberRange,
	} {
		equal(f, "rule", as[*store.PayloadError](f, s.Complete(f.ctx, []byte(output))).Rule, rule)
	}
	equal(f, "state", f.steps(l.ID)[0].State, store.StepRunning)
	f.ok(s.Complete(f.ctx, nil))
	equal(f, "length of the output", len(f.acquire(l, "fetch", 0, false).Record().Output), 0)
}

func stepBadKey(f *fixture) {
	_, l := f.leasedRun()
	for _, key := range []store.StepKey{
		{}, {Name: "a\x00"}, {Name: "a\xff"}, {Name: "a", Occurrence: -1}, {Name: strings.Repeat("a", store.MaxStepName+1)},
	} {
		_, err := f.s.AcquireStep(f.ctx, l.Lease, key)
		f.is(err, store.ErrInvalid)
	}
	f.step(l, strings.Repeat("a", store.MaxStepName), 0, `1`)
	f.step(l, "any text: 'ünï' \"quoted\"", 0, `1`)
}

func stepList(f *fixture) {
	_, l := f.leasedRun()
	names := []string{"c", "a", "d", "b"}
	for i, name := range names {
		f.clock.Advance(time.Second)
		f.step(l, name, 0, fmt.Sprint(i))
	}
	steps := f.steps(l.ID)
	equal(f, "steps", len(steps), len(names))
	for i, s := range steps {
		equal(f, "name", s.Name, names[i])
		equal(f, "output", string(s.Output), fmt.Sprint(i))
		equal(f, "run", s.Run, l.ID)
	}
}

func stepRunsApart(f *fixture) {
	q := f.flow("flow")
	f.run(q, "")
	f.run(q, "")
	c := f.consumer(q)
	got := f.take(c, 2)
	f.step(got[0], "fetch", 0, `1`)
	f.step(got[1], "fetch", 0, `2`)
	equal(f, "output", string(f.acquire(got[0], "fetch", 0, false).Record().Output), `1`)
	equal(f, "output", string(f.acquire(got[1], "fetch", 0, false).Record().Output), `2`)
}

// finishedRun runs a workflow with a key and one step to its end.
func (f *fixture) finishedRun(key string) (queue string, id int64) {
	f.Helper()
	queue = f.flow("flow")
	id = f.run(queue, key)
	c := f.consumer(queue)
	l := f.take1(c)
	f.step(l, "fetch", 0, `1`)
	f.done(c, l)
	equal(f, "steps", len(f.steps(id)), 1)
	return queue, id
}

// stepArchiveDelete: with a run go its steps and its key.
func stepArchiveDelete(f *fixture) {
	q, id := f.finishedRun("k")
	f.ok(f.s.Archive().Delete(f.ctx, id))
	f.noSteps(id)
	f.run(q, "k")
}

// stepWithOutcome records steps together with an outcome: one that is running,
// a new one, and one that is recorded already, which stays as it is.
func stepWithOutcome(f *fixture) {
	c, l := f.leasedRun()
	f.step(l, "done", 0, `1`)
	f.acquire(l, "running", 0, true)
	o := outcome(l, store.OutcomeDone)
	for _, name := range []string{"done", "running", "new"} {
		o.Steps = append(o.Steps, store.StepResult{StepKey: store.StepKey{Name: name}, Output: []byte(`2`)})
	}
	f.settleAs(c, store.Done, o)
	want := map[string]string{"done": `1`, "running": `2`, "new": `2`}
	for _, r := range f.steps(l.ID) {
		equal(f, "state of step "+r.Name, r.State, store.StepSucceeded)
		equal(f, "output of step "+r.Name, string(r.Output), want[r.Name])
		equal(f, "tries of step "+r.Name, r.Tries, 1)
	}
	equal(f, "steps", f.getRun(l.ID).Steps, 3)
}

// workflowCarriesOn loses a run in its second step; the next holder gets the
// first step's result and executes the second again.
func workflowCarriesOn(f *fixture) {
	c, l := f.leasedRun()
	f.start(c, l)
	f.step(l, "fetch", 0, `{"bytes": 10}`)
	_, err := f.s.AcquireStep(f.ctx, l.Lease, store.StepKey{Name: "store"})
	f.ok(err)
	f.runOut()
	l = f.take1(f.on(f.second()).consumer(c.Queue()))
	equal(f, "attempt", l.Attempt, 2)
	s, err := f.s.AcquireStep(f.ctx, l.Lease, store.StepKey{Name: "fetch"})
	f.ok(err)
	equal(f, "execute", s.Execute(), false)
	equal(f, "output", string(s.Record().Output), `{"bytes": 10}`)
	s, err = f.s.AcquireStep(f.ctx, l.Lease, store.StepKey{Name: "store"})
	f.ok(err)
	equal(f, "execute", s.Execute(), true)
	f.ok(s.Complete(f.ctx, nil))
	f.ok(f.s.Workflow(l.ID).Complete(f.ctx, l.Lease, nil))
	equal(f, "steps", f.getRun(l.ID).Steps, 2)
}

func workflowReplay(f *fixture) {
	c, l := f.leasedRun()
	f.step(l, "fetch", 0, `7`)
	f.ok(f.s.Workflow(l.ID).Fail(f.ctx, l.Lease, "no"))
	errs, err := f.s.Archive().Replay(f.ctx, l.ID)
	f.allOK(errs, err)
	l = f.take1(c)
	_, out, execute, err := store.AcquireStep[int](f.ctx, f.s, l.Lease, store.StepKey{Name: "fetch"})
	f.ok(err)
	equal(f, "execute", execute, false)
	equal(f, "output", out, 7)
}
