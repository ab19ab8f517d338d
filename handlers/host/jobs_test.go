package host

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

const (
	done    = handlerpb.Outcome_OUTCOME_DONE
	retry   = handlerpb.Outcome_OUTCOME_RETRY
	discard = handlerpb.Outcome_OUTCOME_DISCARD
	release = handlerpb.Outcome_OUTCOME_RELEASE
)

func TestJobsGoToTheHandlerAndResultsComeBack(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a", "b"}, Version: "1.2"}})
	s := r.untilState("alpha", Serving)
	if s.PID == 0 || s.Version != "1.2" || s.SDK != "test/1" || strings.Join(s.Queues, " ") != "a b" || s.Error != "" {
		t.Errorf("status %+v", s)
	}
	want := ServedQueue{Name: "b", Kind: handlerpb.Description_KIND_JOB, Handler: "alpha"}
	if qs := r.Queues(); len(qs) != 2 || !reflect.DeepEqual(qs[1], want) {
		t.Errorf("queues %+v", qs)
	}
	for _, queue := range []string{"a", "b"} {
		lane, sink := r.attach(queue)
		for id := range int64(300) {
			send(t, lane, jobOf(id+1, "done"))
		}
		for id := range int64(300) {
			if res := sink.result(id + 1); res.Outcome != done || !res.Started || res.Crashed || string(res.Output) != `"done"` {
				t.Fatalf("result %+v", res)
			}
		}
	}
}

func TestStartedBeatsAndElapsed(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:30ms"), jobOf(2, "beat"), jobOf(3, "quiet"))
	if res := sink.result(1); res.Elapsed < 20*time.Millisecond || res.Elapsed > patience {
		t.Errorf("job slept 30ms, elapsed %s", res.Elapsed)
	}
	sink.result(2)
	if res := sink.result(3); !res.Started || res.Elapsed <= 0 {
		t.Errorf("a result without Started implies it: %+v", res)
	}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	if !sink.started[Ref{1, 1}] || sink.started[Ref{3, 1}] {
		t.Errorf("started: %v", sink.started)
	}
	if len(sink.beats) != 1 || sink.beats[0].Percent != 40 {
		t.Errorf("beats: %v", sink.beats)
	}
}

func TestHandlersLinesReachTheLog(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(41, "log"), jobOf(42, "print:hello there"))
	sink.result(41)
	sink.result(42)
	untilTrue(t, "the job's log line", func() bool {
		return len(r.log.lines("half \uFFFD way", "level=WARN", "handler=alpha", "queue=a", "message=41", "rows=12", "who=me")) == 1
	})
	untilTrue(t, "both lines that were printed", func() bool {
		return len(r.log.lines("hello there", "handler=alpha", "stream=stdout")) == 1 &&
			len(r.log.lines("hello there", "handler=alpha", "stream=stderr")) == 1
	})
}

func TestTenMegabytesOnOneLineAreOneCutLine(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "longline"))
	if res := sink.result(1); res.Outcome != done {
		t.Errorf("result %+v", res)
	}
	untilTrue(t, "the line after it", func() bool { return len(r.log.lines("after the long line")) == 1 })
	long := r.log.lines("yyyyyyyy")
	if len(long) != 1 || len(long[0]) > maxLine+1000 || !strings.Contains(long[0], "(line cut)") {
		t.Errorf("%d lines, the first of %d bytes", len(long), len(long[0]))
	}
}

func TestOddResultsAreMendedOneByOne(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	pid := r.untilState("alpha", Serving).PID
	for i, c := range []struct {
		do      string
		outcome handlerpb.Outcome
		err     string
	}{
		{"badtext", discard, "NUL \uFFFD here"},
		{"rawtext", discard, "caf\uFFFD"},
		{"nothing", retry, "the handler sent no outcome that pgqrsd knows (0)"},
		{"snooze", retry, "the handler snoozed the job without saying for how long"},
		{"stranger", done, ""},
		{"twice", done, ""},
		{"step", done, ""},
	} {
		id := int64(i + 1)
		send(t, lane, jobOf(id, c.do))
		res := sink.result(id)
		if res.Outcome != c.outcome || res.Error != c.err || !utf8.ValidString(res.Error) {
			t.Errorf("%s: outcome %s, error %q", c.do, res.Outcome, res.Error)
		}
	}
	untilTrue(t, "the answer to the step call", func() bool { return len(r.log.lines("step reply: queue a is described as one of jobs")) == 1 })
	send(t, lane, jobOf(50, "stranger"), jobOf(51, "done"))
	sink.result(51)
	if s := r.untilState("alpha", Serving); s.PID != pid {
		t.Errorf("the process was replaced")
	}
	untilTrue(t, "the warnings", func() bool {
		return len(r.log.lines("a queue that it did not describe", "queue=nobodys")) == 1 && len(r.log.lines("a job that is not in flight")) == 1
	})
}

func TestFrameThatCannotBeDecodedIsACrash(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "nonsense"))
	if res := sink.result(1); !res.Crashed || res.Outcome != retry || !strings.Contains(res.Error, "broke off its stream") {
		t.Errorf("result %+v", res)
	}
	r.until("alpha", "serving again", func(s Status) bool { return s.State == Serving && s.Restarts == 1 })
}

func TestCreditIsRespected(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Jobs: 3}})
	lane, sink := r.attach("a")
	if n := lane.Room(); n != 3 {
		t.Errorf("room %d, want 3", n)
	}
	for id := range int64(40) {
		send(t, lane, jobOf(id+1, "sleep:2ms"))
	}
	if n := lane.Room(); n != 0 {
		t.Errorf("room with jobs waiting: %d", n)
	}
	for id := range int64(40) {
		sink.result(id + 1)
	}
	must(t, r.Drain(t.Context()))
	if len(r.log.lines("drained, at most 3 jobs in flight")) != 1 {
		t.Error("the handler had more in flight than its credit")
	}
}

func TestCreditInBytes(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Bytes: 100}})
	lane, sink := r.attach("a")
	big := func(id int64) *handlerpb.Job { return jobOf(id, "sleep:5ms:"+strings.Repeat("x", 200)) }
	send(t, lane, big(1), big(2), big(3))
	if n := lane.Room(); n != 0 {
		t.Errorf("room beyond the credit in bytes: %d", n)
	}
	for id := range int64(3) {
		sink.result(id + 1)
	}
	sink.untilRoom(lane)
	must(t, r.Drain(t.Context()))
	if len(r.log.lines("drained, at most 1 jobs in flight")) != 1 {
		t.Error("two jobs beyond the credit were in flight at once")
	}
}

func TestCancel(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Jobs: 3}})
	lane, sink := r.attach("a")
	// Two run, one waits in the process, two wait in the host.
	send(t, lane, jobOf(1, "sleep:1h"), jobOf(2, "sleep:1h"), jobOf(3, "queued"), jobOf(4, "done"), jobOf(5, "done"))
	sink.untilStarted(1, 2)

	lane.Cancel("back with it", true)
	for _, id := range []int64{3, 4, 5} {
		if res := sink.result(id); res.Outcome != release || res.Started || res.Error != "back with it" {
			t.Errorf("job %d: %+v", id, res)
		}
	}
	lane.Cancel("enough", false, Ref{2, 1}, Ref{99, 1})
	if res := sink.result(2); res.Outcome != release || !res.Started || res.Error != "enough" {
		t.Errorf("job 2: %+v", res)
	}
	sink.mu.Lock()
	n := len(sink.results)
	sink.mu.Unlock()
	if n != 4 {
		t.Errorf("%d results, want 4: job 1 was not cancelled", n)
	}
	lane.Cancel("all", false)
	sink.result(1)
}

func TestSendErrors(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	nobody := r.Attach("nobody", newSink(t))
	if err := nobody.Send([]*handlerpb.Job{jobOf(1, "done")}); !errors.Is(err, ErrNotServed) {
		t.Errorf("queue that nobody serves: %v", err)
	}
	if n := nobody.Room(); n != 0 {
		t.Errorf("room %d", n)
	}
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:1h"))
	if err := lane.Send([]*handlerpb.Job{jobOf(2, "done"), jobOf(1, "done")}); !errors.Is(err, ErrInFlight) {
		t.Errorf("job in flight sent again: %v", err)
	}
	send(t, lane, jobOf(2, "done"))
	sink.result(2)

	// The next lane of the queue does not get what the first one sent.
	lane.Close()
	if err := lane.Send([]*handlerpb.Job{jobOf(3, "done")}); !errors.Is(err, ErrNotServed) {
		t.Errorf("closed lane: %v", err)
	}
	second, secondSink := r.attach("a")
	send(t, second, jobOf(4, "done"))
	secondSink.result(4)
	lane.Cancel("over", false)
	sink.result(1)
}

func TestJobTooLargeToBeSent(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	huge := jobOf(1, "done")
	huge.Payload = make([]byte, MaxJobBytes+1)
	large := jobOf(2, "quiet")
	large.Payload = fmt.Appendf(nil, `{"text": %q}`, strings.Repeat("x", 20<<20))
	send(t, lane, huge, large, jobOf(3, "done"))
	if res := sink.result(1); res.Outcome != discard || !strings.Contains(res.Error, "more than") {
		t.Errorf("result %+v", res)
	}
	if res := sink.result(2); res.Outcome != done || len(res.Output) != len(large.Payload) {
		t.Errorf("20 MiB: %s with %d bytes", res.Outcome, len(res.Output))
	}
	sink.result(3)
}
