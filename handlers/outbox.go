package handlers

import (
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// A frame holds at most so many items of a kind, and stops being filled at so
// many bytes. Nothing waits for it to be full.
const (
	frameItems = 64
	frameBytes = 256 << 10
)

// logRoom is how many bytes of log lines may wait to be sent; a job that logs
// faster than the host reads waits for room.
const logRoom = 1 << 20

// outbox collects what is to be sent and hands it out in frames. All methods
// but log return at once.
type outbox struct {
	mu sync.Mutex
	// wake has room for one token; sleeping says that the writer waits for it.
	wake     chan struct{}
	sleeping bool
	closed   bool
	roomier  *sync.Cond // log lines were sent, or the outbox was closed

	credits []*handlerpb.Credit
	started fifo[*job]
	results fifo[*job]
	beats   fifo[*job]
	calls   fifo[*call]
	// open are the calls that wait for their reply, by number.
	open     map[uint64]*call
	number   uint64
	gone     bool // there will be no replies
	logs     fifo[*handlerpb.Log]
	logBytes int
	pongs    fifo[uint64]

	// owed counts the jobs that were received and whose result is not sent.
	owed     int
	draining bool
	drained  bool // was said
}

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1)}
	o.roomier = sync.NewCond(&o.mu)
	return o
}

// stir wakes the writer. The lock is held.
func (o *outbox) stir() {
	if o.sleeping {
		o.sleeping = false
		o.wake <- struct{}{}
	}
}

func (o *outbox) received(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owed += n
}

func (o *outbox) begin(j *job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started.push(j)
	o.stir()
}

// finish sends a job's result. The time that it ran tells how many more jobs
// its queue has room for.
func (o *outbox) finish(j *job, elapsed time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	j.finished = true
	j.lane.room.ran(elapsed)
	o.results.push(j)
	o.stir()
}

// release sends back jobs that never started.
func (o *outbox) release(jobs []*job) {
	if len(jobs) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, j := range jobs {
		j.finished = true
		j.result.Outcome = handlerpb.Outcome_OUTCOME_RELEASE
		o.results.push(j)
	}
	o.stir()
}

// grant gives the host its first credit for a lane, or what a change of its
// concurrency adds.
func (o *outbox) grant(l *lane, concurrency int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if credit := l.room.resize(l.queue, concurrency); credit != nil {
		o.credits = append(o.credits, credit)
		o.stir()
	}
}

func (o *outbox) progress(j *job, percent float64, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	j.spoke = true
	o.beatOf(j, percent, message)
}

// beatOf has a job's progress sent. The lock is held.
func (o *outbox) beatOf(j *job, percent float64, message string) {
	switch {
	case j.finished || o.closed:
		return
	case j.beat == nil:
		j.beat = &handlerpb.Beat{Id: j.msg.Id, Claim: j.msg.Claim}
		o.beats.push(j)
	}
	j.beat.Percent, j.beat.Message = percent, message
	o.stir()
}

func (o *outbox) log(line *handlerpb.Log) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.logBytes >= logRoom && !o.closed {
		o.roomier.Wait()
	}
	if o.closed {
		return
	}
	o.logs.push(line)
	o.logBytes += logSize(line)
	o.stir()
}

func logSize(line *handlerpb.Log) int { return len(line.Message) + len(line.Attrs) + 64 }

func (o *outbox) pong(number uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pongs.push(number)
	o.stir()
}

func (o *outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.draining = true
	o.stir()
}

// close lets the writer end once everything is sent, and nothing wait for room.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.roomier.Broadcast()
	o.stir()
}

// next returns what is to be sent now. Without a frame the writer is to wait
// for a token from wake, or to end when the outbox is closed.
func (o *outbox) next() (frame *handlerpb.HandlerFrame, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	frame = &handlerpb.HandlerFrame{Credits: o.credits}
	o.credits = nil
	some := len(frame.Credits) > 0
	if o.pongs.len() > 0 {
		frame.Pong = &handlerpb.Pong{Number: o.pongs.pop()}
		some = true
	}
	// Branches of runs stand still for their calls.
	size := o.takeCalls(frame)
	size += o.takeResults(frame)
	for o.started.len() > 0 && len(frame.Started) < frameItems {
		// The result of a job that is over already says that it had started.
		if j := o.started.pop(); !j.finished {
			frame.Started = append(frame.Started, &handlerpb.Started{Id: j.msg.Id, Claim: j.msg.Claim})
		}
	}
	for o.beats.len() > 0 && len(frame.Beats) < frameItems {
		j := o.beats.pop()
		frame.Beats = append(frame.Beats, j.beat)
		j.beat = nil
	}
	o.takeLogs(frame, size)
	some = some || len(frame.Results)+len(frame.StepCalls)+len(frame.Started)+len(frame.Beats)+len(frame.Logs) > 0
	if o.draining && !o.drained && o.owed == 0 && o.logs.len() == 0 {
		frame.Drained, o.drained = true, true
		some = true
	}
	if !some {
		o.sleeping = !o.closed
		return nil, o.closed
	}
	return frame, o.closed
}

// takeResults moves results into frame, with the credit that they give back.
func (o *outbox) takeResults(frame *handlerpb.HandlerFrame) (size int) {
	var touched []*lane
	for o.results.len() > 0 && len(frame.Results) < frameItems && size < frameBytes {
		if o.results.peek().unsent > 0 {
			break // the host must hear of its calls before: they are nothing to it afterwards
		}
		j := o.results.pop()
		o.owed--
		size += resultSize(&j.result)
		frame.Results = append(frame.Results, &j.result)
		if j.lane.room.returned(len(j.msg.Payload)) {
			touched = append(touched, j.lane)
		}
	}
	for _, l := range touched {
		frame.Credits = append(frame.Credits, l.room.credit(l.queue))
	}
	return size
}

func resultSize(r *handlerpb.Result) int {
	size := len(r.Output) + len(r.Error) + 32
	for _, e := range r.Enqueue {
		size += len(e.Payload) + 64
	}
	return size + stepsSize(r.Steps)
}

// takeLogs fills the frame up with log lines: at least one, so that results
// cannot hold them up for ever.
func (o *outbox) takeLogs(frame *handlerpb.HandlerFrame, size int) {
	for o.logs.len() > 0 && len(frame.Logs) < frameItems && (size < frameBytes || len(frame.Logs) == 0) {
		line := o.logs.pop()
		o.logBytes -= logSize(line)
		size += logSize(line)
		frame.Logs = append(frame.Logs, line)
	}
	if len(frame.Logs) > 0 {
		o.roomier.Broadcast()
	}
}

// fifo is a queue that reuses its memory when it runs empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(v T) {
	// Move down rather than grow when half of it was taken already.
	if len(q.items) == cap(q.items) && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

// peek is what pop would return.
func (q *fifo[T]) peek() T { return q.items[q.head] }

func (q *fifo[T]) pop() T {
	var zero T
	v := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v
}
