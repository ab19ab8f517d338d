package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// sdkEnv makes the test binary a handler that is built with the SDK.
const sdkEnv = "HOST_TEST_SDK"

func runSDKHandler() {
	handlers.Serve(handlers.Handle("noop", func(context.Context, json.RawMessage) (struct{}, error) {
		return struct{}{}, nil
	}))
}

// BenchmarkBoundary sends no-op jobs with payloads of 200 bytes to a handler
// process and takes their results, with so many jobs in flight. cpu-us/job is
// the processor time of both processes.
func BenchmarkBoundary(b *testing.B) {
	for _, inFlight := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) { benchmarkBoundary(b, inFlight) })
	}
}

func benchmarkBoundary(b *testing.B, inFlight int) {
	self, err := os.Executable()
	must(b, err)
	h, err := New(Config{
		StateDir: b.TempDir(),
		Commands: []Command{{Name: "noop", Path: self}},
		Settings: Settings{
			Handlers:    map[string]HandlerSettings{"noop": {Env: map[string]string{sdkEnv: "1"}}},
			Concurrency: func(string) int { return inFlight },
		},
	})
	must(b, err)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	defer func() {
		stop()
		must(b, <-ended)
	}()
	wait(b, "the handler", h.Settled())
	if len(h.Queues()) != 1 {
		b.Fatalf("status %+v", h.Status())
	}
	pid := h.Status()[0].PID

	s := &benchSink{news: make(chan struct{}, 1), results: make(chan int, 1<<16)}
	lane := h.Attach("noop", s)
	payload := []byte(`{"text": "` + strings.Repeat("x", 187) + `"}`)
	var id int64
	jobs := func(n int) []*handlerpb.Job {
		batch := make([]*handlerpb.Job, n)
		for i := range batch {
			id++
			batch[i] = &handlerpb.Job{Id: id, Claim: 1, Attempt: 1, MaxAttempts: 3, TimeoutMs: 600000, Payload: payload}
		}
		return batch
	}
	cpu := processorTime(b, pid)
	b.ResetTimer()
	for sent, done := 0, 0; done < b.N; {
		n := min(inFlight-(sent-done), b.N-sent, lane.Room())
		if n > 0 {
			must(b, lane.Send(jobs(n)))
			sent += n
		}
		if n > 0 && sent < b.N && sent-done < inFlight {
			continue
		}
		select {
		case r := <-s.results:
			done += r
		case <-s.news:
		}
		for more := true; more; {
			select {
			case r := <-s.results:
				done += r
			default:
				more = false
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64((processorTime(b, pid)-cpu).Microseconds())/float64(b.N), "cpu-us/job")
}

// benchSink counts.
type benchSink struct {
	news    chan struct{}
	results chan int
}

func (s *benchSink) Room()                   { poke(s.news) }
func (s *benchSink) Started([]Ref)           {}
func (s *benchSink) Beats([]*handlerpb.Beat) {}

func (s *benchSink) Steps(string, []*handlerpb.StepCall) {}
func (s *benchSink) Results(rs []Result)                 { s.results <- len(rs) }

// processorTime is what this process and another have used.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	var own syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &own))
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // user and system time
		n, err := strconv.ParseInt(f, 10, 64)
		must(b, err)
		ticks += n
	}
	const tick = 10 * time.Millisecond
	return time.Duration(own.Utime.Nano()+own.Stime.Nano()) + time.Duration(ticks)*tick
}
