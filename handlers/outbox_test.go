package handlers

import (
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// What a run records counts only while its result is not there: no frame holds a
// result before all calls of its job are sent.
func TestCallsGoBeforeTheResult(t *testing.T) {
	o := newOutbox()
	l := &lane{}
	j := newJob(&handlerpb.Job{Id: 1, Claim: 1}, l)
	other := newJob(&handlerpb.Job{Id: 2, Claim: 1}, l)
	o.received(2)
	for range 2*frameItems + 1 {
		o.record(&call{job: j, replies: make(chan *handlerpb.StepReply, 1)})
	}
	o.finish(j, 0)
	o.finish(other, 0)
	calls := 0
	for range 3 {
		frame, _ := o.next()
		calls += len(frame.GetStepCalls())
		if results := len(frame.GetResults()); (results > 0) != (calls == 2*frameItems+1) {
			t.Errorf("after %d calls of %d there are %d results", calls, 2*frameItems+1, results)
		}
	}
	if o.owed != 0 {
		t.Errorf("%d results were not sent", o.owed)
	}
}
