package handlers_test

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// dial serves options over a real socket, without a process of its own.
func dial(tb testing.TB, options ...handlers.Option) handlerpb.HandlerClient {
	tb.Helper()
	server, err := handlers.NewServer(options...)
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(tb.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(handlers.MaxMessageBytes))
	handlerpb.RegisterHandlerServer(s, server)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(handlers.MaxMessageBytes)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-served; err != nil {
			tb.Errorf("serve the handler: %v", err)
		}
	})
	return handlerpb.NewHandlerClient(conn)
}

// BenchmarkJobs sends jobs as fast as the handler's credit allows, both sides
// in this process and a Unix socket between them. cpu-us/job is of both sides.
func BenchmarkJobs(b *testing.B) {
	type input struct {
		Path string `json:"path"`
	}
	payload := []byte(`{"path":"/usr/local/go/src/net/http/server.go","padding":"` + string(make200()) + `"}`)
	cases := []struct {
		name    string
		handler handlers.Handler
	}{
		{"noop", handlers.Handle("q", func(context.Context, json.RawMessage) (struct{}, error) { return struct{}{}, nil })},
		{"json", handlers.Handle("q", func(_ context.Context, in input) (input, error) { return in, nil })},
		{"deadline", handlers.Handle("q", func(ctx context.Context, _ json.RawMessage) (struct{}, error) { return struct{}{}, ctx.Err() })},
	}
	for _, bc := range cases {
		b.Run(bc.name, func(b *testing.B) {
			stream, err := dial(b, bc.handler).Work(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if err := stream.Send(&handlerpb.HostFrame{Hello: &handlerpb.Hello{
				Queues: []*handlerpb.Hello_QueueSettings{{Name: "q", Concurrency: 100}},
			}}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			cpu := cpuTime(b)
			b.ResetTimer()
			frames := drive(b, stream, payload, b.N)
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/job")
			b.ReportMetric(float64(b.N)/float64(frames), "jobs/frame")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

func make200() []byte {
	out := make([]byte, 140)
	for i := range out {
		out[i] = 'x'
	}
	return out
}

// drive sends n jobs within the credit and returns how many frames came back.
func drive(b *testing.B, stream handlerpb.Handler_WorkClient, payload []byte, n int) (frames int) {
	b.Helper()
	credit := make(chan int, 1<<16)
	sent := make(chan error, 1)
	go func() {
		var err error
		room, id := 0, 0
		for id < n && err == nil {
			room += <-credit
			for more := true; more; {
				select {
				case c := <-credit:
					room += c
				default:
					more = false
				}
			}
			for room > 0 && id < n && err == nil {
				size := min(room, 64, n-id)
				jobs := make([]*handlerpb.Job, size)
				for i := range jobs {
					id++
					jobs[i] = &handlerpb.Job{Id: int64(id), Claim: 1, Queue: "q", Attempt: 1, MaxAttempts: 5, TimeoutMs: 600_000, Payload: payload}
				}
				room -= size
				err = stream.Send(&handlerpb.HostFrame{Jobs: jobs})
			}
		}
		sent <- err
	}()
	for results := 0; results < n; {
		frame, err := stream.Recv()
		if err != nil {
			b.Fatal(err)
		}
		frames++
		for _, r := range frame.Results {
			if r.Outcome != handlerpb.Outcome_OUTCOME_DONE {
				b.Fatal(r)
			}
		}
		results += len(frame.Results)
		for _, c := range frame.Credits {
			credit <- int(c.Jobs)
		}
	}
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
	return frames
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSteps runs workflows of 100 steps, 100 at once, against a host that
// records at once.
func BenchmarkSteps(b *testing.B) {
	const steps, concurrency = 100, 100
	h := handlers.Workflow("q", func(ctx context.Context, _ json.RawMessage) (struct{}, error) {
		for range steps {
			if _, err := handlers.Step(ctx, "s", func(context.Context) (int, error) { return 1, nil }); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	stream, err := dial(b, h).Work(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	hello := &handlerpb.Hello{Queues: []*handlerpb.Hello_QueueSettings{{Name: "q", Concurrency: concurrency}}}
	if err := stream.Send(&handlerpb.HostFrame{Hello: hello}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	sent, ended := 0, 0
	for ended*steps < b.N {
		answer := &handlerpb.HostFrame{}
		for sent-ended < concurrency && sent*steps < b.N {
			sent++
			answer.Jobs = append(answer.Jobs, &handlerpb.Job{Id: int64(sent), Claim: 1, Queue: "q", Payload: []byte("null")})
		}
		if len(answer.Jobs) == 0 {
			frame, err := stream.Recv()
			if err != nil {
				b.Fatal(err)
			}
			ended += len(frame.Results)
			for _, c := range frame.StepCalls {
				answer.StepReplies = append(answer.StepReplies, &handlerpb.StepReply{Number: c.Number})
			}
		}
		if err := stream.Send(answer); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(ended*steps), "cpu-us/step")
}
