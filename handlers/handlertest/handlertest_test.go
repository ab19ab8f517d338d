package handlertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

type input struct {
	N int `json:"n"`
}

type output struct {
	Twice int `json:"twice"`
}

func double(_ context.Context, in input) (output, error) { return output{2 * in.N}, nil }

func TestRunDecodesAndEncodes(t *testing.T) {
	res := handlertest.Run(t, handlers.Handle("q", double), input{21})
	var out output
	res.Decode(t, &out)
	if out.Twice != 42 || string(res.Output) != `{"twice":42}` {
		t.Errorf("the output is %s", res.Output)
	}
}

func TestOutputs(t *testing.T) {
	tests := map[string]struct {
		handler handlers.Handler
		outcome handlertest.Outcome
		output  string
		err     string
	}{
		"raw in, raw out": {handlers.Handle("q", func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }),
			handlertest.Done, `{"n": 1}`, ""},
		"bytes in, bytes out": {handlers.Handle("q", func(_ context.Context, in []byte) ([]byte, error) { return in, nil }),
			handlertest.Done, `{"n": 1}`, ""},
		"empty struct": {handlers.Handle("q", func(context.Context, any) (struct{}, error) { return struct{}{}, nil }),
			handlertest.Done, "", ""},
		"nil raw": {handlers.Handle("q", func(context.Context, any) (json.RawMessage, error) { return nil, nil }),
			handlertest.Done, "", ""},
		"nil pointer": {handlers.Handle("q", func(context.Context, any) (*output, error) { return nil, nil }),
			handlertest.Done, "", ""},
		"nil map": {handlers.Handle("q", func(context.Context, any) (map[string]int, error) { return nil, nil }),
			handlertest.Done, "", ""},
		"nil slice": {handlers.Handle("q", func(context.Context, any) ([]int, error) { return nil, nil }),
			handlertest.Done, "", ""},
		"nil interface": {handlers.Handle("q", func(context.Context, any) (any, error) { return nil, nil }),
			handlertest.Done, "", ""},
		"empty slice": {handlers.Handle("q", func(context.Context, any) ([]int, error) { return []int{}, nil }),
			handlertest.Done, "[]", ""},
		"zero": {handlers.Handle("q", func(context.Context, any) (int, error) { return 0, nil }),
			handlertest.Done, "0", ""},
		"raw that is not JSON": {handlers.Handle("q", func(context.Context, any) (json.RawMessage, error) { return json.RawMessage(`{"a":`), nil }),
			handlertest.Discard, "", "not valid JSON"},
		"cannot be encoded": {handlers.Handle("q", func(context.Context, any) (float64, error) { return math.Inf(1), nil }),
			handlertest.Discard, "", "encode the output: json: unsupported value: +Inf"},
		"too large": {handlers.Handle("q", func(context.Context, any) (string, error) { return strings.Repeat("x", 17<<20), nil }),
			handlertest.Discard, "", "the limit is 16777216"},
		"cannot be decoded": {handlers.Handle("q", func(context.Context, []input) (any, error) { return nil, nil }),
			handlertest.Discard, "", "decode the payload into []handlertest_test.input: json: cannot unmarshal object"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := handlertest.Run(t, tt.handler, json.RawMessage(`{"n": 1}`))
			if res.Outcome != tt.outcome || string(res.Output) != tt.output {
				t.Errorf("%s with output %.100s, not %s with %s", res.Outcome, res.Output, tt.outcome, tt.output)
			}
			if !strings.Contains(res.Error, tt.err) || (tt.err == "") != (res.Error == "") {
				t.Errorf("the error is %q, not %q", res.Error, tt.err)
			}
		})
	}
}

type evil struct{}

func (*evil) Error() string { panic("no words") }

func TestErrors(t *testing.T) {
	boom := errors.New("boom")
	tests := map[string]struct {
		fail    func() error
		outcome handlertest.Outcome
		err     string
		delay   time.Duration
		backoff bool
	}{
		"plain":          {func() error { return boom }, handlertest.Retry, "boom", 0, true},
		"retry":          {func() error { return handlers.Retry(boom, time.Minute) }, handlertest.Retry, "boom", time.Minute, false},
		"retry at once":  {func() error { return handlers.Retry(boom, 0) }, handlertest.Retry, "boom", 0, false},
		"retry, backoff": {func() error { return handlers.Retry(boom, -1) }, handlertest.Retry, "boom", 0, true},
		"retry of nil":   {func() error { return handlers.Retry(nil, 0) }, handlertest.Retry, "asked for a retry", 0, false},
		"short retry":    {func() error { return handlers.Retry(boom, time.Microsecond) }, handlertest.Retry, "boom", time.Millisecond, false},
		"wrapped": {func() error { return fmt.Errorf("outer: %w", handlers.Retry(boom, time.Second)) },
			handlertest.Retry, "outer: boom", time.Second, false},
		"discard":         {func() error { return handlers.Discard(boom) }, handlertest.Discard, "boom", 0, false},
		"wrapped discard": {func() error { return errors.Join(boom, handlers.Discard(errors.New("bad"))) }, handlertest.Discard, "boom\nbad", 0, false},
		"discard of nil":  {func() error { return handlers.Discard(nil) }, handlertest.Discard, "discarded", 0, false},
		"snooze":          {func() error { return handlers.Snooze(time.Hour) }, handlertest.Snooze, "", time.Hour, false},
		"snooze backward": {func() error { return handlers.Snooze(-time.Hour) }, handlertest.Snooze, "", 0, false},
		"panic":           {func() error { panic("so much for that") }, handlertest.Retry, "panic: so much for that\n\n", 0, true},
		"goexit":          {func() error { runtime.Goexit(); return nil }, handlertest.Retry, "runtime.Goexit", 0, true},
		"error panics":    {func() error { return &evil{} }, handlertest.Retry, "panic: no words", 0, true},
		"invalid UTF-8":   {func() error { return errors.New("a\xffb") }, handlertest.Retry, "a\uFFFDb", 0, true},
		"long":            {func() error { return errors.New(strings.Repeat("é", 100<<10)) }, handlertest.Retry, "[cut]", 0, true},
		"own cancel":      {func() error { return handlers.Discard(context.Canceled) }, handlertest.Discard, "context canceled", 0, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := handlers.Handle("q", func(context.Context, any) (any, error) { return nil, tt.fail() })
			res := handlertest.Run(t, h, 1)
			if res.Outcome != tt.outcome || res.Delay != tt.delay || res.Backoff != tt.backoff {
				t.Errorf("%s after %s (backoff %v), not %s after %s (%v)", res.Outcome, res.Delay, res.Backoff, tt.outcome, tt.delay, tt.backoff)
			}
			if !strings.Contains(res.Error, tt.err) || (tt.err == "") != (res.Error == "") || len(res.Error) > 64<<10 {
				t.Errorf("the error is %.300q, not %q", res.Error, tt.err)
			}
		})
	}
}

func TestPanicShowsWhere(t *testing.T) {
	h := handlers.Handle("q", func(context.Context, any) (any, error) {
		var nobody *input
		return nobody.N, nil
	})
	res := handlertest.Run(t, h, 1)
	first, _, _ := strings.Cut(strings.TrimPrefix(res.Error, "panic: runtime error: invalid memory address or nil pointer dereference\n\n"), "\n")
	if !strings.Contains(first, "TestPanicShowsWhere") {
		t.Errorf("the stack does not begin where the panic was:\n%s", res.Error)
	}
}

func TestInfo(t *testing.T) {
	at := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	var got handlers.JobInfo
	h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
		got = handlers.Info(ctx)
		return nil, nil
	})
	start := time.Now()
	handlertest.Run(t, h, 1,
		handlertest.ID(77), handlertest.Attempt(2), handlertest.MaxAttempts(3), handlertest.EnqueuedAt(at),
		handlertest.Timeout(time.Minute), handlertest.Headers(map[string]string{"traceparent": "00-1"}))
	if got.ID != 77 || got.Queue != "q" || got.Attempt != 2 || got.MaxAttempts != 3 || !got.EnqueuedAt.Equal(at) {
		t.Errorf("the info is %+v", got)
	}
	if got.Headers["traceparent"] != "00-1" {
		t.Errorf("the headers are %v", got.Headers)
	}
	if got.Deadline.Before(start.Add(time.Minute)) || got.Deadline.After(time.Now().Add(time.Minute)) {
		t.Errorf("the deadline is %s, a minute after %s at the earliest", got.Deadline, start)
	}
	if info := handlers.Info(t.Context()); info.ID != 0 || info.Queue != "" {
		t.Errorf("outside of a job the info is %+v", info)
	}
}

func TestTimeout(t *testing.T) {
	tests := map[string]struct {
		end     func(ctx context.Context) error
		outcome handlertest.Outcome
		err     string
	}{
		"its error":    {func(ctx context.Context) error { return ctx.Err() }, handlertest.Retry, "timed out after 20ms: context deadline exceeded"},
		"its cause":    {func(ctx context.Context) error { return context.Cause(ctx) }, handlertest.Retry, "timed out after 20ms"},
		"discards it":  {func(ctx context.Context) error { return handlers.Discard(ctx.Err()) }, handlertest.Retry, "timed out after 20ms"},
		"discards":     {func(context.Context) error { return handlers.Discard(errors.New("x")) }, handlertest.Discard, "x"},
		"still works":  {func(context.Context) error { return nil }, handlertest.Done, ""},
		"other error":  {func(context.Context) error { return errors.New("signal: killed") }, handlertest.Retry, "timed out after 20ms: signal: killed"},
		"of a child":   {func(ctx context.Context) error { return derived(ctx).Err() }, handlertest.Retry, "timed out after 20ms: context deadline exceeded"},
		"follow-up":    {func(ctx context.Context) error { return errors.Join(ctx.Err(), handlers.Enqueue(ctx, "q", 1)) }, handlertest.Retry, "timed out"},
		"another time": {func(ctx context.Context) error { return handlers.Retry(ctx.Err(), time.Hour) }, handlertest.Retry, "timed out after 20ms"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
				<-ctx.Done()
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
					return nil, fmt.Errorf("the context ended with %w", context.Cause(ctx))
				}
				return nil, tt.end(ctx)
			})
			res := handlertest.Run(t, h, 1, handlertest.Timeout(20*time.Millisecond))
			if res.Outcome != tt.outcome || !strings.HasPrefix(res.Error, tt.err) || len(res.Enqueued) > 0 {
				t.Errorf("%s with %q, not %s with %q", res.Outcome, res.Error, tt.outcome, tt.err)
			}
		})
	}
}

func derived(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return ctx
}

func TestCancel(t *testing.T) {
	tests := map[string]struct {
		end     func(ctx context.Context) error
		outcome handlertest.Outcome
		err     string
	}{
		"its error":        {func(ctx context.Context) error { return ctx.Err() }, handlertest.Release, ""},
		"its cause":        {func(ctx context.Context) error { return context.Cause(ctx) }, handlertest.Release, ""},
		"any error":        {func(context.Context) error { return errors.New("signal: killed") }, handlertest.Release, ""},
		"retries it":       {func(ctx context.Context) error { return handlers.Retry(ctx.Err(), time.Hour) }, handlertest.Release, ""},
		"discards it":      {func(ctx context.Context) error { return handlers.Discard(ctx.Err()) }, handlertest.Release, ""},
		"discards":         {func(context.Context) error { return handlers.Discard(errors.New("x")) }, handlertest.Discard, "x"},
		"snoozes":          {func(context.Context) error { return handlers.Snooze(time.Second) }, handlertest.Snooze, ""},
		"finishes":         {func(context.Context) error { return nil }, handlertest.Done, ""},
		"panics":           {func(context.Context) error { panic("x") }, handlertest.Retry, "panic: x"},
		"leaves follow-up": {func(ctx context.Context) error { return errors.Join(ctx.Err(), handlers.Enqueue(ctx, "q", 1)) }, handlertest.Release, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			running := make(chan struct{})
			h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
				close(running)
				<-ctx.Done()
				var cancelled *handlers.CancelledError
				if !errors.As(context.Cause(ctx), &cancelled) || cancelled.Reason != "shutdown" || !errors.Is(ctx.Err(), context.Canceled) {
					panic(context.Cause(ctx))
				}
				return nil, tt.end(ctx)
			})
			res := handlertest.Run(t, h, 1, handlertest.Cancel(running, "shutdown"), handlertest.Timeout(time.Hour))
			if res.Outcome != tt.outcome || !strings.HasPrefix(res.Error, tt.err) || len(res.Enqueued) > 0 {
				t.Errorf("%s with %q, not %s with %q", res.Outcome, res.Error, tt.outcome, tt.err)
			}
		})
	}
}

// A context that is asked for the first time only after the cancellation, or
// after the end of its job, has ended all the same.
func TestLateContext(t *testing.T) {
	running := make(chan struct{})
	var kept context.Context
	h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
		kept = ctx
		close(running)
		return nil, nil
	})
	handlertest.Run(t, h, 1)
	select {
	case <-kept.Done():
	default:
		t.Error("the context outlives its job")
	}
	if err := handlers.Enqueue(kept, "q", 1); err == nil {
		t.Error("a follow-up was taken after the job's end")
	}
	handlers.Progress(kept, 50, "after the end")
	handlers.Logger(kept).Info("after the end")
}

func TestEnqueue(t *testing.T) {
	outcomes := map[string]struct {
		err      error
		enqueued int
	}{
		"done": {nil, 3}, "snoozed": {handlers.Snooze(1), 3}, "discarded": {handlers.Discard(nil), 3},
		"failed": {errors.New("x"), 0}, "retried": {handlers.Retry(nil, 0), 0},
	}
	for name, tt := range outcomes {
		t.Run(name, func(t *testing.T) {
			h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
				headers := map[string]string{"a": "1"}
				if err := errors.Join(
					handlers.Enqueue(ctx, "next", input{1}),
					handlers.Enqueue(ctx, "next", json.RawMessage(`{"n":2}`), handlers.Delay(time.Minute), handlers.Priority(-3), handlers.Headers(headers), handlers.Headers(map[string]string{"b": "2"})),
					handlers.Enqueue(ctx, "other", []byte(`{"n":3}`)),
				); err != nil {
					return nil, err
				}
				if len(headers) != 1 {
					return nil, errors.New("the caller's headers were changed")
				}
				return nil, tt.err
			})
			res := handlertest.Run(t, h, 1)
			if len(res.Enqueued) != tt.enqueued {
				t.Fatalf("%d follow-ups, not %d: %s %s", len(res.Enqueued), tt.enqueued, res.Outcome, res.Error)
			}
			if tt.enqueued == 0 {
				return
			}
			if m := res.Enqueued[0]; m.Queue != "next" || string(m.Payload) != `{"n":1}` || m.Delay != 0 || m.Priority != 0 || m.Headers != nil {
				t.Errorf("the first is %+v", m)
			}
			if m := res.Enqueued[1]; string(m.Payload) != `{"n":2}` || m.Delay != time.Minute || m.Priority != -3 ||
				!maps.Equal(m.Headers, map[string]string{"a": "1", "b": "2"}) {
				t.Errorf("the second is %+v", m)
			}
			if m := res.Enqueued[2]; m.Queue != "other" || string(m.Payload) != `{"n":3}` {
				t.Errorf("the third is %+v", m)
			}
		})
	}
}

func TestEnqueueRefuses(t *testing.T) {
	h := handlers.Handle("q", func(ctx context.Context, _ any) (map[string]string, error) {
		errs := map[string]error{
			"queue":    handlers.Enqueue(ctx, "no spaces", 1),
			"no queue": handlers.Enqueue(ctx, "", 1),
			"payload":  handlers.Enqueue(ctx, "q", math.NaN()),
			"raw":      handlers.Enqueue(ctx, "q", []byte("{")),
			"priority": handlers.Enqueue(ctx, "q", 1, handlers.Priority(1001)),
			"header":   handlers.Enqueue(ctx, "q", 1, handlers.Headers(map[string]string{"a": "\xff"})),
			"size":     handlers.Enqueue(ctx, "q", strings.Repeat("x", 17<<20)),
			"context":  handlers.Enqueue(context.Background(), "q", 1),
		}
		out := make(map[string]string)
		for name, err := range errs {
			if err == nil {
				return nil, fmt.Errorf("%s was taken", name)
			}
			out[name] = err.Error()
		}
		return out, nil
	})
	res := handlertest.Run(t, h, 1)
	var errs map[string]string
	res.Decode(t, &errs)
	if len(res.Enqueued) > 0 {
		t.Errorf("%d messages were enqueued", len(res.Enqueued))
	}
	for name, want := range map[string]string{
		"queue": "letters, digits", "payload": "unsupported value", "priority": "outside -1000 to 1000", "context": "not a job's",
	} {
		if !strings.Contains(errs[name], want) {
			t.Errorf("%s: %q does not say %q", name, errs[name], want)
		}
	}
}

func TestProgressAndLogs(t *testing.T) {
	h := handlers.Handle("q", func(ctx context.Context, _ any) (any, error) {
		handlers.Progress(ctx, -5, "no idea")
		handlers.Progress(ctx, 120, "al\xffmost")
		log := handlers.Logger(ctx)
		log.Debug("plain")
		log.With("who", "me").WithGroup("g").Warn("with attributes", "n", 1, "err", errors.New("x"))
		log.Log(ctx, slog.LevelError, "again", slog.Group("h", "k", time.Second))
		return nil, nil
	})
	res := handlertest.Run(t, h, 1)
	if n := len(res.Progress); n == 0 || res.Progress[n-1] != (handlertest.Progress{Percent: 100, Message: "al\uFFFDmost"}) {
		t.Errorf("the progress is %v", res.Progress)
	}
	want := []string{
		`DEBUG plain `,
		`WARN with attributes {"who":"me","g":{"n":1,"err":"x"}}`,
		`ERROR again {"h":{"k":1000000000}}`,
	}
	if len(res.Logs) != len(want) {
		t.Fatalf("the log is %v", res.Logs)
	}
	for i, l := range res.Logs {
		if got := fmt.Sprintf("%s %s %s", l.Level, l.Message, l.Attrs); got != want[i] {
			t.Errorf("line %d is %s, not %s", i, got, want[i])
		}
	}
}

func Example() {
	t := &testing.T{} // the test's own
	greet := func(ctx context.Context, name string) (string, error) {
		if name == "" {
			return "", handlers.Discard(errors.New("nobody to greet"))
		}
		return "Hello, " + name, nil
	}
	res := handlertest.Run(t, handlers.Handle("greetings", greet), "Ada", handlertest.Attempt(2))
	fmt.Println(res.Outcome, string(res.Output))

	res = handlertest.Run(t, handlers.Handle("greetings", greet), "")
	fmt.Println(res.Outcome, res.Error)
	// Output:
	// done "Hello, Ada"
	// discard nobody to greet
}
