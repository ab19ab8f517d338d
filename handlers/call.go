package handlers

import "github.com/pgqrs/pgqrsd/handlers/handlerpb"

// call is a StepCall that waits for its reply.
type call struct {
	pb      handlerpb.StepCall
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
