package handlers

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// endGrace is how long jobs that were cancelled because the host is gone may
// take to clean up.
const endGrace = time.Second

// session is the life of the one stream.
type session struct {
	stream   grpc.BidiStreamingServer[handlerpb.HostFrame, handlerpb.HandlerFrame]
	lanes    map[string]*lane
	out      *outbox
	logLevel atomic.Int64
	version  string      // of the handler, for StepOutside
	draining atomic.Bool // set by the reader alone
	// orphans holds jobs of queues that are not served, for their results.
	orphans *lane
}

func newSession(handlers []Handler, stream grpc.BidiStreamingServer[handlerpb.HostFrame, handlerpb.HandlerFrame]) *session {
	s := &session{stream: stream, lanes: make(map[string]*lane, len(handlers)), out: newOutbox()}
	s.logLevel.Store(int64(slog.LevelInfo))
	for _, h := range handlers {
		s.lanes[h.queue] = newLane(s, h)
	}
	return s
}

// run serves the stream until it ends, and returns why if that was not in order.
func (s *session) run() error {
	ended, written := make(chan error, 1), make(chan error, 1)
	go func() { ended <- s.read() }()
	go func() { written <- s.write() }()

	var err error
	select {
	case err = <-ended:
	case err = <-written:
		// The stream is of no use any more. Returning is what ends read.
		written <- nil
	}
	for _, l := range s.lanes {
		l.close("the connection to pgqrsd has ended")
	}
	s.out.hangUp()
	s.await(endGrace)
	s.out.close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	select {
	case werr := <-written:
		err = errors.Join(err, werr)
	case <-time.After(endGrace): // the host does not read any more
	}
	return err
}

// await waits for the jobs to end. One that ignores its context is left behind;
// the process is about to exit.
func (s *session) await(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, l := range s.lanes {
			l.running.Wait()
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// read takes frames in. It never waits for a job, so that a ping is answered
// whatever the jobs do.
func (s *session) read() error {
	for {
		frame, err := s.stream.Recv()
		if err != nil {
			return err
		}
		passHost(failpoint.HandlerGot, frame)
		if frame.Hello != nil {
			s.hello(frame.Hello)
		}
		if len(frame.Jobs) > 0 {
			s.jobs(frame.Jobs)
		}
		if len(frame.Cancels) > 0 {
			s.cancels(frame.Cancels)
		}
		if len(frame.StepReplies) > 0 {
			s.out.replied(frame.StepReplies)
		}
		if frame.Ping != nil {
			s.out.pong(frame.Ping.Number)
		}
		if frame.Drain {
			s.drain()
		}
		passHost(failpoint.HandlerTook, frame)
	}
}

func (s *session) hello(h *handlerpb.Hello) {
	s.logLevel.Store(int64(h.LogLevel))
	for _, q := range h.Queues {
		l := s.lanes[q.Name]
		if l == nil {
			continue
		}
		limit := int(max(q.Concurrency, 1))
		l.resize(limit)
		s.out.grant(l, limit)
	}
}

func (s *session) jobs(msgs []*handlerpb.Job) {
	s.out.received(len(msgs))
	for len(msgs) > 0 {
		// Jobs of one queue come in runs.
		queue, n := msgs[0].Queue, 1
		for n < len(msgs) && msgs[n].Queue == queue {
			n++
		}
		l := s.lanes[queue]
		if l == nil {
			s.refuse(msgs[:n])
		} else {
			jobs := make([]*job, n)
			for i, msg := range msgs[:n] {
				jobs[i] = newJob(msg, l)
			}
			l.push(jobs)
		}
		msgs = msgs[n:]
	}
}

// refuse answers jobs of a queue that this handler does not serve.
func (s *session) refuse(msgs []*handlerpb.Job) {
	if s.orphans == nil {
		s.orphans = newLane(s, Handler{})
	}
	for _, msg := range msgs {
		j := newJob(msg, s.orphans)
		j.conclude(nil, fmt.Errorf("this handler does not serve queue %q", msg.Queue), 0)
		s.out.finish(j, 0)
	}
}

func (s *session) cancels(cancels []*handlerpb.Cancel) {
	which := make(map[attempt]*handlerpb.Cancel, len(cancels))
	for _, c := range cancels {
		which[attempt{c.Id, c.Claim}] = c
	}
	for _, l := range s.lanes {
		l.cancel(which, nil)
	}
}

func (s *session) drain() {
	if s.draining.Swap(true) {
		return
	}
	for _, l := range s.lanes {
		l.drain()
	}
	s.out.drain()
}

// write sends frames until the outbox is closed and empty, or the stream breaks.
func (s *session) write() error {
	for {
		frame, closed := s.out.next()
		switch {
		case frame != nil:
			passHandler(failpoint.HandlerSends, frame)
			if err := s.stream.Send(frame); err != nil {
				return err
			}
			passHandler(failpoint.HandlerSent, frame)
		case closed:
			return nil
		default:
			<-s.out.wake
		}
	}
}
