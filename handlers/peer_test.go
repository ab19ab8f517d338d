package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// peer plays the host on a stream and keeps what the handler said.
type peer struct {
	t       *testing.T
	stream  handlerpb.Handler_WorkClient
	results map[int64]*handlerpb.Result
	started []int64
	// jobs and bytes are the credit that was granted, in total.
	jobs, bytes int64
	drained     bool
	frames      []*handlerpb.HandlerFrame
	calls       []*handlerpb.StepCall
	// reply, if set, answers calls.
	reply func(*handlerpb.StepCall) *handlerpb.StepReply
}

// open serves h on queue "q" and says hello.
func open(t *testing.T, concurrency uint32, h ...handlers.Option) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := dial(t, h...).Work(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, stream: stream, results: make(map[int64]*handlerpb.Result)}
	p.hello(concurrency)
	return p
}

func (p *peer) hello(concurrency uint32) {
	p.t.Helper()
	p.send(&handlerpb.HostFrame{Hello: &handlerpb.Hello{
		Queues: []*handlerpb.Hello_QueueSettings{{Name: "q", Concurrency: concurrency}, {Name: "elsewhere", Concurrency: 1}},
	}})
}

func (p *peer) send(frame *handlerpb.HostFrame) {
	p.t.Helper()
	send(p.t, p.stream, frame)
}

// jobsFrom sends n jobs with the ids from first on.
func (p *peer) jobsFrom(first int64, n int) {
	p.t.Helper()
	jobs := make([]*handlerpb.Job, n)
	for i := range jobs {
		jobs[i] = &handlerpb.Job{Id: first + int64(i), Claim: 1, Queue: "q", Attempt: 1, Payload: []byte(`{}`)}
	}
	p.send(&handlerpb.HostFrame{Jobs: jobs})
}

// until receives frames until done says so.
func (p *peer) until(what string, done func() bool) {
	p.t.Helper()
	for !done() {
		frame, err := p.stream.Recv()
		if err != nil {
			p.t.Fatalf("wait until %s: %v", what, err)
		}
		p.frames = append(p.frames, frame)
		for _, r := range frame.Results {
			if p.results[r.Id] != nil {
				p.t.Fatalf("job %d has two results", r.Id)
			}
			p.results[r.Id] = r
		}
		for _, s := range frame.Started {
			if p.results[s.Id] != nil {
				p.t.Errorf("job %d started after its result", s.Id)
			}
			p.started = append(p.started, s.Id)
		}
		for _, c := range frame.Credits {
			p.jobs += int64(c.Jobs)
			p.bytes += int64(c.Bytes)
		}
		if p.drained && len(frame.Results) > 0 {
			p.t.Error("a result came after drained")
		}
		p.drained = p.drained || frame.Drained
		p.called(frame.StepCalls)
	}
}

func (p *peer) untilResults(n int) {
	p.t.Helper()
	p.until(fmt.Sprintf("%d results are there", n), func() bool { return len(p.results) >= n })
}

func (p *peer) outcome(id int64) handlerpb.Outcome {
	return p.results[id].GetOutcome()
}

const (
	done    = handlerpb.Outcome_OUTCOME_DONE
	retry   = handlerpb.Outcome_OUTCOME_RETRY
	release = handlerpb.Outcome_OUTCOME_RELEASE
)

// gate holds jobs until it is opened, or their context ends.
type gate chan struct{}

func (g gate) handle(ctx context.Context, _ json.RawMessage) (struct{}, error) {
	select {
	case <-g:
		return struct{}{}, nil
	case <-ctx.Done():
		return struct{}{}, context.Cause(ctx)
	}
}
