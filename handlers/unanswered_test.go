package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// A run whose calls nobody answers ends when its time is over or it is
// cancelled, or its process would be ended with all its other jobs.
func TestUnansweredCalls(t *testing.T) {
	t.Parallel()
	branches := func(n int) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			g := handlers.NewGroup(ctx)
			for i := range n {
				g.Go(fmt.Sprint("b", i), func(ctx context.Context) error {
					_, err := value(ctx, "a", i)
					return err
				})
			}
			err := g.Wait()
			t.Error("the run went on")
			return 0, err
		}
	}
	tests := map[string]struct {
		branches int
		timeout  int64
		outcome  handlerpb.Outcome
		text     string
	}{
		"timeout":                      {1, 2000, retry, "timed out after 2s: record step b0/a: pgqrsd has not answered"},
		"timeout, and many branches":   {100, 2000, retry, "timed out after 2s: record step b"},
		"cancelled":                    {1, 0, release, ""},
		"cancelled, and many branches": {100, 0, release, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := workflow(t, branches(tt.branches))
			p.reply = nil
			p.begin(&handlerpb.Job{TimeoutMs: tt.timeout})
			p.until("all calls are there", func() bool { return len(p.calls) == tt.branches })
			if tt.timeout == 0 {
				p.send(&handlerpb.HostFrame{Cancels: []*handlerpb.Cancel{{Id: 1, Claim: 1, Reason: "the daemon stops"}}})
			}
			p.untilResults(1)
			if r := p.results[1]; r.Outcome != tt.outcome || !strings.HasPrefix(r.Error, tt.text) || len(r.Steps) > 0 {
				t.Errorf("the run is %v", r)
			}
			// A reply that comes too late is nobody's.
			p.send(&handlerpb.HostFrame{StepReplies: []*handlerpb.StepReply{{Number: p.calls[0].Number}}, Drain: true})
			p.until("it is drained", func() bool { return p.drained })
		})
	}
}

// A reply that comes after the end of the job's time counts: the run has done
// its last step.
func TestReplyAfterTheEnd(t *testing.T) {
	p := workflow(t, func(ctx context.Context) (int, error) {
		return handlers.Step(ctx, "a", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 1, nil
		})
	})
	if r := p.lease(&handlerpb.Job{TimeoutMs: 100}); r.Outcome != done || string(r.Output) != "1" {
		t.Errorf("the run is %v", r)
	}
}
