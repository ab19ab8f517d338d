package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// spec is what a process is started from.
type spec struct {
	name string // the handler's
	path string // what is executed
	args []string
	env  map[string]string
}

// launcher starts processes and speaks go-plugin's handshake with them.
type launcher struct {
	forker   *forker
	lifeline *os.File // the reading end, which every process inherits
	sockets  string   // where each process gets a directory of its own
	timeout  time.Duration
}

// launched is a process that has completed its start: it has said what it
// serves and its stream is open, though nothing was sent on it.
type launched struct {
	spec
	child  *child
	out    *output
	dir    string
	client *plugin.Client
	desc   *handlerpb.Description
	stream grpc.BidiStreamingClient[handlerpb.HostFrame, handlerpb.HandlerFrame]
	hangUp context.CancelFunc // ends the stream
}

// launch starts a process and completes the handshake within the start's
// timeout. Its errors are refusals, unless this machine's state is at fault.
func (l *launcher) launch(ctx context.Context, s spec, log *slog.Logger) (*launched, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	dir, err := os.MkdirTemp(l.sockets, "p")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the handler's socket: %w", err)
	}
	p := &launched{spec: s, dir: dir}
	r := &pluginRunner{launcher: l, process: p, ctx: ctx}
	r.stdout, r.firstLine = io.Pipe()
	p.out = newOutput(log, r.handshake)
	p.client = plugin.NewClient(l.clientConfig(p, r))

	failed := make(chan error, 1)
	go func() { failed <- p.connect(ctx) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		// go-plugin's calls have no deadline. They fail when the process dies.
		r.kill()
		err = <-failed
	}
	p.child = r.theChild()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		p.awaitOwnExit(ctx)
		p.destroy()
		return nil, l.explain(ctx, p, r, err)
	}
	return p, nil
}

func (l *launcher) clientConfig(p *launched, r *pluginRunner) *plugin.ClientConfig {
	const window = 4 << 20
	return &plugin.ClientConfig{
		HandshakeConfig:  handlers.Handshake(),
		VersionedPlugins: handlers.Plugins(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			r.protocolEnv = cmd.Env
			return r, nil
		},
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		StartTimeout:     2 * l.timeout, // the context ends sooner
		Logger:           hclog.NewNullLogger(),
		SyncStdout:       p.out.splitter("stdout"),
		SyncStderr:       p.out.splitter("stderr"),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(
				grpc.MaxCallRecvMsgSize(handlers.MaxMessageBytes),
				grpc.MaxCallSendMsgSize(handlers.MaxMessageBytes),
				grpc.ForceCodecV2(newCodec()),
			),
			// A fixed window spares the pings that measure the connection.
			grpc.WithInitialWindowSize(window),
			grpc.WithInitialConnWindowSize(window),
		},
	}
}

// connect does everything that may block on the process.
func (p *launched) connect(ctx context.Context) error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := protocol.Dispense(handlers.PluginName)
	if err != nil {
		return err
	}
	handler, ok := raw.(handlerpb.HandlerClient)
	if !ok {
		return fmt.Errorf("go-plugin dispensed a %T", raw)
	}
	if p.desc, err = handler.Describe(ctx, &handlerpb.DescribeRequest{}); err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	streamCtx, hangUp := context.WithCancel(context.Background())
	p.hangUp = hangUp
	p.stream, err = handler.Work(streamCtx)
	return err
}

// awaitOwnExit gives a process that failed to start a moment to exit by
// itself, so that its exit status can be told.
func (p *launched) awaitOwnExit(ctx context.Context) {
	if p.child == nil {
		return
	}
	timer := time.NewTimer(crashGrace)
	defer timer.Stop()
	select {
	case <-p.child.exited:
	case <-ctx.Done():
	case <-timer.C:
	}
}

// destroy ends the process by force and removes what belonged to it. It
// returns when all of it is gone.
func (p *launched) destroy() {
	if p.child != nil {
		p.child.kill()
		<-p.child.dead
	}
	if p.hangUp != nil {
		p.hangUp()
	}
	p.client.Kill() // the process is dead: this only ends go-plugin's goroutines
	_ = os.RemoveAll(p.dir)
}

// pluginRunner is go-plugin's way to a process of ours.
type pluginRunner struct {
	launcher    *launcher
	process     *launched
	ctx         context.Context
	protocolEnv []string
	stdout      *io.PipeReader
	firstLine   *io.PipeWriter
	started     error // why Start failed

	mu     sync.Mutex
	child  *child
	killed bool // before there was a child
}

var _ runner.Runner = (*pluginRunner)(nil)

// Start starts the process.
func (r *pluginRunner) Start(context.Context) error {
	p := r.process
	var c *child
	// A file that was just copied may still be open for writing in a child that
	// another thread forked and that has not yet become its own program.
	for attempt := 0; ; attempt++ {
		cmd := exec.Command(p.path, p.args...)
		cmd.Env = p.environment(r.protocolEnv)
		cmd.ExtraFiles = []*os.File{r.launcher.lifeline}
		c, r.started = startChild(r.launcher.forker, cmd, p.out.stdout(), p.out.splitter("stderr"))
		if !errors.Is(r.started, syscall.ETXTBSY) || attempt == 20 {
			break
		}
		select {
		case <-r.ctx.Done():
			return r.started
		case <-time.After(10 * time.Millisecond):
		}
	}
	if r.started != nil {
		return r.started
	}
	r.mu.Lock()
	r.child = c
	if r.killed {
		c.kill()
	}
	r.mu.Unlock()
	// go-plugin learns of the end only through this pipe, which nobody else
	// can hold open.
	go func() {
		<-c.dead
		_ = r.firstLine.Close()
	}()
	return nil
}

// handshake passes the first line on, and nothing after it: go-plugin's
// scanner cannot choke on what it never sees.
func (r *pluginRunner) handshake(line string) {
	_, _ = io.WriteString(r.firstLine, line+"\n")
	_ = r.firstLine.Close()
}

// kill may come before Start has made the child.
func (r *pluginRunner) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = true
	if r.child != nil {
		r.child.kill()
	}
}

func (r *pluginRunner) theChild() *child {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.child
}

// Wait returns when the process is dead.
func (r *pluginRunner) Wait(context.Context) error {
	<-r.theChild().dead
	return nil
}

// Kill ends the process group.
func (r *pluginRunner) Kill(context.Context) error {
	r.kill()
	return nil
}

// Stdout holds the handshake's line.
func (r *pluginRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr is empty: output is read by the child's own pumps.
func (r *pluginRunner) Stderr() io.ReadCloser { return io.NopCloser(eof{}) }

// Name is for go-plugin's log, which is off.
func (r *pluginRunner) Name() string { return r.process.name }

// ID is the process id; empty before the start.
func (r *pluginRunner) ID() string {
	c := r.theChild()
	if c == nil {
		return ""
	}
	return strconv.Itoa(c.pid)
}

// Diagnose has nothing to add: launcher.explain says it better.
func (r *pluginRunner) Diagnose(context.Context) string { return "" }

// PluginToHost leaves addresses alone.
func (r *pluginRunner) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin leaves addresses alone.
func (r *pluginRunner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// environment is all that the process gets: nothing of the daemon's own
// environment but what every program needs.
func (p *launched) environment(protocol []string) []string {
	env := []string{"TMPDIR=" + p.dir}
	for _, name := range []string{"HOME", "LANG", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	env = append(env, "PATH="+path)
	for name, value := range p.env {
		env = append(env, name+"="+value)
	}
	env = append(env, protocol...)
	const firstExtraFile = 3
	return append(env, handlers.LifelineEnv+"="+strconv.Itoa(firstExtraFile))
}

// socketPathRoom is what go-plugin adds to a process's directory for a socket.
const socketPathRoom = len("/p1234567890/plugin-dir1234567890/plugin1234567890")

// maxSocketPath is how long the path of a Unix socket may be.
const maxSocketPath = 103

// socketDir makes the directory that holds the processes' own, below state or,
// where paths would be too long for a socket, in the system's place for
// temporary files.
func socketDir(state string) (string, error) {
	dir := filepath.Join(state, "run")
	if len(dir)+socketPathRoom <= maxSocketPath {
		return dir, os.MkdirAll(dir, 0o700)
	}
	tmp := os.TempDir()
	if len(tmp)+len("/pgqrsd-1234567890")+socketPathRoom > maxSocketPath {
		tmp = "/tmp"
	}
	return os.MkdirTemp(tmp, "pgqrsd-")
}
