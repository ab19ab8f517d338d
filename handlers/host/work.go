package host

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// batch is what one frame holds for one lane.
type batch struct {
	lane    *Lane
	started []Ref
	beats   []*handlerpb.Beat
	calls   []*handlerpb.StepCall
	results []Result
}

// take hands a handler's frame to the sinks.
func (p *process) take(f *handlerpb.HandlerFrame) {
	for _, l := range f.Logs {
		logLine(p.log, l)
	}
	p.sinkMu.Lock()
	defer p.sinkMu.Unlock()
	p.batches = p.batches[:0]
	p.mu.Lock()
	unknown, more := p.sort(f, p.clock())
	p.mu.Unlock()
	if unknown.ID != 0 {
		p.warnOnce("it spoke of a job that is not in flight", "message", unknown.ID, "claim", unknown.Claim)
	}
	for i := range p.batches {
		b := &p.batches[i]
		if len(b.started) > 0 {
			b.lane.sink.Started(b.started)
		}
		if len(b.beats) > 0 {
			b.lane.sink.Beats(b.beats)
		}
		if len(b.calls) > 0 {
			b.lane.sink.Steps(p.version, b.calls)
		}
		if len(b.results) > 0 {
			b.lane.sink.Results(b.results)
		}
		*b = batch{}
	}
	for _, c := range f.Credits {
		if pt := p.byKey[c.Queue]; pt == nil {
			p.warnOnce("it gave credit for a queue that it did not describe", "queue", cutText(c.Queue, 128))
		} else if pt.queue.port.Load() == pt {
			pt.queue.tellRoom()
		}
	}
	if more {
		poke(p.wake)
	}
}

// sort enters a frame into the books and fills batches. It returns a job that
// is not in flight, if one was spoken of, and whether waiting jobs may go.
func (p *process) sort(f *handlerpb.HandlerFrame, now time.Duration) (unknown Ref, more bool) {
	for _, c := range f.Credits {
		if pt := p.byKey[c.Queue]; pt != nil {
			pt.addCredit(c.Jobs, c.Bytes)
			more = more || pt.live > 0
		}
	}
	for _, s := range f.Started {
		j := p.jobs[Ref{s.Id, s.Claim}]
		if j == nil || j.sent == 0 {
			unknown = Ref{s.Id, s.Claim}
			continue
		}
		p.begin(j, now)
	}
	for _, beat := range f.Beats {
		// A beat may arrive after its job's result: then it is no news.
		if j := p.jobs[Ref{beat.Id, beat.Claim}]; j != nil {
			beat.Message = cutText(beat.Message, maxLine)
			b := p.batchOf(j.lane)
			b.beats = append(b.beats, beat)
		}
	}
	if len(f.StepCalls) > 0 {
		if ref := p.sortCalls(f.StepCalls, now); ref.ID != 0 {
			unknown = ref
		}
	}
	for _, r := range f.Results {
		ref := Ref{r.Id, r.Claim}
		j := p.jobs[ref]
		if j == nil || j.sent == 0 {
			unknown = ref
			continue
		}
		delete(p.jobs, ref)
		j.port.inFlight--
		more = more || j.port.live > 0
		b := p.batchOf(j.lane)
		if b.results == nil {
			b.results = make([]Result, 0, len(f.Results))
		}
		b.results = append(b.results, j.result(r, now))
	}
	p.answer(f)
	return unknown, more
}

// answer notes what a frame says of the process as a whole.
func (p *process) answer(f *handlerpb.HandlerFrame) {
	if f.Drained {
		p.drained = true
	}
	if p.retired && (len(p.jobs) == 0 || f.Drained) {
		poke(p.nudge)
	}
}

func (p *process) batchOf(l *Lane) *batch {
	for i := range p.batches {
		if p.batches[i].lane == l {
			return &p.batches[i]
		}
	}
	p.batches = append(p.batches, batch{lane: l})
	return &p.batches[len(p.batches)-1]
}

// begin notes that a job's code runs. mu is held.
func (p *process) begin(j *job, now time.Duration) {
	if j.started == 0 {
		j.start(now)
		b := p.batchOf(j.lane)
		b.started = append(b.started, j.ref)
	}
}

func (j *job) start(now time.Duration) {
	j.started = now
	if j.unstartedOnly {
		j.cancelled, j.unstartedOnly, j.overdue, j.stuck = 0, false, false, false
	}
}

// result completes what the handler said of the job. A job whose start was not
// told has run for at most the time since it was sent.
func (j *job) result(r *handlerpb.Result, now time.Duration) Result {
	cleanResult(r, j.port.kind)
	if j.evicted && r.Outcome == handlerpb.Outcome_OUTCOME_RETRY {
		// It failed because the process goes. That is not the job's fault.
		*r = handlerpb.Result{Id: r.Id, Claim: r.Claim, Outcome: handlerpb.Outcome_OUTCOME_RELEASE, Error: r.Error}
	}
	out := Result{Result: r, Version: j.port.process.version}
	switch {
	case j.started != 0:
		out.Started, out.Elapsed = true, now-j.started
	case r.Outcome != handlerpb.Outcome_OUTCOME_RELEASE:
		out.Started, out.Elapsed = true, now-j.sent
	}
	return out
}

// deliver hands results to their sinks. sinkMu is held.
func (p *process) deliver(results []laneResult) {
	byLane := make(map[*Lane][]Result)
	for _, r := range results {
		byLane[r.lane] = append(byLane[r.lane], r.Result)
	}
	for lane, rs := range byLane {
		lane.sink.Results(rs)
	}
}

// room is Lane.Room.
func (p *process) room(pt *port) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return 0
	}
	return pt.room()
}

// send is Lane.Send.
func (p *process) send(pt *port, l *Lane, jobs []*handlerpb.Job) error {
	slab := make([]job, len(jobs))
	for i, pb := range jobs {
		pb.Queue = pt.queue.name
		cleanJob(pb)
		slab[i] = job{
			pb: pb, lane: l, port: pt, ref: Ref{pb.Id, pb.Claim}, size: int64(len(pb.Payload)), wire: wireSize(pb),
			timeout: time.Duration(max(pb.TimeoutMs, 0)) * time.Millisecond,
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return errRetired
	}
	for i := range slab {
		if _, taken := p.jobs[slab[i].ref]; taken {
			for k := range slab[:i] {
				delete(p.jobs, slab[k].ref)
			}
			return ErrInFlight
		}
		p.jobs[slab[i].ref] = &slab[i]
	}
	for i := range slab {
		j := &slab[i]
		pt.push(j)
		switch {
		case j.wire > MaxJobBytes:
			p.giveBack(j, tooLarge(j))
		case !pt.carriesOn(j.pb.Version):
			p.giveBack(j, putOff(j.pb))
		}
	}
	poke(p.wake)
	return nil
}

// wireSize is about how much of a frame the job takes.
func wireSize(j *handlerpb.Job) int64 {
	if len(j.Headers) == 0 && len(j.Steps) == 0 && len(j.Signals) == 0 {
		return int64(len(j.Payload))
	}
	return int64(proto.Size(j))
}

// tooLarge is the result of a job that no frame can hold.
func tooLarge(j *job) *handlerpb.Result {
	why := fmt.Sprintf("the job takes %d bytes, more than the %d that can be sent to a handler", j.wire, MaxJobBytes)
	if steps, signals := len(j.pb.Steps), len(j.pb.Signals); steps+signals > 0 {
		why = fmt.Sprintf("the run takes %d bytes with its %d recorded steps and %d signals, more than the %d that can be sent to a handler; let steps keep what is large elsewhere and return where it is",
			j.wire, steps, signals, MaxJobBytes)
	}
	return &handlerpb.Result{Id: j.ref.ID, Claim: j.ref.Claim, Outcome: handlerpb.Outcome_OUTCOME_DISCARD, Error: why}
}

// giveBack takes a job that waits out of the books and gives it a result of
// the host's own, through the tender. mu is held.
func (p *process) giveBack(j *job, r *handlerpb.Result) {
	j.port.drop(j)
	delete(p.jobs, j.ref)
	p.local = append(p.local, laneResult{j.lane, Result{Result: r}})
	poke(p.nudge)
}

// cancel is Lane.Cancel for the jobs that this process has.
func (p *process) cancel(l *Lane, reason string, unstartedOnly bool, refs []Ref) {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(refs) == 0 {
		for _, j := range p.jobs {
			if j.lane == l {
				p.cancelJob(j, reason, unstartedOnly, now)
			}
		}
	}
	for _, ref := range refs {
		if j := p.jobs[ref]; j != nil && j.lane == l {
			p.cancelJob(j, reason, unstartedOnly, now)
		}
	}
	poke(p.wake)
}

// cancelJob cancels one job. mu is held.
func (p *process) cancelJob(j *job, reason string, unstartedOnly bool, now time.Duration) {
	if j.sent == 0 {
		p.giveBack(j, &handlerpb.Result{Id: j.ref.ID, Claim: j.ref.Claim, Outcome: handlerpb.Outcome_OUTCOME_RELEASE, Error: reason})
		return
	}
	if unstartedOnly && j.started != 0 {
		return
	}
	if j.cancelled == 0 || (j.unstartedOnly && !unstartedOnly) {
		j.cancelled, j.unstartedOnly, j.reason = now, unstartedOnly, reason
	}
	p.outbox.cancels = append(p.outbox.cancels, &handlerpb.Cancel{
		Id: j.ref.ID, Claim: j.ref.Claim, Reason: reason, UnstartedOnly: unstartedOnly,
	})
}
