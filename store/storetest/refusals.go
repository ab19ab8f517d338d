package storetest

import (
	"fmt"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// says checks a word that an error must have, and that it does not end with the
// bare sentinel.
func (f *fixture) says(err error, word string) {
	f.Helper()
	if err == nil || !strings.Contains(err.Error(), word) || strings.HasSuffix(err.Error(), ": "+store.ErrInvalid.Error()) {
		f.Fatalf("error is %v, want one that says %q", err, word)
	}
}

// jobIsNoRun: whoever takes a job for a run hears that, whatever was asked.
func jobIsNoRun(f *fixture) {
	id := f.enqueue1(f.queue("jobs"))
	table := f.s.Workflows()
	errs := f.controls(id)
	_, errs["get"] = table.Get(f.ctx, id)
	errs["retry"] = table.Retry(f.ctx, id)
	_, errs["fork"] = table.Fork(f.ctx, id, store.StepKey{})
	_, errs["signals"] = table.Signals(f.ctx, id)
	_, errs["events"] = table.Events(f.ctx, id)
	for what, err := range errs {
		f.Log(what)
		equal(f, "job", as[*store.NotRunError](f, err).ID, id)
	}
}

// noWorkflow: a queue of jobs, and none at all, named as a workflow.
func noWorkflow(f *fixture) {
	f.queue("jobs")
	table := f.s.Workflows()
	uses := func(name string) map[string]error {
		_, _, create := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: name})
		_, list := table.List(f.ctx, store.RunFilter{Workflow: name})
		_, count := table.Count(f.ctx, store.RunFilter{Workflow: name})
		return map[string]error{"create": create, "list": list, "count": count}
	}
	for what, err := range uses("jobs") {
		f.Log(what)
		f.is(err, store.ErrInvalid)
		f.says(err, `queue "jobs" is for jobs, not for a workflow`)
	}
	errs := uses("nosuch")
	c, l := f.leasedRun()
	errs["child"] = f.settle(c, stepping(l, f.starting("part", "nosuch")))[0].Err
	for what, err := range errs {
		f.Log(what)
		f.unknownQueue(err, "nosuch")
		f.says(err, "`pgqrsd queue create nosuch --kind workflow`")
	}
	_, err := f.s.Queues().Get(f.ctx, "nosuch")
	f.says(err, "create it with `pgqrsd queue create nosuch`")
}

// refusalTexts: what people read is the same on every backend.
func refusalTexts(f *fixture) {
	c, id := f.failedRun()
	table := f.s.Workflows()
	_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: c.Queue(), Input: []byte(`2`), Key: "k"})
	f.is(err, store.ErrKeyConflict)
	f.says(err, fmt.Sprintf(`start workflow "%s": key "k" is run %d's`, c.Queue(), id))
	_, err = table.Fork(f.ctx, id, store.StepKey{Name: "loop", Occurrence: 7})
	f.says(err, "it has no step loop#7; it has one, stage, receive, bad, last (")
	other := f.run(c.Queue(), "")
	f.says(table.Retry(f.ctx, other), fmt.Sprintf("retry run %d: it is queued, and only a failed run", other))
	_, err = table.Fork(f.ctx, other, key("a"))
	f.says(err, "it has no step a; nothing is recorded of it")
	_, _, err = table.Send(f.ctx, store.NewSignal{Run: other})
	f.says(err, fmt.Sprintf(`send signal "" to run %d: the topic is empty`, other))
	f.cancel(other, false, store.RunCancelled)
	f.says(table.Pause(f.ctx, other), "it was cancelled")
	f.says(table.Pause(f.ctx, id), "it has failed")
}

func pauseCancelling(f *fixture) {
	c, l := f.leasedRun()
	f.cancel(l.ID, false, store.RunCancelling)
	err := f.s.Workflows().Pause(f.ctx, l.ID)
	f.is(err, store.ErrInvalid)
	f.says(err, "it is being cancelled")
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
	f.is(f.s.Workflows().Pause(f.ctx, l.ID), store.ErrInvalid)
	equal(f, "halt", f.load(f.take1(c).ID).Halt, store.HaltCancel)
}
