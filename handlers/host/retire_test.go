package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// However a process comes to go, jobs that outlast the drain are cancelled, may
// end within the grace, and cost no attempt; only then is the process killed.
func TestRetiredProcessCancelsItsJobsAndCostsNoAttempt(t *testing.T) {
	for _, c := range []struct {
		name, why string
		retire    func(*rig)
	}{
		{"replaced", "the handler was replaced", func(r *rig) { r.put("alpha", fakeConfig{Queues: []string{"a"}, Version: "2"}) }},
		{"removed", "the handler was removed", func(r *rig) { must(r.t, os.Remove(filepath.Join(r.dir, "alpha"))) }},
		{"other settings", "the handler was replaced", func(r *rig) {
			// They bring a drain timeout of their own.
			r.Reload(Settings{DrainTimeout: 200 * time.Millisecond, Handlers: map[string]HandlerSettings{"alpha": {Env: map[string]string{"A": "b"}}}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(cfg *Config) {
				if c.name == "other settings" {
					cfg.DrainTimeout = time.Hour
				} else {
					cfg.DrainTimeout = 200 * time.Millisecond
				}
			})
			r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
			pid := r.untilState("alpha", Serving).PID
			lane, sink := r.attach("a")
			send(t, lane, jobOf(1, "sleep:1h"), jobOf(2, "stuck"), jobOf(3, "queued"))
			sink.untilStarted(1, 2)
			c.retire(r)

			if res := sink.result(1); res.Outcome != release || !res.Started || res.Crashed || res.Error != c.why {
				t.Errorf("the job that heeds its cancellation: %+v", res)
			}
			want := "was cancelled (" + c.why + ") and did not stop within 200ms; its process was killed"
			if res := sink.result(2); res.Outcome != release || !res.Started || !res.Crashed || res.Error != want {
				t.Errorf("the job that ignores it: %+v, want %q", res, want)
			}
			if alive(pid) {
				t.Error("the result of the job that ignores it came before its process was dead")
			}
			if res := sink.result(3); res.Outcome != release || res.Started {
				t.Errorf("the job that had not started: %+v", res)
			}
			if n := len(r.log.lines("jobs are cancelled because "+c.why, "jobs=2", "grace=200ms")); n != 1 {
				t.Errorf("%d lines say that jobs are cancelled, want 1", n)
			}
			if s, found := r.find("alpha"); found && s.Restarts != 0 {
				t.Errorf("to be replaced is no crash: %+v", s)
			}
		})
	}
}

// A job that would not end after its time has the process replaced, and answers
// for it; the others there are cancelled after the drain and lose nothing.
func TestStuckJobCostsTheOthersNoAttempt(t *testing.T) {
	r := newRig(t, func(c *Config) { c.DrainTimeout = 200 * time.Millisecond })
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	stuck := jobOf(1, "stuck")
	stuck.TimeoutMs = 100
	send(t, lane, stuck, jobOf(2, "sleep:1h"))
	if res := sink.result(2); res.Outcome != release || res.Crashed || res.Error != "the handler was replaced because it had a job that would not stop" {
		t.Errorf("the innocent job: %+v", res)
	}
	if res := sink.result(1); res.Outcome != retry || res.Error != "timed out after 100ms and ignored its cancellation; its process was killed" {
		t.Errorf("the stuck job: %+v", res)
	}
}
