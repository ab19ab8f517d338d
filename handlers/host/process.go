package host

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

const (
	// exitGrace is how long a process that was asked to end may take.
	exitGrace = 3 * time.Second
	// crashGrace is how long a process that broke off its stream may take to
	// exit by itself, so that its own exit status can be told.
	crashGrace = 250 * time.Millisecond
	// lastFrames is how long frames are still read after the process's end. The
	// stream ends at once, unless a grandchild holds the socket.
	lastFrames = time.Second
)

// maxVersion is how much is kept of a handler's version, in bytes.
const maxVersion = 128

var errRetired = errors.New("the process takes no more jobs")

// process is one generation of a handler: a running process that serves.
type process struct {
	*launched
	host  *Host
	log   *slog.Logger
	born  time.Time
	ports []*port // in the order of the description
	byKey map[string]*port
	// version is the handler's, storable: runs remember it.
	version string

	lastFrame atomic.Int64  // by clock: when something was heard
	wake      chan struct{} // the writer has something to do
	nudge     chan struct{} // the tender has something to do
	stopped   chan struct{} // the stream and the process are gone

	// sinkMu is held while sinks are called, so that they are called one at a
	// time for this process. It is taken before mu, never after.
	sinkMu  sync.Mutex
	batches []batch

	mu      sync.Mutex
	jobs    map[Ref]*job
	outbox  outbox
	local   []laneResult // results that the host itself gives
	retired bool         // no more jobs are taken
	drained bool         // the handler says it has nothing left
	ending  bool         // it was asked to exit
	why     string       // for results: what the host did to the process
	hung    bool         // that was because it did not answer
	warned  map[string]bool
	turn    int
	sent    uint64           // jobs put on the wire
	told    *handlerpb.Hello // the last one
	// Of a retired process, by clock; 0 is not yet, and for limit never.
	drainAsked, endAsked, limit time.Duration
	retiredWhy                  string
	evicting                    bool // limit has come: its jobs were cancelled

	killOnce   sync.Once
	clientGone chan struct{}
}

// laneResult is a result and whose it is.
type laneResult struct {
	lane *Lane
	Result
}

func newProcess(h *Host, l *launched, queues func(name string) *queue) *process {
	p := &process{
		launched: l, host: h, log: h.log.With("handler", l.name),
		born: time.Now(), byKey: make(map[string]*port), jobs: make(map[Ref]*job),
		wake: make(chan struct{}, 1), nudge: make(chan struct{}, 1), stopped: make(chan struct{}),
		warned: make(map[string]bool), clientGone: make(chan struct{}),
	}
	p.version = cutText(l.desc.GetVersion(), maxVersion)
	for _, q := range l.desc.GetQueues() {
		pt := &port{queue: queues(q.GetName()), process: p, kind: q.GetKind()}
		for _, v := range q.GetVersions() {
			pt.versions = append(pt.versions, cutText(v, maxVersion))
		}
		if pt.kind == handlerpb.Description_KIND_UNSPECIFIED {
			pt.kind = handlerpb.Description_KIND_JOB
		}
		p.ports = append(p.ports, pt)
		p.byKey[q.GetName()] = pt
	}
	return p
}

// clock is the time since the process began to serve; never 0.
func (p *process) clock() time.Duration { return time.Since(p.born) + 1 }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run serves until the process is dead and every job has its result.
func (p *process) run() (cause error) {
	var loops sync.WaitGroup
	loops.Go(p.write)
	loops.Go(p.tend)
	p.out.release()
	cause = p.read()

	p.closePorts()
	p.awaitExit()
	<-p.child.dead
	p.hangUp()
	close(p.stopped)
	loops.Wait()
	p.giveLastResults(cause)
	p.shutClient()
	<-p.clientGone
	p.destroy()
	return cause
}

// read hands frames on until the stream ends.
func (p *process) read() error {
	for {
		frame, err := p.stream.Recv()
		if err != nil {
			return err
		}
		p.lastFrame.Store(int64(p.clock()))
		passHandler(failpoint.HostGot, frame)
		p.take(frame)
		passHandler(failpoint.HostTook, frame)
	}
}

// awaitExit gives a process whose stream has ended a moment to exit by itself,
// then kills it. Its group goes with it in any case.
func (p *process) awaitExit() {
	grace := crashGrace
	p.mu.Lock()
	if p.ending {
		grace = exitGrace
	}
	p.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.child.exited:
	case <-timer.C:
		p.child.kill()
	}
}

// closePorts lets no more jobs in, and tells the queues' sinks.
func (p *process) closePorts() {
	p.mu.Lock()
	p.retired = true
	p.mu.Unlock()
	p.sinkMu.Lock()
	defer p.sinkMu.Unlock()
	for _, pt := range p.ports {
		if pt.queue.port.CompareAndSwap(pt, nil) {
			pt.queue.tellRoom()
		}
	}
}

// kill ends the process by force; why is for the results of its jobs.
func (p *process) kill(why string) {
	p.mu.Lock()
	if p.why == "" {
		p.why = why
	}
	p.mu.Unlock()
	p.child.kill()
}

// shutClient asks the process to exit, in go-plugin's way, without waiting.
func (p *process) shutClient() {
	p.killOnce.Do(func() {
		go func() {
			defer close(p.clientGone)
			p.client.Kill()
		}()
	})
}

// end asks the process to exit and returns; the tender kills it if it does not.
func (p *process) end() {
	p.mu.Lock()
	if !p.ending {
		p.ending, p.endAsked = true, p.clock()
	}
	p.mu.Unlock()
	p.shutClient()
}

// unimplemented reports whether the handler has no Work at all.
func unimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// warnOnce logs a breach of the protocol, each kind once for a process.
func (p *process) warnOnce(breach string, args ...any) {
	p.mu.Lock()
	before := p.warned[breach]
	p.warned[breach] = true
	p.mu.Unlock()
	if !before {
		p.log.Warn("handler breaks the protocol; this is told once: "+breach, args...)
	}
}

func (p *process) queueNames() []string {
	names := make([]string, len(p.ports))
	for i, pt := range p.ports {
		names[i] = pt.queue.name
	}
	return names
}

// announce tells the queues' sinks that they are served.
func (p *process) announce() {
	p.sinkMu.Lock()
	defer p.sinkMu.Unlock()
	for _, pt := range p.ports {
		pt.queue.tellRoom()
	}
}

// stop ends the process now: one without jobs may still exit by itself.
func (p *process) stop() {
	p.mu.Lock()
	idle := len(p.jobs) == 0
	p.mu.Unlock()
	if idle {
		p.end()
	} else {
		p.kill("was killed because pgqrsd stopped")
	}
}
