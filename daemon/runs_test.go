package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func TestRunsRecordTheirStepsOnce(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.Retain = RetainDelete // which runs do not heed
		f := run(t, cfg)
		f.eventually("the queue of the workflow", func() bool {
			q, err := s.Queues().Get(t.Context(), "flow")
			return err == nil && q.Kind == store.WorkflowQueue
		})
		diary := f.path("diary")
		var ids []int64
		for range 20 {
			ids = append(ids, f.begin(plan{Do: "steps", N: 3, Diary: diary}))
		}
		for _, id := range ids {
			r := f.reaches(id, store.RunSucceeded)
			if r.Version != "v1" || len(r.Errors) > 0 {
				t.Errorf("run %d: version %q, errors %+v", id, r.Version, r.Errors)
			}
			want := []string{"before succeeded", "step succeeded", "step succeeded", "step succeeded", "after succeeded"}
			if got := f.steps(id); !slices.Equal(got, want) {
				t.Errorf("run %d has steps %q", id, got)
			}
		}
		if n := len(f.noted(diary)); n != 100 {
			t.Errorf("%d bodies ran, want 100", n)
		}
		// What was committed is counted a moment later.
		f.eventually("all steps and runs are counted, once each", func() bool {
			return f.metric("pgqrsd_steps_total", "queue", "flow") == 100 &&
				f.metric("pgqrsd_settled_total", "queue", "flow", "outcome", "done") == 20
		})
	})
}

func TestRunsThatWaitAreNotLeased(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		nap, sleeper := f.begin(plan{Do: "sleep", Sleep: 200}), f.begin(plan{Do: "sleep", Sleep: 3_600_000})
		hearer, deaf := f.begin(plan{Do: "receive"}), f.begin(plan{Do: "receive", Sleep: 50})
		parent := f.begin(plan{Do: "child", Child: &plan{Do: "receive"}})
		f.reaches(nap, store.RunSucceeded)
		for id, kind := range map[int64]store.WaitKind{sleeper: store.WaitSleep, hearer: store.WaitSignal, parent: store.WaitChild} {
			r := f.reaches(id, store.RunWaiting)
			if r.Wait == nil || r.Wait.Kind != kind || r.Attempt > 1 || r.Wait.Until.IsZero() == (kind == store.WaitSleep) {
				t.Errorf("run %d waits for %+v in attempt %d, want %s", id, r.Wait, r.Attempt, kind)
			}
		}
		f.reaches(deaf, store.RunFailed)
		if got := f.steps(deaf); !slices.Equal(got, []string{"before succeeded", "go failed"}) {
			t.Errorf("the run whose signal did not come has steps %q", got)
		}
		f.eventually("no job in flight", func() bool { return f.metric("pgqrsd_in_flight", "queue", "flow") == 0 })

		children, err := s.Workflows().List(t.Context(), store.RunFilter{Workflow: "flow"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range children {
			if c.Parent == parent || c.ID == hearer {
				tell(f, c.ID, fmt.Sprintf(`"for %d"`, c.ID))
			}
		}
		if r := f.reaches(hearer, store.RunSucceeded); string(r.Output) != fmt.Sprintf(`"for %d"`, hearer) {
			t.Errorf("the run answered %s", r.Output)
		}
		if r := f.reaches(parent, store.RunSucceeded); !strings.HasPrefix(string(r.Output), `"for `) || len(r.Errors) > 0 {
			t.Errorf("the parent answered %s, errors %+v", r.Output, r.Errors)
		}
	})
}

func tell(f *fixture, id int64, payload string) {
	f.Helper()
	if _, _, err := f.store.Workflows().Send(f.Context(), store.NewSignal{Run: id, Topic: "go", Payload: []byte(payload)}); err != nil {
		f.Fatal(err)
	}
}

// A signal that is there before the run waits for it, and one that comes while
// the run has its lease, both wake it.
func TestSignalsAreNotLost(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		f.eventually("the queue", func() bool { _, err := s.Queues().Get(t.Context(), "flow"); return err == nil })
		var ids []int64
		for i := range 30 {
			id := f.begin(plan{Do: "receive"})
			if i%3 == 1 {
				f.reaches(id, store.RunWaiting)
			}
			tell(f, id, `1`)
			ids = append(ids, id)
		}
		for _, id := range ids {
			if r := f.reaches(id, store.RunSucceeded); string(r.Output) != "1" {
				t.Errorf("run %d answered %s", id, r.Output)
			}
		}
	})
}

func TestARunCarriesOnAfterItsProcessEnded(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		id := f.begin(plan{Do: "exit once", File: f.path("exited"), Diary: f.path("diary")})
		r := f.reaches(id, store.RunSucceeded)
		if got := f.noted(f.path("diary")); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("the bodies that ran are %q", got)
		}
		if len(r.Errors) != 1 {
			t.Errorf("errors %+v, want the one of the process's end", r.Errors)
		}
	})
}

func TestStepsThatFail(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.MaxAttempts = 1
		f := run(t, cfg)
		failing, parent := f.begin(plan{Do: "fail"}), f.begin(plan{Do: "child", Child: &plan{Do: "fail"}})
		f.reaches(failing, store.RunFailed)
		if got := f.steps(failing); !slices.Equal(got, []string{"before succeeded", "fails failed"}) {
			t.Errorf("steps %q", got)
		}
		f.reaches(parent, store.RunFailed)
		if got := f.steps(parent); !slices.Equal(got, []string{"before succeeded", "kid failed"}) {
			t.Errorf("steps of the parent %q", got)
		}
	})
}

func TestRunsAreStoppedAtTheirNextStep(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		cancelled, paused := f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path("cancelled")}), f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path("paused")})
		for _, name := range []string{"cancelled", "paused"} {
			f.eventually("the step runs", func() bool { return len(f.noted(f.path(name))) == 2 })
		}
		status, err := s.Workflows().Cancel(t.Context(), cancelled, false)
		if err != nil || status != store.RunCancelling {
			t.Fatalf("cancel: %s, %v", status, err)
		}
		if err := s.Workflows().Pause(t.Context(), paused); err != nil {
			t.Fatal(err)
		}
		f.touch("go")
		f.reaches(cancelled, store.RunCancelled)
		f.reaches(paused, store.RunPaused)
		f.eventually("no job in flight", func() bool { return f.metric("pgqrsd_in_flight", "queue", "flow") == 0 })
		for _, name := range []string{"cancelled", "paused"} {
			if got := f.noted(f.path(name)); !slices.Equal(got, []string{"before", "waits"}) {
				t.Errorf("%s: the bodies that ran are %q", name, got)
			}
		}
		if got := f.steps(cancelled); !slices.Equal(got, []string{"before succeeded", "waits succeeded"}) {
			t.Errorf("the step that ran while the run was cancelled is not recorded: %q", got)
		}
		if err := s.Workflows().Resume(t.Context(), paused); err != nil {
			t.Fatal(err)
		}
		r := f.reaches(paused, store.RunSucceeded)
		if got := f.noted(f.path("paused")); !slices.Equal(got, []string{"before", "waits", "after"}) || len(r.Errors) > 0 {
			t.Errorf("resumed: the bodies that ran are %q, errors %+v", got, r.Errors)
		}
	})
}

// leaseRuns leases n runs before there is a daemon.
func leaseRuns(t *testing.T, s store.Store, plans ...plan) (store.Consumer, []store.Lease) {
	t.Helper()
	if _, err := s.Queues().Ensure(t.Context(), "flow", store.QueuePolicy{Kind: store.WorkflowQueue}); err != nil {
		t.Fatal(err)
	}
	for _, p := range plans {
		begin(t, s, p)
	}
	c, err := s.Consumer(t.Context(), "flow", store.WorkerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := c.Dequeue(t.Context(), len(plans), time.Hour)
	if err != nil || len(msgs) != len(plans) {
		t.Fatalf("leased %d, %v", len(msgs), err)
	}
	leases := make([]store.Lease, len(msgs))
	for i := range msgs {
		leases[i] = msgs[i].Lease
	}
	return c, leases
}

func TestNoCodeRunsOfARunThatIsBeingCancelled(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		diary := t.TempDir() + "/diary"
		c, leases := leaseRuns(t, s, plan{Diary: diary})
		if _, err := s.Workflows().Cancel(t.Context(), leases[0].ID, false); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReleaseAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		f := run(t, testConfig(t, s))
		f.reaches(leases[0].ID, store.RunCancelled)
		if got := f.noted(diary); len(got) > 0 {
			t.Errorf("the bodies that ran are %q", got)
		}
	})
}

func TestRunsOfOtherVersionsWait(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		c, leases := leaseRuns(t, s, plan{}, plan{})
		for i, version := range []string{"v0", "v9"} {
			got, err := c.Settle(t.Context(), []store.Outcome{{
				Lease: leases[i], Kind: store.OutcomeStep, Version: version,
				Steps: []store.StepResult{{StepKey: store.StepKey{Name: "before"}}},
			}})
			if err != nil || got[0].Err != nil {
				t.Fatal(err, got)
			}
		}
		if _, err := c.ReleaseAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		f := run(t, testConfig(t, s))
		if r := f.reaches(leases[0].ID, store.RunSucceeded); r.Version != "v0" {
			t.Errorf("the run that v0 began is of version %s now", r.Version)
		}
		r := f.reaches(leases[1].ID, store.RunWaiting)
		if r.Wait == nil || r.Wait.Kind != store.WaitVersion || r.Wait.For != "v9" || r.Wait.Until.IsZero() {
			t.Errorf("the run that v9 began waits for %+v", r.Wait)
		}
		f.eventually("the run that no handler carries on is counted", func() bool {
			return f.metric("pgqrsd_runs_without_handler_total", "queue", "flow") == 1
		})
	})
}

func TestRunsAreReleasedAtTheirNextStepWhenTheDaemonStops(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		diary, file := f.path("diary"), f.path("go")
		id := f.begin(plan{Do: "wait", File: file, Diary: diary})
		f.eventually("the step runs", func() bool { return len(f.noted(diary)) == 2 })
		f.stop()
		f.eventually("the stop", func() bool { return slices.Contains(f.notified.all(), "STOPPING=1") })
		f.touch("go")
		if err := f.end(); err != nil {
			t.Fatal(err)
		}
		if r := f.run(id); r.Status != store.RunQueued || len(r.Errors) > 0 {
			t.Errorf("the run is %s, errors %+v", r.Status, r.Errors)
		}
		if got := f.steps(id); !slices.Equal(got, []string{"before succeeded", "waits succeeded"}) {
			t.Errorf("steps %q", got)
		}
		next := run(t, testConfig(t, s))
		r := next.reaches(id, store.RunSucceeded)
		if got := next.noted(diary); !slices.Equal(got, []string{"before", "waits", "after"}) || len(r.Errors) > 0 {
			t.Errorf("the bodies that ran are %q, errors %+v", got, r.Errors)
		}
	})
}

func TestAQueueOfJobsIsNotServedAsAWorkflow(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		if _, err := s.Queues().Ensure(t.Context(), "flow", store.QueuePolicy{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "flow", Payload: []byte(`{}`)}}); err != nil {
			t.Fatal(err)
		}
		cfg := testConfig(t, s)
		f := run(t, cfg)
		f.becomes(f.enqueue(order{})[0], store.Done)
		if f.d.known("flow") || len(f.list(store.KindConsumer, "flow")) > 0 {
			t.Error("the queue is served")
		}
		if _, err := s.Queues().Purge(t.Context(), "flow"); err != nil {
			t.Fatal(err)
		}
		if err := f.d.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		f.eventually("the queue is a workflow's", func() bool {
			q, err := s.Queues().Get(t.Context(), "flow")
			return err == nil && q.Kind == store.WorkflowQueue
		})
		f.reaches(f.begin(plan{}), store.RunSucceeded)
	})
}

// A run whose lease was lost while a step ran records nothing under it, stops at
// its next step, and carries on under the new lease.
func TestStepsOfALostLeaseAreNotRecorded(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		diary := f.path("diary")
		id := f.begin(plan{Do: "wait", File: f.path("go"), Diary: diary})
		f.eventually("the step runs", func() bool { return len(f.noted(diary)) == 2 })
		old := f.worker(store.KindConsumer, "flow").ID
		if _, err := f.d.workers.admin().ReleaseWorker(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		f.eventually("the step runs again", func() bool { return len(f.noted(diary)) == 3 })
		if got := f.steps(id); !slices.Equal(got, []string{"before succeeded"}) {
			t.Errorf("steps %q", got)
		}
		f.touch("go")
		f.reaches(id, store.RunSucceeded)
		if got := f.noted(diary); !slices.Equal(got, []string{"before", "waits", "waits", "after"}) {
			t.Errorf("the bodies that ran are %q", got)
		}
		// The run under its new lease may end before the old one's result is refused.
		f.eventually("the lost lease is counted", func() bool {
			return f.metric("pgqrsd_leases_lost_total", "queue", "flow") >= 1
		})
	})
}

func TestStepsOutliveAnOutage(t *testing.T) {
	server := pgtest.Start(t)
	f := run(t, testConfig(t, openPostgres(t, server.DSN(), "pgqrs")))
	f.eventually("the queue", func() bool { return f.d.known("flow") })
	var ids []int64
	for i := range 5 {
		ids = append(ids, f.begin(plan{Do: "wait", File: f.path("go"), Diary: f.path(fmt.Sprint(i))}))
	}
	for i, id := range ids {
		f.starts(id)
		f.eventually("the step runs", func() bool { return len(f.noted(f.path(fmt.Sprint(i)))) == 2 })
	}
	server.StopImmediate()
	f.eventually("the outage is noticed", func() bool { return f.metric("pgqrsd_database_up") == 0 })
	f.touch("go")
	f.eventually("the steps wait to be recorded", func() bool { return f.metric("pgqrsd_unsettled", "queue", "flow") == 5 })
	server.Start()
	for i, id := range ids {
		r := f.reaches(id, store.RunSucceeded)
		if got := f.noted(f.path(fmt.Sprint(i))); !slices.Equal(got, []string{"before", "waits", "after"}) || len(r.Errors) > 0 {
			t.Errorf("run %d: the bodies that ran are %q, errors %+v", id, got, r.Errors)
		}
	}
}
