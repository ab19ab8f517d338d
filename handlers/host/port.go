package host

import (
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// port is one process's end of one queue. Its process's mutex guards it.
type port struct {
	queue   *queue
	process *process
	kind    handlerpb.Description_Kind
	// versions are those that a workflow's handler carries on besides its own;
	// empty is every one.
	versions []string
	// concurrency is how many jobs the handler was told to run at once.
	concurrency int

	// The handler's credit, less what is on the wire.
	jobs, bytes int64
	inFlight    int // jobs on the wire

	// waiting are jobs that were sent but have no credit yet, in order. Those
	// that were cancelled meanwhile have no pb any more; live counts the others
	// and liveBytes their payloads.
	waiting   []*job
	live      int
	liveBytes int64
}

// maxCredit keeps a handler's sums of credit from overflowing.
const maxCredit = 1 << 40

func (p *port) addCredit(jobs uint32, bytes uint64) {
	p.jobs = min(p.jobs+int64(jobs), maxCredit)
	p.bytes = min(p.bytes+int64(min(bytes, maxCredit)), maxCredit)
}

func (p *port) room() int {
	n := p.jobs - int64(p.live)
	if n <= 0 {
		return 0
	}
	if p.bytes-p.liveBytes <= 0 {
		if p.inFlight+p.live > 0 {
			return 0
		}
		return 1 // one job of any size
	}
	return int(n)
}

func (p *port) push(j *job) {
	p.waiting = append(p.waiting, j)
	p.live++
	p.liveBytes += j.size
}

// drop forgets a waiting job without sending it.
func (p *port) drop(j *job) {
	j.pb = nil
	p.live--
	p.liveBytes -= j.size
}

// pop takes the next waiting job that the credit allows, of at most limit
// bytes; nil if there is none.
func (p *port) pop(limit int64) *job {
	for len(p.waiting) > 0 && p.waiting[0].pb == nil {
		p.shift()
	}
	if len(p.waiting) == 0 || p.jobs <= 0 {
		return nil
	}
	j := p.waiting[0]
	if j.wire > limit || (j.size > p.bytes && p.inFlight > 0) {
		return nil
	}
	p.shift()
	p.live--
	p.liveBytes -= j.size
	p.jobs--
	p.bytes -= j.size
	p.inFlight++
	return j
}

func (p *port) shift() {
	p.waiting[0] = nil
	if p.waiting = p.waiting[1:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
}

// job is a job in flight. Times are the process's clock; 0 is not yet.
type job struct {
	pb   *handlerpb.Job // until it is on the wire
	lane *Lane
	port *port
	ref  Ref
	size int64 // of the payload, as it counts against the credit
	wire int64 // of all that is sent

	calls     int           // step calls that are not answered
	timeout   time.Duration // 0 is no limit
	sent      time.Duration // on the wire
	order     uint64        // in which it was put there
	started   time.Duration
	cancelled time.Duration
	reason    string // of the cancellation
	// unstartedOnly says that the cancellation is void once the job starts.
	unstartedOnly bool
	// evicted says that it was cancelled because its process must go, through no
	// fault of its own: its attempt is not counted.
	evicted bool
	// overdue says that the job was found past its time once, stuck that it
	// was found so twice: its process must go.
	overdue, stuck bool
	// suspected says that the job may have begun when its process crashed.
	suspected bool
}

// late reports whether the job should have ended: its grace after a timeout or
// a cancellation is over.
func (j *job) late(now, grace time.Duration) bool {
	if j.cancelled != 0 && now > j.cancelled+grace {
		return true
	}
	return j.timedOut(now - grace)
}

func (j *job) timedOut(now time.Duration) bool {
	return j.timeout > 0 && j.started != 0 && now > j.started+j.timeout
}
