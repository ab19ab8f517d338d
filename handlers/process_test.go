package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// handlerEnv makes the test binary a handler binary.
const handlerEnv = "HANDLERS_TEST_SERVE"

func TestMain(m *testing.M) {
	switch os.Getenv(handlerEnv) {
	case "":
		os.Exit(m.Run())
	case "invalid":
		handlers.Serve(handlers.Handle("q", nop), handlers.Handle("q", nop))
	case "setup":
		handlers.Serve(handlers.Handle("q", nop), handlers.Setup(func() error {
			if os.Getenv("HANDLERS_TEST_SETUP") == "later" {
				return errors.New("the database is away")
			}
			return handlers.Discard(errors.New("SECRET is not set"))
		}))
	default:
		handlers.Serve(
			handlers.Name("testbinary"), handlers.Version("v1.2.3"),
			handlers.Handle("nop", nop), handlers.Handle("print", printer), handlers.Handle("wait", waiter),
			handlers.Workflow("order", nop, handlers.CarriesOn("v1", "v0")),
		)
		fmt.Fprintln(os.Stderr, "main goes on after Serve")
	}
}

func nop(context.Context, json.RawMessage) (struct{}, error) { return struct{}{}, nil }

// printer prints what would break a handshake or a scanner, in every way there is.
func printer(_ context.Context, text string) (struct{}, error) {
	fmt.Println(text)
	_, err := syscall.Write(1, []byte(text+"\n"))
	cmd := exec.Command("sh", "-c", `cat; echo; echo "cookie=$PGQRSD_HANDLER lifeline=$PGQRSD_LIFELINE_FD"`)
	cmd.Stdin, cmd.Stdout = strings.NewReader(text), os.Stdout
	return struct{}{}, errors.Join(err, cmd.Run())
}

// waiter returns when it is cancelled, and says why.
func waiter(ctx context.Context, _ json.RawMessage) (string, error) {
	<-ctx.Done()
	return "", context.Cause(ctx)
}

// child is a handler process.
type child struct {
	client *plugin.Client
	cmd    *exec.Cmd
	rpc    handlerpb.HandlerClient
	stderr *lines
	life   *os.File
}

// lines collects what a process prints.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

// await waits until the output contains want.
func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		l.mu.Lock()
		text, more := l.text.String(), l.more
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("the process never printed %q, but %d bytes: %.2000s", want, len(text), text)
		}
	}
}

func startChild(t *testing.T) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), handlerEnv+"=1", handlers.LifelineEnv+"=3", "TMPDIR="+t.TempDir())
	cmd.ExtraFiles = []*os.File{reading}
	c := &child{cmd: cmd, stderr: &lines{more: make(chan struct{})}, life: writing}
	c.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handlers.Handshake(),
		VersionedPlugins: handlers.Plugins(nil),
		Cmd:              cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     20 * time.Second,
		Stderr:           c.stderr,
		Logger:           hclog.NewNullLogger(),
		SkipHostEnv:      true,
	})
	t.Cleanup(func() {
		_ = writing.Close()
		_ = reading.Close()
		c.client.Kill()
	})
	protocol, err := c.client.Client()
	if err != nil {
		t.Fatalf("start the handler: %v", err)
	}
	raw, err := protocol.Dispense(handlers.PluginName)
	if err != nil {
		t.Fatal(err)
	}
	c.rpc = raw.(handlerpb.HandlerClient)
	return c
}

// work opens the stream and says hello.
func (c *child) work(t *testing.T) handlerpb.Handler_WorkClient {
	t.Helper()
	if _, err := c.rpc.Describe(t.Context(), &handlerpb.DescribeRequest{}); err != nil {
		t.Fatal(err)
	}
	stream, err := c.rpc.Work(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, &handlerpb.HostFrame{Hello: &handlerpb.Hello{Queues: []*handlerpb.Hello_QueueSettings{
		{Name: "nop", Concurrency: 2}, {Name: "print", Concurrency: 2}, {Name: "wait", Concurrency: 2},
	}}})
	return stream
}

func send(t *testing.T, stream handlerpb.Handler_WorkClient, frame *handlerpb.HostFrame) {
	t.Helper()
	if err := stream.Send(frame); err != nil {
		t.Fatal(err)
	}
}

// until receives frames until one satisfies done.
func until(t *testing.T, stream handlerpb.Handler_WorkClient, done func(*handlerpb.HandlerFrame) bool) {
	t.Helper()
	for {
		frame, err := stream.Recv()
		if err != nil {
			t.Fatalf("receive a frame: %v", err)
		}
		if done(frame) {
			return
		}
	}
}

// exited waits for the process to go.
func (c *child) exited(t *testing.T) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !c.client.Exited() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the process is still there")
		}
	}
}

func TestServeDescribes(t *testing.T) {
	c := startChild(t)
	d, err := c.rpc.Describe(t.Context(), &handlerpb.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "testbinary" || d.Version != "v1.2.3" || d.Sdk != handlers.SDK {
		t.Errorf("the handler describes itself as %v", d)
	}
	if len(d.Queues) != 4 || d.Queues[0].Name != "nop" || d.Queues[0].Kind != handlerpb.Description_KIND_JOB {
		t.Errorf("it serves %v", d.Queues)
	}
	if q := d.Queues[3]; q.Name != "order" || q.Kind != handlerpb.Description_KIND_WORKFLOW || !slices.Equal(q.Versions, []string{"v1", "v0"}) {
		t.Errorf("its workflow is %v", q)
	}
	if c.client.NegotiatedVersion() != handlers.ProtocolVersion {
		t.Errorf("the protocol is version %d", c.client.NegotiatedVersion())
	}
}

func TestServeDrains(t *testing.T) {
	c := startChild(t)
	stream := c.work(t)
	const n = 1000
	var jobs []*handlerpb.Job
	for i := range n {
		jobs = append(jobs, &handlerpb.Job{Id: int64(i + 1), Claim: 1, Queue: "nop", Attempt: 1, Payload: []byte(`{}`)})
	}
	send(t, stream, &handlerpb.HostFrame{Jobs: jobs})
	results := 0
	until(t, stream, func(f *handlerpb.HandlerFrame) bool { results += len(f.Results); return results == n })
	send(t, stream, &handlerpb.HostFrame{Drain: true})
	until(t, stream, func(f *handlerpb.HandlerFrame) bool { return f.Drained })
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.stderr.await(t, "main goes on after Serve")
	c.exited(t)
	if state := c.cmd.ProcessState; !state.Success() {
		t.Errorf("the process ended with %v", state)
	}
}

func TestServeKeepsStdoutAway(t *testing.T) {
	c := startChild(t)
	stream := c.work(t)
	text := strings.Repeat("x", 200<<10)
	payload, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, &handlerpb.HostFrame{Jobs: []*handlerpb.Job{{Id: 1, Claim: 1, Queue: "print", Payload: payload}}})
	until(t, stream, func(f *handlerpb.HandlerFrame) bool {
		if len(f.Results) > 0 && f.Results[0].Outcome != handlerpb.Outcome_OUTCOME_DONE {
			t.Errorf("printing: %v", f.Results[0])
		}
		return len(f.Results) > 0
	})
	c.stderr.await(t, "cookie= lifeline=\n")
	c.stderr.mu.Lock()
	defer c.stderr.mu.Unlock()
	if got := strings.Count(c.stderr.text.String(), "x"); got != 3*len(text) {
		t.Errorf("%d of %d bytes came out of standard error", got, 3*len(text))
	}
}

func TestServeIgnoresSignals(t *testing.T) {
	c := startChild(t)
	stream := c.work(t)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if err := c.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	send(t, stream, &handlerpb.HostFrame{Ping: &handlerpb.Ping{Number: 7}})
	until(t, stream, func(f *handlerpb.HandlerFrame) bool { return f.Pong.GetNumber() == 7 })
}

func TestServeEndsWithItsHost(t *testing.T) {
	tests := map[string]func(*testing.T, *child, handlerpb.Handler_WorkClient){
		"the lifeline ends": func(_ *testing.T, c *child, _ handlerpb.Handler_WorkClient) { _ = c.life.Close() },
		"the stream is closed": func(t *testing.T, _ *child, s handlerpb.Handler_WorkClient) {
			t.Helper()
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
		},
		"shutdown is called": func(_ *testing.T, c *child, _ handlerpb.Handler_WorkClient) { c.client.Kill() },
	}
	for name, hangUp := range tests {
		t.Run(name, func(t *testing.T) {
			c := startChild(t)
			stream := c.work(t)
			send(t, stream, &handlerpb.HostFrame{Jobs: []*handlerpb.Job{{Id: 1, Claim: 1, Queue: "wait", Payload: []byte("{}")}}})
			until(t, stream, func(f *handlerpb.HandlerFrame) bool { return len(f.Started) > 0 })
			hangUp(t, c, stream)
			c.exited(t)
		})
	}
}

func TestServeByHand(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, mode string, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), handlerEnv+"="+mode)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, io.Writer(&errs)
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	t.Run("no arguments", func(t *testing.T) {
		out, _, code := run(t, "1")
		if code != 0 || !strings.Contains(out, "testbinary v1.2.3 is a pgqrsd handler. It serves the queues nop, print, wait, order.") {
			t.Errorf("status %d:\n%s", code, out)
		}
	})
	t.Run("describe", func(t *testing.T) {
		out, _, code := run(t, "1", "describe")
		var got struct {
			Name, Version, SDK string
			Protocol           int
			Queues             []struct {
				Name, Kind string
				Versions   []string
			}
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
			t.Fatalf("status %d, %v:\n%s", code, err, out)
		}
		if got.Name != "testbinary" || got.Protocol != 1 || len(got.Queues) != 4 || got.Queues[2].Name != "wait" || got.Queues[2].Kind != "job" ||
			got.Queues[3].Kind != "workflow" || !slices.Equal(got.Queues[3].Versions, []string{"v1", "v0"}) {
			t.Errorf("described as %+v", got)
		}
	})
	t.Run("unknown argument", func(t *testing.T) {
		_, errs, code := run(t, "1", "frobnicate")
		if code != 2 || !strings.Contains(errs, `"frobnicate"`) {
			t.Errorf("status %d:\n%s", code, errs)
		}
	})
	t.Run("setup", func(t *testing.T) {
		if out, errs, code := run(t, "setup"); code != 0 || !strings.Contains(out, "the queue q.") {
			t.Errorf("by hand: status %d:\n%s%s", code, out, errs)
		}
		handshake := handlers.Handshake()
		t.Setenv(handshake.MagicCookieKey, handshake.MagicCookieValue)
		out, errs, code := run(t, "setup")
		if code != 78 || out != "" || !strings.HasSuffix(errs, ": SECRET is not set\n") {
			t.Errorf("by pgqrsd: status %d:\n%s%s", code, out, errs)
		}
		t.Setenv("HANDLERS_TEST_SETUP", "later")
		out, errs, code = run(t, "setup")
		if code != 75 || out != "" || !strings.Contains(errs, "the database is away") {
			t.Errorf("not ready: status %d:\n%s%s", code, out, errs)
		}
	})
	t.Run("two handlers for a queue", func(t *testing.T) {
		_, errs, code := run(t, "invalid")
		if code != 2 || !strings.Contains(errs, "two handlers") {
			t.Errorf("status %d:\n%s", code, errs)
		}
	})
}
