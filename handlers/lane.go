package handlers

import (
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// lane runs the jobs of one queue, in the order in which they came, as many at
// once as its limit. Its workers are kept for the next job.
type lane struct {
	queue   string
	run     runFunc
	session *session
	room    room // guarded by the outbox's lock

	mu      sync.Mutex
	pending fifo[*job]
	idle    []*worker
	workers map[*worker]struct{}
	limit   int
	// draining: what comes is handed back. closed: workers go.
	draining, closed bool
	running          sync.WaitGroup // the workers
}

// worker is a goroutine that does one job after the other.
type worker struct {
	lane *lane
	wake chan struct{} // has room for one token
	job  *job          // the one that runs, guarded by lane.mu
}

func newLane(s *session, h Handler) *lane {
	return &lane{queue: h.queue, run: h.run, session: s, limit: 1, workers: make(map[*worker]struct{})}
}

// push takes jobs on. It never blocks.
func (l *lane) push(jobs []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		l.session.out.release(jobs)
		return
	}
	for _, j := range jobs {
		l.pending.push(j)
	}
	l.wakeOne()
}

// wakeOne sets one more worker to work if there is work. Each worker that takes
// a job calls it again, so that short jobs are done by few workers and long
// ones spread over all. The lock is held.
func (l *lane) wakeOne() {
	if l.pending.len() == 0 || l.closed {
		return
	}
	if n := len(l.idle); n > 0 {
		w := l.idle[n-1] // its stack is the warmest
		l.idle = l.idle[:n-1]
		w.wake <- struct{}{}
		return
	}
	if len(l.workers) < l.limit {
		l.hire()
	}
}

// hire starts a worker. The lock is held.
func (l *lane) hire() {
	w := &worker{lane: l, wake: make(chan struct{}, 1)}
	l.workers[w] = struct{}{}
	l.running.Add(1)
	go w.work()
}

// resize sets how many jobs run at once. Workers above it go when their job is done.
func (l *lane) resize(limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = limit
	l.wakeOne()
}

// work does jobs until the worker is not needed any more.
func (w *worker) work() {
	l := w.lane
	defer l.running.Done()
	defer w.leave()
	for {
		j, wait := l.take(w)
		if j == nil {
			if !wait {
				return
			}
			<-w.wake
			continue
		}
		l.session.out.begin(j)
		output, err := j.call()
		w.done(j, output, err)
	}
}

// take gives w its next job, or tells it to wait for one or to go.
func (l *lane) take(w *worker) (j *job, wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.job = nil
	if l.closed || len(l.workers) > l.limit {
		return nil, false
	}
	if l.pending.len() == 0 {
		l.idle = append(l.idle, w)
		return nil, true
	}
	j = l.pending.pop()
	j.started = time.Now()
	w.job = j
	l.wakeOne()
	return j, false
}

func (w *worker) done(j *job, output []byte, err error) {
	elapsed := time.Since(j.started)
	j.conclude(output, err, elapsed)
	w.lane.session.out.finish(j, elapsed)
}

// leave ends the worker. When the handler called runtime.Goexit, or its run was
// stopped, it does so in the middle of a job, which still owes its result, and
// another worker takes its place.
func (w *worker) leave() {
	l := w.lane
	l.mu.Lock()
	j := w.job
	w.job = nil
	delete(l.workers, w)
	l.wakeOne()
	l.mu.Unlock()
	if j != nil {
		w.done(j, nil, errGoexit)
	}
}

// call runs the handler's code. A panic is the job's error.
func (j *job) call() (output []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			output, err = nil, &panicError{v, panicStack()}
			if j.flow != nil {
				// While a run is unwound this is the only word of it.
				j.flow.crash(err)
			}
		}
	}()
	return j.lane.run(j, j.msg.Payload)
}

// conclude settles the job. The error is the author's code too, and may panic.
func (j *job) conclude(output []byte, err error, elapsed time.Duration) {
	defer func() {
		if v := recover(); v != nil {
			j.settle(nil, &panicError{v, panicStack()}, elapsed)
		}
	}()
	j.settle(output, err, elapsed)
}

// attempt names a job within a process.
type attempt struct{ id, claim int64 }

// cancel asks the jobs to stop that are named in which; nil is all.
func (l *lane) cancel(which map[attempt]*handlerpb.Cancel, all *handlerpb.Cancel) {
	wanted := func(j *job) *handlerpb.Cancel {
		if all != nil {
			return all
		}
		return which[attempt{j.msg.Id, j.msg.Claim}]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var dropped []*job
	for range l.pending.len() {
		if j := l.pending.pop(); wanted(j) != nil {
			dropped = append(dropped, j)
		} else {
			l.pending.push(j)
		}
	}
	l.session.out.release(dropped)
	for w := range l.workers {
		if w.job == nil {
			continue
		}
		if c := wanted(w.job); c != nil && !c.UnstartedOnly {
			w.job.interrupt(c.Reason)
		}
	}
}

// drain hands back what has not started, and whatever may come.
func (l *lane) drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	l.cancel(nil, &handlerpb.Cancel{UnstartedOnly: true})
}

// close drains the lane, cancels what runs and lets the workers go.
func (l *lane) close(reason string) {
	l.drain()
	l.cancel(nil, &handlerpb.Cancel{Reason: reason})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, w := range l.idle {
		w.wake <- struct{}{}
	}
	l.idle = nil
}
