package handlers

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// exitGrace is how long main may take to return after Serve's work is over,
// before the process is ended for it.
const exitGrace = 3 * time.Second

// Serve is a handler binary's main: it serves handlers, as many as there are,
// to the pgqrsd that started the process, and returns when pgqrsd has no more
// use for it. What main does after that must be done within 3 seconds. Name,
// Version and Setup may be given too.
//
// SIGINT and SIGTERM are left to pgqrsd, which drains its handlers: they do not
// end the process. When pgqrsd dies, so does the process.
//
// Started by hand, the binary says what it is and how to use it, and exits. With
// the argument "describe" it prints that as JSON.
//
// A mistake in the handlers, such as two for one queue, is printed and exits
// with status 2.
func Serve(options ...Option) {
	server, err := NewServer(options...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(2)
	}
	handshake := Handshake()
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		os.Exit(byHand(server, os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := serve(server); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", server.name, err)
		var setup *setupError
		if errors.As(err, &setup) {
			os.Exit(setup.status())
		}
		os.Exit(1)
	}
}

// setupError is what a Setup returned.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// status tells pgqrsd by EX_TEMPFAIL of sysexits.h that the process is to be
// started again later, and by EX_CONFIG that this would be of no use.
func (e *setupError) status() int {
	var discard *discardError
	if errors.As(e.err, &discard) {
		return 78
	}
	return 75
}

// serve runs the plugin's side of go-plugin until the host is done with it.
func serve(server *Server) error {
	stdio, err := takeStdout()
	if err != nil {
		return fmt.Errorf("move standard output out of the way: %w", err)
	}
	p := &process{}
	if err := p.watchLifeline(); err != nil {
		return err
	}
	ignoreSignals()
	for _, setup := range server.setup {
		if err := setup(); err != nil {
			return &setupError{err}
		}
	}

	server.described = sync.OnceFunc(func() {
		// The handshake is over, and the children of this process are not ours.
		stdio.restore()
		_ = os.Unsetenv(Handshake().MagicCookieKey)
	})
	worked := make(chan struct{})
	server.ended = sync.OnceFunc(func() { close(worked); p.end() })
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  Handshake(),
		VersionedPlugins: Plugins(server),
		GRPCServer:       p.newGRPCServer,
		Logger: hclog.New(&hclog.LoggerOptions{
			Output: stdio.stderr, Level: hclog.Warn, JSONFormat: true,
		}),
	})
	// go-plugin returns as soon as the host hung up; jobs that still run are
	// cancelled by then, and have a moment to clean up.
	p.end()
	if server.working.Load() {
		select {
		case <-worked:
		case <-time.After(2 * endGrace):
		}
	}
	return nil
}

// process ends the handler process when its host is gone.
type process struct {
	mu     sync.Mutex
	server *grpc.Server
	ending bool
}

func (p *process) newGRPCServer(options []grpc.ServerOption) *grpc.Server {
	options = append(options,
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		// A static window costs no probing, and holds more than the host may send
		// while a frame is on its way.
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(2<<20),
	)
	server := grpc.NewServer(options...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = server
	return server
}

// end stops serving, which makes Serve return, and sees to it that the process
// is gone soon after.
func (p *process) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return
	}
	p.ending = true
	time.AfterFunc(exitGrace, func() { os.Exit(1) })
	if p.server != nil {
		// In a goroutine of its own, because Stop may wait for the very call that
		// asks for it.
		go p.server.Stop()
	}
}

// ignoreSignals leaves the end of the process to the host: Ctrl-C in a terminal
// and a service manager's SIGTERM reach the whole group, while the host is still
// to drain its handlers. They are caught rather than ignored, because ignoring
// would be inherited by the processes that a handler starts.
func ignoreSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM)
}
