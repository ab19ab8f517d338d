package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

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

// job does what the payload says, a JSON string or any other JSON for "done".
func (f *fake) job(ctx context.Context, j *handlerpb.Job) {
	var do string
	if json.Unmarshal(j.Payload, &do) != nil {
		do = "done"
	}
	r := &handlerpb.Result{Id: j.Id, Claim: j.Claim, Outcome: handlerpb.Outcome_OUTCOME_DONE, Output: j.Payload}
	do, arg, _ := strings.Cut(do, ":")
	started := &handlerpb.HandlerFrame{Started: []*handlerpb.Started{{Id: j.Id, Claim: j.Claim}}}
	switch do {
	case "quiet": // done without a Started
	default:
		f.write(started)
	}
	switch do {
	case "sleep":
		d, _ := time.ParseDuration(arg)
		select {
		case <-ctx.Done():
			r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_RELEASE, context.Cause(ctx).Error()
		case <-time.After(d):
		}
	case "deaf": // runs on whatever it is told
		d, _ := time.ParseDuration(arg)
		<-time.After(d)
	case "stuck":
		select {}
	case "exit":
		os.Exit(7)
	case "panic":
		panic("the job went wrong")
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // the other threads stop a little later
	case "print":
		fmt.Println(arg)
		fmt.Fprintln(os.Stderr, arg)
	case "longline":
		_, _ = os.NewFile(1, "stdout").WriteString(strings.Repeat("y", 10<<20) + "\nafter the long line\n")
	case "log":
		f.write(&handlerpb.HandlerFrame{Logs: []*handlerpb.Log{{
			Id: j.Id, Claim: j.Claim, Queue: j.Queue, Level: 4, Message: "half \x00 way", Attrs: []byte(`{"rows": 12, "who": "me"}`),
		}}})
	case "beat":
		f.write(&handlerpb.HandlerFrame{Beats: []*handlerpb.Beat{{Id: j.Id, Claim: j.Claim, Percent: 40, Message: "on the way"}}})
	case "badtext":
		r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_DISCARD, "NUL \x00 here"
	case "rawtext":
		// A library that does not check its text.
		result := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(j.Id))
		result = protowire.AppendVarint(protowire.AppendTag(result, 2, protowire.VarintType), uint64(j.Claim))
		result = protowire.AppendVarint(protowire.AppendTag(result, 3, protowire.VarintType), uint64(handlerpb.Outcome_OUTCOME_DISCARD))
		result = protowire.AppendString(protowire.AppendTag(result, 5, protowire.BytesType), "caf\xe9")
		f.send.Lock()
		_ = f.stream.SendMsg(rawFrame(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), result)))
		f.send.Unlock()
		f.jobs.Done()
		return
	case "nothing":
		r.Outcome = handlerpb.Outcome_OUTCOME_UNSPECIFIED
	case "snooze":
		r.Outcome = handlerpb.Outcome_OUTCOME_SNOOZE
	case "stranger":
		f.write(&handlerpb.HandlerFrame{
			Results: []*handlerpb.Result{{Id: 987654, Claim: 1, Outcome: handlerpb.Outcome_OUTCOME_DONE}},
			Started: []*handlerpb.Started{{Id: 987655, Claim: 1}},
			Credits: []*handlerpb.Credit{{Queue: "nobodys", Jobs: 1}},
		})
	case "twice":
		f.write(&handlerpb.HandlerFrame{Results: []*handlerpb.Result{{Id: j.Id, Claim: j.Claim, Outcome: handlerpb.Outcome_OUTCOME_DONE}}})
	case "step":
		f.write(&handlerpb.HandlerFrame{StepCalls: []*handlerpb.StepCall{{Number: 5, Id: j.Id, Claim: j.Claim}}})
	case "call", "big call", "empty call", "calls", "call for another":
		f.callSteps(j, r, do, arg)
	case "wait":
		r.Outcome, r.Wait = handlerpb.Outcome_OUTCOME_WAIT, &handlerpb.Wait{Kind: arg, DelayMs: 5}
	case "wait for nothing":
		r.Outcome = handlerpb.Outcome_OUTCOME_WAIT
	case "cancelled":
		r.Outcome = handlerpb.Outcome_OUTCOME_CANCEL
	case "result with step":
		r.Steps = []*handlerpb.Step{{Name: "last\x00"}}
	case "result with a big step":
		r.Steps = []*handlerpb.Step{{Name: "last", Output: make([]byte, maxStepOutput+1)}}
	case "hangup": // the stream ends with an error, the process lives on
		f.quit <- errors.New("out of ideas")
		select {}
	case "nonsense":
		_ = f.stream.SendMsg(rawFrame("\xff\xff\xff\xff no protobuf"))
	}
	f.finish(r, j)
}

// callSteps makes a step call, or as many as arg says, waits for the replies and
// leaves the last one in the result.
func (f *fake) callSteps(j *handlerpb.Job, r *handlerpb.Result, do, arg string) {
	n, _ := strconv.Atoi(arg)
	replies := make(chan *handlerpb.StepReply, max(n, 1))
	for range max(n, 1) {
		f.mu.Lock()
		f.number++
		c := &handlerpb.StepCall{Number: f.number, Id: j.Id, Claim: j.Claim, Steps: []*handlerpb.Step{{Name: "pay\x00", Output: []byte(`1`)}}}
		f.calls[f.number] = replies
		f.mu.Unlock()
		switch do {
		case "big call":
			c.Steps[0].Output = make([]byte, maxStepOutput+1)
		case "empty call":
			c.Steps = nil
		case "call for another":
			c.Claim++
		}
		f.write(&handlerpb.HandlerFrame{StepCalls: []*handlerpb.StepCall{c}})
	}
	for range max(n, 1) {
		reply := <-replies
		r.Output = []byte(reply.Halt)
		if reply.Error != "" {
			r.Outcome, r.Output, r.Error = handlerpb.Outcome_OUTCOME_RETRY, nil, reply.Error
		}
	}
}

// finish sends a result and gives its credit back.
func (f *fake) finish(r *handlerpb.Result, j *handlerpb.Job) {
	frame := &handlerpb.HandlerFrame{Results: []*handlerpb.Result{r}}
	if j != nil {
		frame.Credits = []*handlerpb.Credit{{Queue: j.Queue, Jobs: 1, Bytes: uint64(len(j.Payload))}}
	}
	f.mu.Lock()
	f.inFlight--
	delete(f.running, Ref{r.Id, r.Claim})
	f.mu.Unlock()
	f.write(frame)
	f.jobs.Done()
}

// rawFrame is sent as it is.
type rawFrame []byte

type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(rawFrame); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}
