package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// fakeEnv makes the test binary a handler instead of a test. It holds the
// fakeConfig as JSON.
const fakeEnv = "HOST_TEST_HANDLER"

func TestMain(m *testing.M) {
	if raw, ok := os.LookupEnv(fakeEnv); ok {
		runFake(raw)
		return
	}
	if os.Getenv(sdkEnv) != "" {
		runSDKHandler()
		return
	}
	if dir, ok := os.LookupEnv(hostEnv); ok {
		runHostToBeKilled(dir)
		return
	}
	os.Exit(m.Run())
}

// fakeConfig is what a handler process of these tests does. Its jobs do what
// their payloads say; see fake.job.
type fakeConfig struct {
	Queues  []string
	Version string
	// Workflows says that the queues are of workflows, Versions which they carry on.
	Workflows bool
	Versions  []string
	Jobs      uint32 // credit for each queue; default 100
	Bytes     uint64 // credit for each queue; default 1 MiB

	Start        string // what goes wrong at the start; see runFake
	Protocol     int    // default handlers.ProtocolVersion
	NoWork       bool   // it does not serve Work
	Describe     string // "hang"
	SilentPings  bool
	DropsNothing bool   // cancels are ignored altogether
	Env          bool   // the description's version is the environment
	Grandchild   string // start a grandchild that holds stdout: "group" or "session"
}

func runFake(raw string) {
	var c fakeConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		panic(err)
	}
	switch c.Start {
	case "hang":
		fmt.Fprintln(os.Stderr, "waiting for a database that is away")
		select {}
	case "exit":
		fmt.Fprintln(os.Stderr, "no such option: --frobnicate")
		os.Exit(3)
	case "panic":
		panic("no configuration")
	case "garbage":
		for i := range 1000 {
			fmt.Printf("\x00\xff\x01garbage %d\n", i)
		}
		select {}
	case "longline":
		line := strings.Repeat("x", 1<<20)
		for range 10 {
			fmt.Print(line)
		}
		fmt.Println()
		select {}
	case "after":
		// A handshake of the right kind, and then the end.
		fmt.Println("1|1|unix|/nonexistent/socket|grpc")
		os.Exit(4)
	}
	if c.Protocol == 0 {
		c.Protocol = handlers.ProtocolVersion
	}
	if c.Jobs == 0 {
		c.Jobs = 100
	}
	if c.Bytes == 0 {
		c.Bytes = 1 << 20
	}
	if c.Grandchild != "" {
		startGrandchild(c.Grandchild)
	}
	f := &fake{config: c, quit: make(chan error, 2), calls: make(map[uint64]chan<- *handlerpb.StepReply), running: make(map[Ref]context.CancelCauseFunc)}
	sets := handlers.Plugins(f)
	if c.Protocol != handlers.ProtocolVersion {
		sets[c.Protocol] = sets[handlers.ProtocolVersion]
		delete(sets, handlers.ProtocolVersion)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  handlers.Handshake(),
		VersionedPlugins: sets,
		Logger:           hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(handlers.MaxMessageBytes),
				grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2("proto")}))...)
		},
	})
}

func startGrandchild(how string) {
	cmd := exec.Command("sleep", "30")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: how == "session"}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "grandchild %d\n", cmd.Process.Pid)
}

type stream = grpc.BidiStreamingServer[handlerpb.HostFrame, handlerpb.HandlerFrame]

// fake is a handler without the SDK, so that it can misbehave.
type fake struct {
	handlerpb.UnimplementedHandlerServer
	config fakeConfig
	stream stream
	send   sync.Mutex
	quit   chan error

	mu       sync.Mutex
	calls    map[uint64]chan<- *handlerpb.StepReply // that wait for their replies
	number   uint64
	running  map[Ref]context.CancelCauseFunc // nil for jobs that never start
	jobs     sync.WaitGroup
	inFlight int
	most     int // jobs in flight at once
}

func (f *fake) Describe(ctx context.Context, _ *handlerpb.DescribeRequest) (*handlerpb.Description, error) {
	if f.config.Describe == "hang" {
		<-ctx.Done()
		select {}
	}
	d := &handlerpb.Description{Name: "fake", Version: f.config.Version, Sdk: "test/1"}
	if f.config.Env {
		d.Version = strings.Join(append(os.Environ(), os.Args[1:]...), "\n")
	}
	for _, q := range f.config.Queues {
		dq := &handlerpb.Description_Queue{Name: q, Versions: f.config.Versions}
		if f.config.Workflows {
			dq.Kind = handlerpb.Description_KIND_WORKFLOW
		}
		d.Queues = append(d.Queues, dq)
	}
	return d, nil
}

func (f *fake) Work(s stream) error {
	if f.config.NoWork {
		return f.UnimplementedHandlerServer.Work(s)
	}
	f.stream = s
	credits := make([]*handlerpb.Credit, 0, len(f.config.Queues))
	for _, q := range f.config.Queues {
		credits = append(credits, &handlerpb.Credit{Queue: q, Jobs: f.config.Jobs, Bytes: f.config.Bytes})
	}
	f.write(&handlerpb.HandlerFrame{Credits: credits})
	go f.read()
	return <-f.quit
}

func (f *fake) read() {
	for {
		frame, err := f.stream.Recv()
		if err != nil {
			f.quit <- nil
			return
		}
		if h := frame.Hello; h != nil {
			for _, q := range h.Queues {
				f.log(fmt.Sprintf("hello from %s: %s runs %d at once", h.HostVersion, q.Name, q.Concurrency))
			}
		}
		for _, j := range frame.Jobs {
			f.take(j)
		}
		for _, c := range frame.Cancels {
			f.cancel(c)
		}
		if frame.Ping != nil && !f.config.SilentPings {
			f.write(&handlerpb.HandlerFrame{Pong: &handlerpb.Pong{Number: frame.Ping.Number}})
		}
		for _, r := range frame.StepReplies {
			f.mu.Lock()
			waits := f.calls[r.Number]
			delete(f.calls, r.Number)
			f.mu.Unlock()
			if waits != nil {
				waits <- r
			} else {
				f.log("step reply: " + r.Error)
			}
		}
		if frame.Drain {
			go func() {
				f.jobs.Wait()
				f.log(fmt.Sprintf("drained, at most %d jobs in flight", f.most))
				f.write(&handlerpb.HandlerFrame{Drained: true})
			}()
		}
	}
}

func (f *fake) write(frame *handlerpb.HandlerFrame) {
	f.send.Lock()
	defer f.send.Unlock()
	_ = f.stream.Send(frame)
}

func (f *fake) log(message string) {
	f.write(&handlerpb.HandlerFrame{Logs: []*handlerpb.Log{{Message: message}}})
}

func (f *fake) take(j *handlerpb.Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight++
	f.most = max(f.most, f.inFlight)
	f.jobs.Add(1)
	ref := Ref{j.Id, j.Claim}
	if string(j.Payload) == `"queued"` { // it waits in the process and never starts
		f.running[ref] = nil
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f.running[ref] = cancel
	go f.job(ctx, j)
}

func (f *fake) cancel(c *handlerpb.Cancel) {
	f.mu.Lock()
	cancel, known := f.running[Ref{c.Id, c.Claim}]
	f.mu.Unlock()
	switch {
	case !known || f.config.DropsNothing:
	case cancel == nil:
		f.finish(&handlerpb.Result{Id: c.Id, Claim: c.Claim, Outcome: handlerpb.Outcome_OUTCOME_RELEASE, Error: c.Reason}, nil)
	case !c.UnstartedOnly:
		cancel(fmt.Errorf("%s", c.Reason))
	}
}
