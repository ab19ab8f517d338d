package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

func TestPingIsAnsweredWhileJobsBlock(t *testing.T) {
	g := make(gate)
	p := open(t, 1, handlers.Handle("q", func(context.Context, json.RawMessage) (struct{}, error) { <-g; return struct{}{}, nil }))
	p.jobsFrom(1, 10)
	for n := range uint64(3) {
		p.send(&handlerpb.HostFrame{Ping: &handlerpb.Ping{Number: n + 1}})
	}
	var pongs []uint64
	p.until("three pongs are there", func() bool {
		pongs = nil
		for _, f := range p.frames {
			if f.Pong != nil {
				pongs = append(pongs, f.Pong.Number)
			}
		}
		return len(pongs) == 3
	})
	if !slices.Equal(pongs, []uint64{1, 2, 3}) || len(p.results) > 0 {
		t.Errorf("pongs %v, %d results", pongs, len(p.results))
	}
	close(g)
	p.untilResults(10)
}

func TestConcurrencyAndOrder(t *testing.T) {
	const limit, n = 3, 200
	var running, most atomic.Int64
	p := open(t, limit, handlers.Handle("q", func(context.Context, json.RawMessage) (struct{}, error) {
		now := running.Add(1)
		defer running.Add(-1)
		for {
			m := most.Load()
			if now <= m || most.CompareAndSwap(m, now) {
				return struct{}{}, nil
			}
		}
	}))
	p.jobsFrom(1, n)
	p.untilResults(n)
	if most.Load() > limit {
		t.Errorf("%d jobs ran at once, the limit is %d", most.Load(), limit)
	}

	g := make(gate)
	p = open(t, limit, handlers.Handle("q", g.handle))
	p.jobsFrom(1, 10)
	p.until("all that may run have started", func() bool { return len(p.started) == limit })
	slices.Sort(p.started)
	if !slices.Equal(p.started, []int64{1, 2, 3}) {
		t.Errorf("jobs %v started first", p.started)
	}
	// A higher limit counts at once, also for jobs that wait.
	p.hello(5)
	p.until("two more have started", func() bool { return len(p.started) == 5 })
	close(g)
	p.untilResults(10)
	// So does a lower one.
	p.hello(1)
	p.jobsFrom(100, 50)
	p.untilResults(60)
}

func TestStartedIsLeftOutWhenTheResultIsThere(t *testing.T) {
	p := open(t, 1, handlers.Handle("q", nop))
	p.jobsFrom(1, 1000)
	p.untilResults(1000)
	// The order check is in until. Most of such short jobs end before their start
	// could be told.
	if len(p.started) == 1000 {
		t.Error("every start was told")
	}
}

func TestCreditIsForWhatTheQueueGetsThrough(t *testing.T) {
	const payload = 2 // of jobsFrom
	t.Run("slow jobs", func(t *testing.T) {
		p := open(t, 4, handlers.Handle("q", func(context.Context, json.RawMessage) (struct{}, error) {
			<-time.After(600 * time.Millisecond) // the work of a slow job
			return struct{}{}, nil
		}))
		p.until("the first credit is there", func() bool { return p.jobs > 0 })
		if p.jobs != 4 || p.bytes != 16<<20 {
			t.Errorf("the first credit is %d jobs and %d bytes", p.jobs, p.bytes)
		}
		p.jobsFrom(1, 4)
		p.untilResults(4)
		// As many as may run, and what is done in a quarter of a second: 4*250/600.
		if room := p.jobs - 4; room < 4 || room > 5 {
			t.Errorf("there is room for %d slow jobs", room)
		}
		if p.bytes != 16<<20+4*payload {
			t.Errorf("%d bytes were given back", p.bytes-16<<20)
		}
	})
	t.Run("quick jobs", func(t *testing.T) {
		p := open(t, 4, handlers.Handle("q", nop))
		sent := int64(0)
		for sent < 10_000 {
			p.until("there is credit", func() bool { return p.jobs > sent })
			n := p.jobs - sent
			if n > 1024 {
				t.Fatalf("the host may send %d jobs", n)
			}
			p.jobsFrom(sent+1, int(n))
			sent += n
		}
		p.untilResults(int(sent))
		if room := p.jobs - sent; room <= 2*4 || room > 1024 {
			t.Errorf("there is room for %d quick jobs", room)
		}
		if p.bytes != 16<<20+sent*payload {
			t.Errorf("%d of %d bytes were given back", p.bytes-16<<20, sent*payload)
		}
	})
	t.Run("more concurrency", func(t *testing.T) {
		p := open(t, 4, handlers.Handle("q", nop))
		p.until("the first credit is there", func() bool { return p.jobs == 4 })
		p.hello(10)
		p.until("the difference is there", func() bool { return p.jobs == 10 })
		p.hello(2)
		p.hello(12)
		p.until("it counts from what was granted", func() bool { return p.jobs == 12 })
	})
}

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

func TestUnknownQueueIsAnError(t *testing.T) {
	p := open(t, 2, handlers.Handle("q", nop))
	p.send(&handlerpb.HostFrame{Jobs: []*handlerpb.Job{{Id: 1, Claim: 1, Queue: "elsewhere"}, {Id: 2, Claim: 1, Queue: "q", Payload: []byte("1")}}})
	p.untilResults(2)
	if p.outcome(1) != retry || !strings.Contains(p.results[1].Error, `"elsewhere"`) || p.outcome(2) != done {
		t.Errorf("the results are %v", p.results)
	}
}

// A panic, a Goexit and an undecodable payload are one job's matter.
func TestBrokenJobsLeaveTheOthersAlone(t *testing.T) {
	h := handlers.Handle("q", func(_ context.Context, id json.RawMessage) (struct{}, error) {
		switch string(id) {
		case "1":
			panic("one")
		case "2":
			defer func() { panic(errors.New("two, while unwinding")) }()
			panic("two")
		}
		return struct{}{}, nil
	})
	p := open(t, 1, h)
	for i := range int64(50) {
		p.send(&handlerpb.HostFrame{Jobs: []*handlerpb.Job{{Id: i, Claim: 1, Queue: "q", Payload: fmt.Append(nil, i%5)}}})
	}
	p.untilResults(50)
	for id, r := range p.results {
		if broken := id%5 == 1 || id%5 == 2; broken != (r.Outcome == retry) {
			t.Errorf("job %d is %v", id, r)
		}
	}
}

// A job that logs faster than the host reads waits, and loses nothing.
func TestLogsWaitForRoom(t *testing.T) {
	const n, length = 300, 20 << 10
	line := strings.Repeat("x", length)
	p := open(t, 1, handlers.Handle("q", func(ctx context.Context, _ json.RawMessage) (struct{}, error) {
		log := handlers.Logger(ctx)
		for i := range n {
			log.Info(line, "i", i)
		}
		log.Debug("below the host's level")
		return struct{}{}, nil
	}))
	p.jobsFrom(7, 1)
	p.untilResults(1)
	p.send(&handlerpb.HostFrame{Drain: true})
	p.until("it is drained", func() bool { return p.drained })
	var got int
	for _, f := range p.frames {
		for _, l := range f.Logs {
			if want := fmt.Sprintf(`{"i":%d}`, got); string(l.Attrs) != want || l.Id != 7 || l.Claim != 1 || l.Queue != "q" || l.TimeUs == 0 {
				t.Fatalf("line %d is of job %d on %q with %s", got, l.Id, l.Queue, l.Attrs)
			}
			got++
		}
	}
	if got != n {
		t.Errorf("%d of %d lines came", got, n)
	}
}

func TestSecondStreamIsRefused(t *testing.T) {
	client := dial(t, handlers.Handle("q", nop))
	first, err := client.Work(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, first, &handlerpb.HostFrame{Ping: &handlerpb.Ping{Number: 1}})
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	second, err := client.Work(t.Context())
	if err == nil {
		_, err = second.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the second stream ended with %v", err)
	}
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

func TestNewServerRefuses(t *testing.T) {
	q := handlers.Handle("q", nop)
	tests := map[string]struct {
		options []handlers.Option
		err     string
	}{
		"nothing":   {nil, "no handlers"},
		"twice":     {[]handlers.Option{q, handlers.Handle("r", nop), q}, "two handlers"},
		"zero":      {[]handlers.Option{handlers.Handler{}}, "handlers.Handle"},
		"no queue":  {[]handlers.Option{handlers.Handle("", nop)}, "0 bytes long"},
		"long":      {[]handlers.Option{handlers.Handle(strings.Repeat("q", 129), nop)}, "129 bytes long"},
		"bad queue": {[]handlers.Option{handlers.Handle("a b", nop)}, "letters, digits"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := handlers.NewServer(tt.options...); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
