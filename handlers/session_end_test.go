package handlers_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

func TestCancelFrames(t *testing.T) {
	g := make(gate)
	defer close(g)
	p := open(t, 2, handlers.Handle("q", g.handle))
	p.jobsFrom(1, 6)
	p.until("two have started", func() bool { return len(p.started) == 2 })
	p.send(&handlerpb.HostFrame{Cancels: []*handlerpb.Cancel{
		{Id: 1, Claim: 1, UnstartedOnly: true, Reason: "shutdown"},
		{Id: 2, Claim: 2, Reason: "another claim"},
		{Id: 3, Claim: 1, UnstartedOnly: true, Reason: "shutdown"},
		{Id: 5, Claim: 1, Reason: "shutdown"},
		{Id: 99, Claim: 1, Reason: "unknown"},
	}})
	p.untilResults(2)
	if p.outcome(3) != release || p.outcome(5) != release {
		t.Errorf("the results are %v", p.results)
	}
	// Now the others, in their place.
	p.send(&handlerpb.HostFrame{Cancels: []*handlerpb.Cancel{{Id: 1, Claim: 1, Reason: "shutdown"}, {Id: 2, Claim: 1}}})
	p.until("the next two have started", func() bool { return len(p.started) == 4 })
	for _, id := range []int64{1, 2} {
		if p.outcome(id) != release {
			t.Errorf("job %d is %v", id, p.results[id])
		}
	}
	if !slices.Contains(p.started, 4) || !slices.Contains(p.started, 6) {
		t.Errorf("jobs %v started", p.started)
	}
}

func TestDrain(t *testing.T) {
	g := make(gate)
	p := open(t, 2, handlers.Handle("q", g.handle))
	p.jobsFrom(1, 5)
	p.until("two have started", func() bool { return len(p.started) == 2 })
	p.send(&handlerpb.HostFrame{Drain: true})
	p.untilResults(3)
	p.jobsFrom(6, 1) // was on its way
	p.untilResults(4)
	for _, id := range []int64{3, 4, 5, 6} {
		if p.outcome(id) != release {
			t.Errorf("job %d is %v", id, p.results[id])
		}
	}
	if p.drained {
		t.Error("drained while jobs run")
	}
	close(g)
	p.until("it is drained", func() bool { return p.drained })
	if p.outcome(1) != done || p.outcome(2) != done {
		t.Errorf("the running jobs ended as %v and %v", p.results[1], p.results[2])
	}
	// A drained handler still answers.
	p.send(&handlerpb.HostFrame{Ping: &handlerpb.Ping{Number: 1}})
	p.until("the pong is there", func() bool { return p.frames[len(p.frames)-1].Pong != nil })
}

func TestDrainOfAnIdleHandler(t *testing.T) {
	p := open(t, 2, handlers.Handle("q", nop))
	p.send(&handlerpb.HostFrame{Drain: true})
	p.until("it is drained", func() bool { return p.drained })
}

// The end of the stream cancels what runs, and waits for it a moment.
func TestStreamEndCancels(t *testing.T) {
	var ended sync.WaitGroup
	ended.Add(1)
	p := open(t, 1, handlers.Handle("q", func(ctx context.Context, _ json.RawMessage) (struct{}, error) {
		defer ended.Done()
		<-ctx.Done()
		return struct{}{}, context.Cause(ctx)
	}))
	p.jobsFrom(1, 3)
	p.until("one has started", func() bool { return len(p.started) == 1 })
	if err := p.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	ended.Wait()
	p.untilResults(3)
	for id, r := range p.results {
		if r.Outcome != release {
			t.Errorf("job %d is %v", id, r)
		}
	}
}
