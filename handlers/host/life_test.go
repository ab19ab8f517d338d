package host

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestCrashGivesEveryJobItsResultAndTouchesNobodyElse(t *testing.T) {
	var restarts atomic.Int32
	r := newRig(t, func(c *Config) {
		c.OnRestart = func(string) { restarts.Add(1) }
		c.Settings.Concurrency = func(string) int { return 2 }
	})
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Jobs: 3}, "beta": {Queues: []string{"b"}}})
	beta := r.untilState("beta", Serving).PID
	betaLane, betaSink := r.attach("b")
	send(t, betaLane, jobOf(1, "sleep:1h"))
	betaSink.untilStarted(1)

	for _, c := range []struct{ do, death string }{
		{"kill", "was killed by signal 9 (killed)"},
		{"exit", "exited with status 7"},
		{"panic", "exited with status 2: panic: the job went wrong"},
		{"hangup", "broke off its stream (out of ideas) and was killed"},
	} {
		pid := r.untilState("alpha", Serving).PID
		lane, sink := r.attach("a")
		send(t, lane, jobOf(1, "sleep:1h"))
		sink.untilStarted(1)
		// Two run at once, one waits in the process, one in the host for credit.
		send(t, lane, jobOf(3, c.do), jobOf(2, "queued"), jobOf(4, "done"))
		want := fmt.Sprintf("handler alpha (pid %d) %s", pid, c.death)
		for _, id := range []int64{1, 3} {
			res := sink.result(id)
			if res.Outcome != retry || !res.Started || !res.Crashed || !strings.HasPrefix(res.Error, want) || res.Elapsed <= 0 {
				t.Errorf("%s: job %d: %+v, want %q", c.do, id, res, want)
			}
			// The last job's Started may not have come through.
			if how := strings.TrimPrefix(res.Error, want); how != " while the job ran" && (id == 1 || how != " when the job may just have begun") {
				t.Errorf("%s: job %d: error %q", c.do, id, res.Error)
			}
		}
		for _, id := range []int64{2, 4} {
			if res := sink.result(id); res.Outcome != release || res.Started || !res.Crashed || !strings.Contains(res.Error, "before the job had started") {
				t.Errorf("%s: job %d: %+v", c.do, id, res)
			}
		}
		r.until("alpha", "another process", func(s Status) bool { return s.State == Serving && s.PID != pid })
		if alive(pid) {
			t.Errorf("%s: process %d is still there", c.do, pid)
		}
	}
	if n := restarts.Load(); n != 4 {
		t.Errorf("OnRestart was called %d times, want 4", n)
	}
	if s := r.untilState("beta", Serving); s.PID != beta || s.Restarts != 0 {
		t.Errorf("beta: %+v", s)
	}
	betaLane.Cancel("over", false)
	if res := betaSink.result(1); res.Crashed {
		t.Errorf("beta's job: %+v", res)
	}
}

func TestCrashLoopBacksOff(t *testing.T) {
	var restarts atomic.Int32
	r := newRig(t, func(c *Config) {
		c.RestartMin, c.RestartMax = 20*time.Millisecond, time.Hour
		c.OnRestart = func(string) { restarts.Add(1) }
	})
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	for id := range int64(3) {
		sink.untilRoom(lane)
		send(t, lane, jobOf(id+1, "kill"))
		sink.result(id + 1)
		if n := lane.Room(); n != 0 {
			t.Errorf("room %d while nothing serves", n)
		}
	}
	r.until("alpha", "three restarts", func(s Status) bool { return s.State == Serving && s.Restarts == 3 })
	lines := r.log.lines("handler failed and will be started again", "was killed by signal 9")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3: %s", len(lines), lines)
	}
	for i, line := range lines {
		_, text, _ := strings.Cut(strings.TrimSpace(line), "in=")
		in, err := time.ParseDuration(text)
		must(t, err)
		most := 20 * time.Millisecond << i
		if in < most/2 || in > most {
			t.Errorf("backoff %d is %s, want %s to %s", i+1, in, most/2, most)
		}
	}
}

func TestDropInServesAndRemovedIsDrained(t *testing.T) {
	r := newRig(t, nil).start(nil)
	r.put("alpha", fakeConfig{Queues: []string{"a"}})
	s := r.untilState("alpha", Serving)
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:300ms"), jobOf(2, "queued"))
	sink.untilStarted(1)

	must(t, os.Remove(filepath.Join(r.dir, "alpha")))
	draining := r.untilState("alpha", Draining)
	if draining.PID != s.PID {
		t.Errorf("draining %+v", draining)
	}
	if err := lane.Send(nil); err != nil || lane.Room() != 0 {
		t.Errorf("room while draining: %d", lane.Room())
	}
	if res := sink.result(2); res.Outcome != release || res.Crashed {
		t.Errorf("the job that had not started: %+v", res)
	}
	if res := sink.result(1); res.Outcome != done {
		t.Errorf("the running job: %+v", res)
	}
	untilTrue(t, "the handler to be forgotten", func() bool { _, found := r.find("alpha"); return !found })
	if alive(s.PID) || len(r.Queues()) != 0 {
		t.Errorf("process alive: %v, queues %v", alive(s.PID), r.Queues())
	}
	staged, err := filepath.Glob(filepath.Join(r.staging, "*", "*"))
	if must(t, err); len(staged) != 0 {
		t.Errorf("staged copies are left: %v", staged)
	}
	// It may come back.
	r.put("alpha", fakeConfig{Queues: []string{"a"}, Version: "2"})
	r.untilState("alpha", Serving)
	sink.untilRoom(lane)
	send(t, lane, jobOf(3, "done"))
	sink.result(3)
}

func TestNewVersionTakesOverAndTheOldOneFinishes(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a", "old"}, Version: "1"}})
	first := r.untilState("alpha", Serving)
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:500ms"))
	sink.untilStarted(1)

	r.put("alpha", fakeConfig{Queues: []string{"a", "new"}, Version: "2"})
	r.until("alpha", "version 2", func(s Status) bool { return s.Version == "2" && s.State == Serving })
	sink.untilRoom(lane)
	send(t, lane, jobOf(2, "done"))
	sink.result(2)
	sink.mu.Lock()
	_, early := sink.results[Ref{1, 1}]
	sink.mu.Unlock()
	if early {
		t.Error("the old version's job was to run on meanwhile")
	}
	if res := sink.result(1); res.Outcome != done {
		t.Errorf("the old version's job: %+v", res)
	}
	untilTrue(t, "the old process to end", func() bool { return !alive(first.PID) })
	if qs := r.Queues(); len(qs) != 2 || qs[0].Name != "a" || qs[1].Name != "new" {
		t.Errorf("queues %+v", qs)
	}
	if n := r.until("alpha", "serving", func(Status) bool { return true }).Restarts; n != 0 {
		t.Errorf("a replacement is no crash: %d restarts", n)
	}
}

func TestRefusedNewVersionLeavesTheOldOneServing(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	first := r.untilState("alpha", Serving)
	r.put("alpha", fakeConfig{Start: "exit"})
	s := r.until("alpha", "an error", func(s Status) bool { return s.Error != "" })
	if s.State != Serving || s.PID != first.PID || !strings.Contains(s.Error, "its new version was refused: it exited with status 3") {
		t.Errorf("status %+v", s)
	}
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "done"))
	sink.result(1)
	// The crash of the old one starts the old one again.
	send(t, lane, jobOf(2, "kill"))
	sink.result(2)
	r.until("alpha", "serving again", func(s Status) bool { return s.State == Serving && s.PID != first.PID })
	// The mended file replaces it.
	r.put("alpha", fakeConfig{Queues: []string{"a"}, Version: "3"})
	r.until("alpha", "version 3", func(s Status) bool { return s.Version == "3" && s.Error == "" })
}

func TestTouchedFileIsNotRestarted(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	first := r.untilState("alpha", Serving)
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(filepath.Join(r.dir, "alpha"), old, old))
	r.put("beta", fakeConfig{Queues: []string{"b"}}) // seen in the same scan or later
	r.untilState("beta", Serving)
	if s := r.untilState("alpha", Serving); s.PID != first.PID {
		t.Errorf("restarted: %+v, was %+v", s, first)
	}
}

func TestQueueOfTwoHandlersGoesToTheFirstName(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{
		"alpha": {Queues: []string{"mail", "a"}},
		"beta":  {Queues: []string{"mail", "b"}},
	})
	want := `queue "mail" is served by handler alpha already, so handler beta is refused`
	s := r.untilState("beta", Refused)
	if !strings.Contains(s.Error, want) {
		t.Errorf("error %q", s.Error)
	}
	if qs := r.Queues(); len(qs) != 2 || qs[0].Name != "a" || !reflect.DeepEqual(qs[1], ServedQueue{Name: "mail", Kind: 1, Handler: "alpha"}) {
		t.Errorf("queues %+v", qs)
	}
	// One that serves already stays, whatever the names.
	r.put("aardvark", fakeConfig{Queues: []string{"mail"}})
	if s := r.untilState("aardvark", Refused); !strings.Contains(s.Error, "served by handler alpha already, so handler aardvark is refused") {
		t.Errorf("error %q", s.Error)
	}
	// When it goes, the others may try again: by name.
	must(t, os.Remove(filepath.Join(r.dir, "alpha")))
	r.untilState("aardvark", Serving)
	if s := r.until("beta", "refused because of aardvark", func(s Status) bool { return s.State == Refused && strings.Contains(s.Error, "aardvark already") }); s.PID != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestStoppedProcessIsKilled(t *testing.T) {
	r := newRig(t, func(c *Config) { c.PingInterval, c.PingTimeout = 50*time.Millisecond, 400*time.Millisecond })
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	pid := r.untilState("alpha", Serving).PID
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "stop"))
	if res := sink.result(1); !res.Crashed || res.Outcome != retry || !strings.Contains(res.Error, "answered no pings for 400ms and was killed") {
		t.Errorf("result %+v", res)
	}
	r.until("alpha", "another process", func(s Status) bool { return s.State == Serving && s.PID != pid })
	if alive(pid) {
		t.Error("the stopped process is still there")
	}
}

func TestIdleProcessAnswersPings(t *testing.T) {
	r := newRig(t, func(c *Config) { c.PingInterval, c.PingTimeout = 10*time.Millisecond, 300*time.Millisecond })
	r.start(map[string]fakeConfig{"good": {Queues: []string{"a"}}, "mute": {Queues: []string{"b"}, SilentPings: true}})
	good := r.untilState("good", Serving).PID
	r.until("mute", "killed twice", func(s Status) bool { return s.Restarts >= 2 })
	if s := r.untilState("good", Serving); s.PID != good {
		t.Errorf("the good one was killed: %+v", s)
	}
}

func TestStuckJobIsEndedWithItsProcess(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	first := r.untilState("alpha", Serving)
	lane, sink := r.attach("a")
	stuck := jobOf(1, "stuck")
	stuck.TimeoutMs = 100
	send(t, lane, stuck, jobOf(2, "sleep:1500ms"), jobOf(3, "queued"), jobOf(4, "stuck"))
	sink.untilStarted(1, 2, 4)
	lane.Cancel("not wanted any more", false, Ref{4, 1})

	// Another process takes over while the other job runs on.
	r.until("alpha", "another process", func(s Status) bool { return s.State == Serving && s.PID != first.PID && s.Restarts == 1 })
	if res := sink.result(3); res.Outcome != release || res.Crashed {
		t.Errorf("the job that had not started: %+v", res)
	}
	sink.untilRoom(lane)
	send(t, lane, jobOf(5, "done"))
	sink.result(5)
	if !alive(first.PID) {
		t.Error("the process was killed although a job could still finish")
	}
	if res := sink.result(2); res.Outcome != done {
		t.Errorf("the innocent job: %+v", res)
	}
	res := sink.result(1)
	if alive(first.PID) {
		t.Error("the stuck job's result came before its process was dead")
	}
	if res.Outcome != retry || !res.Crashed || res.Error != "timed out after 100ms and ignored its cancellation; its process was killed" {
		t.Errorf("the stuck job: %+v", res)
	}
	if res := sink.result(4); res.Outcome != retry || res.Error != "was cancelled (not wanted any more) and did not stop within 200ms; its process was killed" {
		t.Errorf("the cancelled job: %+v", res)
	}
}

func TestLateButNotStuckJobKeepsItsProcess(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CancelGrace = 10 * time.Second })
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	pid := r.untilState("alpha", Serving).PID
	lane, sink := r.attach("a")
	slow := jobOf(1, "deaf:300ms")
	slow.TimeoutMs = 50
	send(t, lane, slow)
	sink.result(1)
	if s := r.untilState("alpha", Serving); s.PID != pid {
		t.Errorf("replaced: %+v", s)
	}
}

func TestGrandchildThatHoldsTheOutputBlocksNothing(t *testing.T) {
	for _, how := range []string{"group", "session"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Grandchild: how}})
			pid := r.untilState("alpha", Serving).PID
			var grandchild int
			untilTrue(t, "the grandchild's pid", func() bool {
				for _, line := range r.log.lines("grandchild ") {
					_, text, _ := strings.Cut(line, "grandchild ")
					grandchild, _ = strconv.Atoi(strings.Trim(strings.Fields(text)[0], `"`))
				}
				return grandchild != 0
			})
			t.Cleanup(func() { _ = syscall.Kill(grandchild, syscall.SIGKILL) })
			lane, sink := r.attach("a")
			send(t, lane, jobOf(1, "kill"))
			if res := sink.result(1); !strings.Contains(res.Error, "was killed by signal 9") {
				t.Errorf("result %+v", res)
			}
			r.until("alpha", "another process", func(s Status) bool { return s.State == Serving && s.PID != pid })
			if how == "group" {
				untilTrue(t, "the grandchild to die with its group", func() bool { return !alive(grandchild) })
			} else if !alive(grandchild) {
				t.Error("the grandchild of another session should have outlived the handler")
			}
		})
	}
}
