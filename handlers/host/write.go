package host

import (
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// How much travels in one frame.
const (
	frameJobs    = 64
	frameBytes   = 256 << 10
	frameCancels = 1024
	frameReplies = 256
)

// MaxJobBytes is the largest job that fits into a message with the rest of a
// frame, a run's recorded steps and signals included.
const MaxJobBytes = handlers.MaxMessageBytes - 1<<20

// outbox is what waits to be written, besides jobs. The process's mutex guards it.
type outbox struct {
	hello   *handlerpb.Hello
	ping    uint64 // number of the ping; 0 is none
	cancels []*handlerpb.Cancel
	replies []*handlerpb.StepReply
	drain   bool
}

// write sends whatever is waiting, until the process is gone. It never waits
// to fill a frame.
func (p *process) write() {
	for {
		select {
		case <-p.stopped:
			return
		case <-p.wake:
		}
		for {
			frame := p.nextFrame(p.clock())
			if frame == nil {
				break
			}
			passHost(failpoint.HostSends, frame)
			if p.stream.Send(frame) != nil {
				return // the reader learns of the stream's end, and why
			}
			passHost(failpoint.HostSent, frame)
		}
	}
}

// nextFrame takes what is waiting, up to a frame's size; nil if nothing is.
func (p *process) nextFrame(now time.Duration) *handlerpb.HostFrame {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &p.outbox
	f := &handlerpb.HostFrame{Hello: o.hello, Drain: o.drain}
	any := o.hello != nil || o.drain || len(o.replies) > 0
	o.hello, o.drain = nil, false
	if n := min(len(o.replies), frameReplies); n > 0 {
		f.StepReplies = o.replies[:n:n]
		if o.replies = o.replies[n:]; len(o.replies) == 0 {
			o.replies = nil
		}
	}
	if o.ping != 0 {
		f.Ping = &handlerpb.Ping{Number: o.ping}
		o.ping, any = 0, true
	}
	if len(o.cancels) > 0 {
		n := min(len(o.cancels), frameCancels)
		f.Cancels, any = o.cancels[:n:n], true
		if o.cancels = o.cancels[n:]; len(o.cancels) == 0 {
			o.cancels = nil
		}
	}
	if p.fillJobs(f, now) {
		any = true
	}
	if !any {
		return nil
	}
	return f
}

// fillJobs moves waiting jobs that have credit into the frame. Queues take
// turns at being first.
func (p *process) fillJobs(f *handlerpb.HostFrame, now time.Duration) bool {
	left := int64(frameBytes)
	p.turn++
	for i := range p.ports {
		pt := p.ports[(p.turn+i)%len(p.ports)]
		for len(f.Jobs) < frameJobs {
			limit := left
			if len(f.Jobs) == 0 {
				limit = MaxJobBytes
			}
			j := pt.pop(limit)
			if j == nil {
				break
			}
			if f.Jobs == nil {
				f.Jobs = make([]*handlerpb.Job, 0, min(frameJobs, pt.live+1))
			}
			f.Jobs = append(f.Jobs, j.pb)
			left -= j.wire
			p.sent++
			j.pb, j.sent, j.order = nil, now, p.sent
		}
	}
	return len(f.Jobs) > 0
}
