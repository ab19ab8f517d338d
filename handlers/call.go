package handlers

import (
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// replyGrace is how long a call is waited for that is open when its job's time
// is over or it is cancelled: a reply that is on its way lets a run end that has
// just done its last step.
const replyGrace = time.Second

// call is a StepCall that waits for its reply.
type call struct {
	pb      handlerpb.StepCall
	job     *job
	replies chan *handlerpb.StepReply // has room for the one reply
}

// noReply answers calls when the host is gone.
var noReply = &handlerpb.StepReply{Halt: "release"}

// record sends a call. Its reply comes by its channel.
func (o *outbox) record(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		c.replies <- noReply
		return
	}
	if o.open == nil {
		o.open = make(map[uint64]*call)
	}
	o.number++
	c.pb.Number = o.number
	o.open[o.number] = c
	c.job.unsent++
	o.calls.push(c)
	o.stir()
}

// replied hands replies to those that wait for them.
func (o *outbox) replied(replies []*handlerpb.StepReply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range replies {
		if c := o.open[r.Number]; c != nil {
			delete(o.open, r.Number)
			c.replies <- r
		}
	}
}

// lastReply waits a little for the reply to a call whose job must end, and gives
// the call up then: nil. The host may not answer any more, and a job that goes on
// for it would be ended with its process.
func (o *outbox) lastReply(c *call) *handlerpb.StepReply {
	timer := time.NewTimer(replyGrace)
	defer timer.Stop()
	select {
	case r := <-c.replies:
		return r
	case <-timer.C:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[c.pb.Number] != c {
		return <-c.replies // it came at the same moment
	}
	delete(o.open, c.pb.Number)
	return nil
}

// hangUp answers the calls that are open, and those to come, because the host
// does not any more.
func (o *outbox) hangUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	for _, c := range o.open {
		c.replies <- noReply
	}
	clear(o.open)
}

func (o *outbox) takeCalls(frame *handlerpb.HandlerFrame) (size int) {
	for o.calls.len() > 0 && len(frame.StepCalls) < frameItems && size < frameBytes {
		c := o.calls.pop()
		c.job.unsent--
		size += stepsSize(c.pb.Steps) + 32
		frame.StepCalls = append(frame.StepCalls, &c.pb)
	}
	return size
}

func stepsSize(steps []*handlerpb.Step) (size int) {
	for _, s := range steps {
		size += len(s.Name) + len(s.Output) + len(s.Error) + len(s.GetChild().GetPayload()) + 64
	}
	return size
}
