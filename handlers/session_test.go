package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

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
