package host

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Limits of step calls. A call beyond them is answered with an error, which
// fails the attempt of its run and no other.
const (
	maxOpenCalls = 1000 // of one run
	maxCallSteps = 1000
	// maxStepOutput is the largest output of a step, as of a job.
	maxStepOutput = 16 << 20
	// maxReplyText is how much of an error goes into a reply, so that a frame's
	// replies fit beside its jobs.
	maxReplyText = 2 << 10
)

// HaltRelease is the halt of a run that another process, or daemon, carries on.
const HaltRelease = "release"

// WaitVersion is the kind of wait of a run that was not given to the handler,
// because that does not carry on runs of its version.
const WaitVersion = "version"

// Reply answers the step call of an attempt.
type Reply struct {
	Ref
	*handlerpb.StepReply
}

// Reply answers step calls that came to this lane's Sink. A reply to an attempt
// that has its result, or whose process is gone, is dropped. The replies belong
// to the host from then on.
func (l *Lane) Reply(replies []Reply) {
	if len(replies) == 0 {
		return
	}
	for _, p := range l.host.processes() {
		p.reply(l, replies)
	}
}

func (p *process) reply(l *Lane, replies []Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.outbox.replies)
	for i := range replies {
		r := &replies[i]
		j := p.jobs[r.Ref]
		if j == nil || j.lane != l {
			continue
		}
		j.calls--
		if r.Error != "" {
			r.Error = cutText(r.Error, maxReplyText)
		} else if p.retired && r.Halt == "" {
			r.Halt = HaltRelease // another process carries it on
		}
		p.outbox.replies = append(p.outbox.replies, r.StepReply)
	}
	if len(p.outbox.replies) > before {
		poke(p.wake)
	}
}

// sortCalls enters a frame's step calls into the books and fills batches, or
// answers them with why not. A call tells of its job's start as well. It returns
// a job that is not in flight, if one was spoken of. mu is held.
func (p *process) sortCalls(calls []*handlerpb.StepCall, now time.Duration) (unknown Ref) {
	refused := len(p.outbox.replies)
	for _, c := range calls {
		j := p.jobs[Ref{c.Id, c.Claim}]
		if j == nil || j.sent == 0 {
			unknown = Ref{c.Id, c.Claim}
			p.refuseCall(c, 0, "the attempt that the call speaks of is not in flight")
			continue
		}
		p.begin(j, now)
		if at, why := j.refusesCall(c); why != "" {
			p.refuseCall(c, at, why)
			continue
		}
		j.calls++
		b := p.batchOf(j.lane)
		if b.calls == nil {
			b.calls = make([]*handlerpb.StepCall, 0, len(calls))
		}
		b.calls = append(b.calls, c)
	}
	if len(p.outbox.replies) > refused {
		poke(p.wake)
	}
	return unknown
}

// refusesCall says why a call cannot be taken, and which of its steps is at
// fault, as StepReply.refused does; empty if it can.
func (j *job) refusesCall(c *handlerpb.StepCall) (at uint32, why string) {
	switch {
	case j.port.kind != handlerpb.Description_KIND_WORKFLOW:
		return 0, fmt.Sprintf("queue %s is described as one of jobs; only runs of workflows have steps", j.port.queue.name)
	case j.calls >= maxOpenCalls:
		return 0, fmt.Sprintf("the run has %d step calls open; wait for replies before making more", j.calls)
	case len(c.Steps) == 0:
		return 0, "the call names no step"
	case len(c.Steps) > maxCallSteps:
		return 0, fmt.Sprintf("the call has %d steps, the limit is %d", len(c.Steps), maxCallSteps)
	}
	return cleanSteps(c.Steps)
}

func (p *process) refuseCall(c *handlerpb.StepCall, at uint32, why string) {
	p.outbox.replies = append(p.outbox.replies, &handlerpb.StepReply{Number: c.Number, Error: why, Refused: at})
}

// cleanSteps makes the texts of steps storable, and says why the steps cannot
// be recorded, and which of them, from 1; empty if they may be.
func cleanSteps(steps []*handlerpb.Step) (at uint32, why string) {
	for i, s := range steps {
		s.Name, s.Kind, s.Topic, s.Key = cleanText(s.Name), cleanText(s.Kind), cleanText(s.Topic), cleanText(s.Key)
		if s.Error != "" {
			s.Error = cutText(s.Error, maxText)
		}
		if c := s.Child; c != nil {
			cleanEnqueue(c)
		}
		if n := len(s.Output); n > maxStepOutput {
			return uint32(i + 1), fmt.Sprintf("the output of step %s is %d bytes large, the limit is %d; keep what is large elsewhere and return where it is",
				cutText(s.Name, 128), n, maxStepOutput)
		}
	}
	return 0, ""
}

// carriesOn reports whether the process's handler carries on runs of a version:
// any that has not begun, its own, those that it names, or all if it names none.
func (pt *port) carriesOn(version string) bool {
	return version == "" || version == pt.process.version || len(pt.versions) == 0 || slices.Contains(pt.versions, version)
}

// carried are the versions of runs that the process's handler carries on; nil is all.
func (pt *port) carried() []string {
	if len(pt.versions) == 0 {
		return nil
	}
	return append([]string{pt.process.version}, pt.versions...)
}

// putOff is the result of a run whose version the handler does not carry on.
func putOff(j *handlerpb.Job) *handlerpb.Result {
	return &handlerpb.Result{
		Id: j.Id, Claim: j.Claim, Outcome: handlerpb.Outcome_OUTCOME_WAIT,
		Wait: &handlerpb.Wait{Kind: WaitVersion, For: j.Version, News: j.News},
	}
}
