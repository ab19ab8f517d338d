package host

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// workflowRig serves the workflow "a" with a fake.
func workflowRig(t *testing.T, c fakeConfig) (*rig, *Lane, *sink) {
	t.Helper()
	c.Queues, c.Workflows = []string{"a"}, true
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": c})
	lane, sink := r.attach("a")
	return r, lane, sink
}

// untilCalls waits for so many step calls and returns them.
func (s *sink) untilCalls(n int) []*handlerpb.StepCall {
	s.t.Helper()
	var calls []*handlerpb.StepCall
	s.until(fmt.Sprintf("%d step calls", n), func() bool {
		calls = s.calls
		return len(calls) >= n
	})
	return calls
}

func replyTo(c *handlerpb.StepCall, halt, err string) Reply {
	return Reply{Ref: Ref{c.Id, c.Claim}, StepReply: &handlerpb.StepReply{Number: c.Number, Halt: halt, Error: err}}
}

func TestStepCallsComeToTheSinkAndAreAnswered(t *testing.T) {
	_, lane, sink := workflowRig(t, fakeConfig{Version: "v7"})
	send(t, lane, jobOf(1, "call"), jobOf(2, "call"), jobOf(3, "call"))
	calls := sink.untilCalls(3)
	sink.mu.Lock()
	if sink.version != "v7" {
		t.Errorf("the calls came from version %q", sink.version)
	}
	for _, c := range calls {
		if !sink.started[Ref{c.Id, c.Claim}] {
			t.Errorf("job %d made a call before it was said to have started", c.Id)
		}
		if len(c.Steps) != 1 || c.Steps[0].Name != "pay\uFFFD" || string(c.Steps[0].Output) != "1" {
			t.Errorf("call %+v", c)
		}
	}
	if len(sink.results) > 0 {
		t.Errorf("%d jobs went on without a reply", len(sink.results))
	}
	sink.mu.Unlock()
	byID := map[int64]*handlerpb.StepCall{}
	for _, c := range calls {
		byID[c.Id] = c
	}
	stranger := replyTo(byID[1], "", "")
	stranger.ID = 99
	lane.Reply([]Reply{stranger, replyTo(byID[1], "", ""), replyTo(byID[2], "cancel", ""), replyTo(byID[3], "", "no \xff disk")})
	for id, want := range map[int64]struct{ output, err string }{1: {}, 2: {output: "cancel"}, 3: {err: "no \uFFFD disk"}} {
		if r := sink.result(id); string(r.Output) != want.output || r.Error != want.err || r.Version != "v7" {
			t.Errorf("run %d: output %q, error %q, version %q", id, r.Output, r.Error, r.Version)
		}
	}
}

func TestStepCallsThatCannotBeTakenAreAnswered(t *testing.T) {
	r, lane, sink := workflowRig(t, fakeConfig{})
	for i, c := range []struct{ do, err string }{
		{"big call", "the output of step pay\uFFFD is 16777217 bytes large"},
		{"empty call", "the call names no step"},
		{"call for another", "the attempt that the call speaks of is not in flight"},
	} {
		send(t, lane, jobOf(int64(i+1), c.do))
		if res := sink.result(int64(i + 1)); !strings.Contains(res.Error, c.err) {
			t.Errorf("%s: %s, error %q", c.do, res.Outcome, res.Error)
		}
	}
	send(t, lane, jobOf(9, fmt.Sprintf("calls:%d", maxOpenCalls+1)))
	// A reply before the last call has come would make room for it.
	untilTrue(t, "all calls", func() bool { return len(r.log.lines(fmt.Sprintf("%d calls of job 9 are out", maxOpenCalls+1))) == 1 })
	calls := sink.untilCalls(maxOpenCalls)
	replies := make([]Reply, len(calls))
	for i, c := range calls {
		replies[i] = replyTo(c, "", "")
	}
	lane.Reply(replies)
	if res := sink.result(9); res.Error != "the run has 1000 step calls open; wait for replies before making more" {
		t.Errorf("endless calls: error %q", res.Error)
	}
	untilTrue(t, "the warning", func() bool { return len(r.log.lines("a job that is not in flight")) == 1 })
}

func TestResultsOfRuns(t *testing.T) {
	_, lane, sink := workflowRig(t, fakeConfig{})
	for i, c := range []struct {
		do      string
		outcome handlerpb.Outcome
		err     string
	}{
		{"wait:sleep", handlerpb.Outcome_OUTCOME_WAIT, ""},
		{"wait:version", handlerpb.Outcome_OUTCOME_RETRY, "the handler let the run wait without saying for what"},
		{"wait for nothing", handlerpb.Outcome_OUTCOME_RETRY, "the handler let the run wait without saying for what"},
		{"cancelled", handlerpb.Outcome_OUTCOME_CANCEL, ""},
		{"result with step", handlerpb.Outcome_OUTCOME_DONE, ""},
		{"result with a big step", handlerpb.Outcome_OUTCOME_DISCARD, "the output of step last is 16777217 bytes large, the limit is 16777216; keep what is large elsewhere and return where it is"},
	} {
		id := int64(i + 1)
		send(t, lane, jobOf(id, c.do))
		res := sink.result(id)
		if res.Outcome != c.outcome || res.Error != c.err {
			t.Errorf("%s: outcome %s, error %q", c.do, res.Outcome, res.Error)
		}
		if c.do == "result with step" && (len(res.Steps) != 1 || res.Steps[0].Name != "last\uFFFD") {
			t.Errorf("%s: steps %v", c.do, res.Steps)
		}
	}
}

func TestJobsHaveNoSteps(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	for i, c := range []struct {
		do      string
		outcome handlerpb.Outcome
	}{
		{"wait:sleep", handlerpb.Outcome_OUTCOME_RETRY},
		{"cancelled", handlerpb.Outcome_OUTCOME_RETRY},
		{"result with step", handlerpb.Outcome_OUTCOME_DISCARD},
		{"call", handlerpb.Outcome_OUTCOME_RETRY},
	} {
		id := int64(i + 1)
		send(t, lane, jobOf(id, c.do))
		if res := sink.result(id); res.Outcome != c.outcome || !strings.Contains(res.Error, "only runs of workflows have") {
			t.Errorf("%s: outcome %s, error %q", c.do, res.Outcome, res.Error)
		}
	}
}

func TestRunsGoOnlyToHandlersThatCarryOnTheirVersion(t *testing.T) {
	for name, c := range map[string]struct {
		versions []string
		old      handlerpb.Outcome
	}{
		"every version":     {nil, handlerpb.Outcome_OUTCOME_DONE},
		"named":             {[]string{"v6", "v1"}, handlerpb.Outcome_OUTCOME_DONE},
		"only one, another": {[]string{"v6"}, handlerpb.Outcome_OUTCOME_WAIT},
	} {
		t.Run(name, func(t *testing.T) {
			_, lane, sink := workflowRig(t, fakeConfig{Version: "v7", Versions: c.versions})
			fresh, own, old := jobOf(1, "done"), jobOf(2, "done"), jobOf(3, "done")
			own.Version, old.Version, old.News = "v7", "v1", 4
			send(t, lane, fresh, own, old)
			for _, id := range []int64{1, 2} {
				if r := sink.result(id); r.Outcome != handlerpb.Outcome_OUTCOME_DONE {
					t.Errorf("run %d: %s, error %q", id, r.Outcome, r.Error)
				}
			}
			r := sink.result(3)
			if r.Outcome != c.old {
				t.Fatalf("the old run: %s, error %q", r.Outcome, r.Error)
			}
			if w := r.Wait; w != nil && (w.Kind != WaitVersion || w.For != "v1" || w.News != 4 || r.Started || r.Version != "") {
				t.Errorf("the old run: %+v", r)
			}
		})
	}
}

func TestRunsWithLargeSteps(t *testing.T) {
	_, lane, sink := workflowRig(t, fakeConfig{})
	var jobs []*handlerpb.Job
	output := bytes.Repeat([]byte("1"), 4<<20)
	for id := range int64(20) { // more than one gRPC message can hold
		j := jobOf(id+1, "done")
		j.Steps = []*handlerpb.Step{{Name: "large", Output: output}}
		jobs = append(jobs, j)
	}
	huge := jobOf(50, "done")
	for range 16 {
		huge.Steps = append(huge.Steps, &handlerpb.Step{Name: "large", Output: output})
	}
	send(t, lane, append(jobs, huge)...)
	for _, j := range jobs {
		if r := sink.result(j.Id); r.Outcome != handlerpb.Outcome_OUTCOME_DONE {
			t.Errorf("run %d: %s, error %q", j.Id, r.Outcome, r.Error)
		}
	}
	if r := sink.result(50); r.Outcome != handlerpb.Outcome_OUTCOME_DISCARD || !strings.Contains(r.Error, "with its 16 recorded steps and 0 signals, more than the") {
		t.Errorf("the huge run: %s, error %q", r.Outcome, r.Error)
	}
}

func TestRunsOfAReplacedProcessStopAtTheirNextStep(t *testing.T) {
	r, lane, sink := workflowRig(t, fakeConfig{Version: "v1"})
	send(t, lane, jobOf(1, "call"))
	call := sink.untilCalls(1)[0]
	pid := r.untilState("alpha", Serving).PID
	r.put("alpha", fakeConfig{Queues: []string{"a"}, Workflows: true, Version: "v2"})
	r.until("alpha", "the new process", func(s Status) bool { return s.State == Serving && s.PID != pid })
	lane.Reply([]Reply{replyTo(call, "", "")})
	if res := sink.result(1); string(res.Output) != HaltRelease {
		t.Errorf("output %q, error %q", res.Output, res.Error)
	}
}

// Only a run that has failed for good says where its failure begins.
func TestPlacesOfAResult(t *testing.T) {
	const run, job = handlerpb.Description_KIND_WORKFLOW, handlerpb.Description_KIND_JOB
	for _, tt := range []struct {
		outcome handlerpb.Outcome
		kind    handlerpb.Description_Kind
		kept    bool
	}{
		{handlerpb.Outcome_OUTCOME_DISCARD, run, true},
		{handlerpb.Outcome_OUTCOME_DISCARD, job, false},
		{handlerpb.Outcome_OUTCOME_RETRY, run, false},
		{handlerpb.Outcome_OUTCOME_DONE, run, false},
	} {
		r := &handlerpb.Result{Outcome: tt.outcome, Failed: []*handlerpb.Place{{Branch: "a\x00", Position: 3}}}
		cleanResult(r, tt.kind)
		if kept := len(r.Failed) == 1; kept != tt.kept || kept && r.Failed[0].Branch != "a\uFFFD" {
			t.Errorf("of a result %s of a %s the places are %v", tt.outcome, tt.kind, r.Failed)
		}
	}
}
