package host

import (
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

func TestJobsGoToTheHandlerAndResultsComeBack(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Version: "1.2"}})
	s := r.untilState("alpha", Serving)
	if s.PID == 0 || s.Version != "1.2" || s.SDK != "test/1" || len(s.Queues) != 1 || s.Queues[0] != "a" || s.Error != "" {
		t.Errorf("status %+v", s)
	}
	lane, sink := r.attach("a")
	for id := range int64(50) {
		send(t, lane, jobOf(id+1, "done"))
	}
	for id := range int64(50) {
		res := sink.result(id + 1)
		if res.Outcome != handlerpb.Outcome_OUTCOME_DONE || !res.Started || res.Crashed || string(res.Output) != `"done"` {
			t.Fatalf("result %+v", res)
		}
	}
}
