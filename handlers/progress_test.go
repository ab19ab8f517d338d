package handlers

import (
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// What the author of a run tells of its progress is not replaced by the name of
// the step that runs.
func TestTheAuthorsProgressWins(t *testing.T) {
	o := newOutbox()
	j := newJob(&handlerpb.Job{Id: 1, Claim: 1}, newLane(nil, Handler{}))
	sent := func() string {
		t.Helper()
		frame, _ := o.next()
		if frame == nil || len(frame.Beats) != 1 {
			t.Fatalf("the frame is %v", frame)
		}
		return frame.Beats[0].Message
	}
	o.tell(j, "step a[0]")
	if m := sent(); m != "step a[0]" {
		t.Errorf("progress is %q", m)
	}
	o.progress(j, 40, "page 4 of 10")
	o.tell(j, "step b[0]")
	if m := sent(); m != "page 4 of 10" {
		t.Errorf("progress is %q", m)
	}
	o.tell(j, "")
	if frame, _ := o.next(); frame != nil {
		t.Errorf("the author's word was taken back: %v", frame)
	}
}
