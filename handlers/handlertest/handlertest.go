// Package handlertest runs a handler in a test, without a daemon, a database or
// a process: a job with Run, a run of a workflow with NewWorkflow. The job takes the way that it takes in a handler binary: it comes
// over a stream as a protocol frame, is run by the same code, and so do its
// result, progress and log lines travel back. What differs is that the stream
// ends in the test.
package handlertest

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Outcome is what is to become of the message.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Retry   Outcome = "retry"
	Snooze  Outcome = "snooze"
	Discard Outcome = "discard"
	Release Outcome = "release"
)

// Result is all that a handler said about a job.
type Result struct {
	Outcome Outcome
	// Output is the job's JSON output; nil is none.
	Output json.RawMessage
	// Error is what went wrong, for Retry and Discard.
	Error string
	// Delay is until the message runs again, for Retry and Snooze. Backoff says
	// that a Retry left it to the queue's own backoff.
	Delay   time.Duration
	Backoff bool
	// Enqueued are the follow-up messages.
	Enqueued []Message
	// Progress is what the job said of its progress. When it says more than can
	// be sent some of it is left out, but never the last. A run that says nothing
	// tells of its steps that take longer than a second.
	Progress []Progress
	Logs     []Log
	// Wait is what a run waits for, for Wait.
	Wait *Waiting
}

// Message is a follow-up message.
type Message struct {
	Queue    string
	Payload  json.RawMessage
	Delay    time.Duration
	Priority int
	Headers  map[string]string
}

// Progress is one call of handlers.Progress. Percent is -1 for unknown.
type Progress struct {
	Percent float64
	Message string
}

// Log is one line of handlers.Logger, of any level.
type Log struct {
	Level   slog.Level
	Message string
	// Attrs is a JSON object; nil is none.
	Attrs json.RawMessage
}

// Decode decodes the output into v, and fails the test when it cannot.
func (r Result) Decode(t testing.TB, v any) {
	t.Helper()
	if r.Outcome != Done {
		t.Fatalf("the job is %s, not done: %s", r.Outcome, r.Error)
	}
	if err := json.Unmarshal(r.Output, v); err != nil {
		t.Fatalf("decode the output %s: %v", r.Output, err)
	}
}

// Option says more about the job.
type Option func(*run)

type run struct {
	server *handlers.Server
	job    *handlerpb.Job
	cancel <-chan struct{}
	reason string
	// call answers a StepCall, or says that the process is to be lost, which
	// killed then is.
	call   func(*handlerpb.StepCall) (reply *handlerpb.StepReply, kill bool)
	killed bool
}

// ID is the message's; default 1.
func ID(id int64) Option { return func(r *run) { r.job.Id = id } }

// Attempt counts from 1, which is the default.
func Attempt(n int) Option { return func(r *run) { r.job.Attempt = uint32(n) } }

// MaxAttempts is the number of the last attempt; default 5.
func MaxAttempts(n int) Option { return func(r *run) { r.job.MaxAttempts = uint32(n) } }

// Timeout is how long the job may run; default no limit.
func Timeout(d time.Duration) Option {
	return func(r *run) { r.job.TimeoutMs = max(d.Milliseconds(), 1) }
}

// EnqueuedAt is when the message was put on its queue; default now.
func EnqueuedAt(at time.Time) Option {
	return func(r *run) { r.job.EnqueuedAtUs = at.UnixMicro() }
}

// Headers are the enqueuer's.
func Headers(headers map[string]string) Option {
	return func(r *run) { r.job.Headers = headers }
}

// Cancel cancels the job, as pgqrsd does at its shutdown, once when is closed.
func Cancel(when <-chan struct{}, reason string) Option {
	return func(r *run) { r.cancel, r.reason = when, reason }
}

// Run runs h on one job and returns its result. The payload is encoded as JSON;
// json.RawMessage and []byte are JSON already. Run waits for the handler as long
// as it takes: go test's own time limit ends one that hangs, with its stack.
func Run(t testing.TB, h handlers.Handler, payload any, options ...Option) Result {
	t.Helper()
	r := newRun(t, h, payload, options)
	r.call = func(c *handlerpb.StepCall) (*handlerpb.StepReply, bool) {
		return &handlerpb.StepReply{Number: c.Number, Error: "handlertest.Run records no steps; use handlertest.NewWorkflow"}, false
	}
	result, _ := r.do(t)
	return result
}

func newRun(t testing.TB, h handlers.Handler, payload any, options []Option) *run {
	t.Helper()
	server, err := handlers.NewServer(h)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{server: server, job: &handlerpb.Job{
		Id: 1, Claim: 1, Queue: h.Queue(), Attempt: 1, MaxAttempts: 5,
		EnqueuedAtUs: time.Now().UnixMicro(), Payload: encode(t, payload),
	}}
	for _, o := range options {
		o(r)
	}
	return r
}

// do runs the job, and returns its result also as the handler sent it.
func (r *run) do(t testing.TB) (Result, *handlerpb.Result) {
	t.Helper()
	s := &stream{
		ctx:  t.Context(),
		host: make(chan *handlerpb.HostFrame), handler: make(chan *handlerpb.HandlerFrame),
		ended: make(chan struct{}),
	}
	worked := make(chan error, 1)
	go func() {
		defer close(s.ended)
		worked <- r.server.Work(s)
	}()
	result, raw := r.follow(s)
	if err := <-worked; err != nil {
		t.Fatalf("run the handler: %v", err)
	}
	return result, raw
}

func encode(t testing.TB, payload any) []byte {
	t.Helper()
	switch p := payload.(type) {
	case json.RawMessage:
		return p
	case []byte:
		return p
	}
	data, err := json.Marshal(payload)
	if err != nil {
		t.Fatalf("encode the payload: %v", err)
	}
	return data
}

// follow plays the host: it sends the job, collects what the handler says, and
// hangs up once the handler is drained, or is to be lost.
func (r *run) follow(s *stream) (result Result, raw *handlerpb.Result) {
	outgoing := []*handlerpb.HostFrame{
		{Hello: &handlerpb.Hello{
			HostVersion: "handlertest",
			Queues:      []*handlerpb.Hello_QueueSettings{{Name: r.job.Queue, Concurrency: 1}},
			LogLevel:    int32(slog.LevelDebug - 100),
		}},
		{Jobs: []*handlerpb.Job{r.job}},
	}
	cancel := r.cancel
	for {
		// Cancel only a job that was sent.
		var (
			host      chan *handlerpb.HostFrame
			next      *handlerpb.HostFrame
			cancelled <-chan struct{}
		)
		if len(outgoing) > 0 {
			host, next = s.host, outgoing[0]
		} else {
			cancelled = cancel
		}
		select {
		case host <- next:
			outgoing = outgoing[1:]
		case <-cancelled:
			cancel = nil
			outgoing = append(outgoing, &handlerpb.HostFrame{Cancels: []*handlerpb.Cancel{
				{Id: r.job.Id, Claim: r.job.Claim, Reason: r.reason},
			}})
		case frame := <-s.handler:
			if r.killed {
				continue // it speaks to nobody
			}
			result.add(frame)
			if replies := r.answer(frame.StepCalls); r.killed {
				outgoing, cancel = nil, nil
				close(s.host)
			} else if len(replies) > 0 {
				outgoing = append(outgoing, &handlerpb.HostFrame{StepReplies: replies})
			}
			if len(frame.Results) > 0 {
				raw = frame.Results[0]
				outgoing = append(outgoing, &handlerpb.HostFrame{Drain: true})
			}
			if frame.Drained {
				close(s.host)
				return result, raw
			}
		case <-s.ended:
			return result, raw
		}
	}
}

// answer answers StepCalls until one is to lose the process.
func (r *run) answer(calls []*handlerpb.StepCall) (replies []*handlerpb.StepReply) {
	for _, c := range calls {
		var reply *handlerpb.StepReply
		if reply, r.killed = r.call(c); r.killed {
			return nil
		}
		replies = append(replies, reply)
	}
	return replies
}

func (r *Result) add(frame *handlerpb.HandlerFrame) {
	for _, l := range frame.Logs {
		r.Logs = append(r.Logs, Log{slog.Level(l.Level), l.Message, l.Attrs})
	}
	for _, b := range frame.Beats {
		r.Progress = append(r.Progress, Progress{b.Percent, b.Message})
	}
	for _, res := range frame.Results {
		r.Outcome = outcomes[res.Outcome]
		r.Output, r.Error = res.Output, res.Error
		if w := res.Wait; w != nil {
			r.Wait = &Waiting{w.Kind, w.For, milliseconds(w.DelayMs)}
		}
		r.Delay = milliseconds(res.GetDelayMs())
		r.Backoff = res.Outcome == handlerpb.Outcome_OUTCOME_RETRY && res.DelayMs == nil
		for _, e := range res.Enqueue {
			r.Enqueued = append(r.Enqueued, Message{
				e.Queue, e.Payload, milliseconds(e.DelayMs), int(e.Priority), e.Headers,
			})
		}
	}
}

var outcomes = map[handlerpb.Outcome]Outcome{
	handlerpb.Outcome_OUTCOME_DONE:    Done,
	handlerpb.Outcome_OUTCOME_RETRY:   Retry,
	handlerpb.Outcome_OUTCOME_SNOOZE:  Snooze,
	handlerpb.Outcome_OUTCOME_DISCARD: Discard,
	handlerpb.Outcome_OUTCOME_RELEASE: Release,
	handlerpb.Outcome_OUTCOME_WAIT:    Wait,
	handlerpb.Outcome_OUTCOME_CANCEL:  Cancelled,
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// stream carries frames within the process. Each is encoded and decoded on its
// way, so that what gRPC would refuse is refused here too.
type stream struct {
	grpc.ServerStream
	ctx     context.Context
	host    chan *handlerpb.HostFrame
	handler chan *handlerpb.HandlerFrame
	ended   chan struct{}
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*handlerpb.HostFrame, error) {
	select {
	case frame, ok := <-s.host:
		if ok {
			return recode(frame, &handlerpb.HostFrame{})
		}
	case <-s.ended:
	}
	return nil, io.EOF
}

func (s *stream) Send(frame *handlerpb.HandlerFrame) error {
	frame, err := recode(frame, &handlerpb.HandlerFrame{})
	if err == nil {
		s.handler <- frame
	}
	return err
}

func recode[M proto.Message](from, to M) (M, error) {
	data, err := proto.Marshal(from)
	if err == nil {
		err = proto.Unmarshal(data, to)
	}
	return to, err
}
