package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// job is one attempt at one message. It is also the context that the handler
// gets: most jobs are over before anyone has asked it anything, so a real
// context with its timer is made only when it is needed.
type job struct {
	msg     *handlerpb.Job
	lane    *lane
	timeout time.Duration // 0 is none
	started time.Time

	mu     sync.Mutex
	ctx    context.Context // nil until needed
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // of the deadline's timer
	cause  error              // why the host cancelled it
	ended  bool
	// flow is the run's; nil for a plain job. It is set before the author's code runs.
	flow   *flow
	follow []*handlerpb.Enqueue
	// followBytes is the length of all payloads in follow.
	followBytes int
	logger      *slog.Logger

	// What the outbox knows of it, guarded by its lock.
	finished bool
	unsent   int             // calls that wait to be sent
	beat     *handlerpb.Beat // waits to be sent
	spoke    bool            // its author has told of its progress
	result   handlerpb.Result
}

func newJob(msg *handlerpb.Job, l *lane) *job {
	j := &job{msg: msg, lane: l}
	if msg.TimeoutMs > 0 {
		j.timeout = duration(msg.TimeoutMs)
	}
	j.result.Id, j.result.Claim = msg.Id, msg.Claim
	return j
}

var (
	errNoJob = errors.New("the context is not a job's")
	errEnded = errors.New("the job has ended")
)

// maxPriority bounds a message's priority on both sides of 0.
const maxPriority = 1000

type jobKey struct{}

// jobOf finds the job that ctx came from, or nil.
func jobOf(ctx context.Context) *job {
	j, _ := ctx.Value(jobKey{}).(*job)
	return j
}

// Deadline implements context.Context.
func (j *job) Deadline() (time.Time, bool) {
	if j.timeout == 0 {
		return time.Time{}, false
	}
	return j.started.Add(j.timeout), true
}

// Done implements context.Context.
func (j *job) Done() <-chan struct{} { return j.context().Done() }

// Err implements context.Context.
func (j *job) Err() error { return j.context().Err() }

// Value implements context.Context. Everything but the job itself is asked of
// the real context, which is how package context finds it there.
func (j *job) Value(key any) any {
	switch key.(type) {
	case jobKey:
		return j
	case branchKey:
		if j.flow == nil {
			return nil
		}
		return &j.flow.root
	}
	return j.context().Value(key)
}

func (j *job) context() context.Context {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx != nil {
		return j.ctx
	}
	j.ctx, j.cancel = context.WithCancelCause(context.Background())
	switch {
	case j.cause != nil:
		j.cancel(j.cause)
	case j.ended:
		j.cancel(errEnded)
	case j.timeout > 0:
		j.ctx, j.stop = context.WithDeadlineCause(j.ctx, j.started.Add(j.timeout), &timeoutError{j.timeout})
	}
	return j.ctx
}

// interrupt cancels the job for the host. Past its deadline it has been
// cancelled already, and that stays the reason.
func (j *job) interrupt(reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended || j.cause != nil || (j.timeout > 0 && time.Since(j.started) >= j.timeout) {
		return
	}
	j.cause = &CancelledError{Reason: reason}
	if j.cancel != nil {
		j.cancel(j.cause)
	}
}

// over says why the job must begin nothing new: the host has cancelled it, or
// its time is over.
func (j *job) over() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cause == nil && j.timeout > 0 && time.Since(j.started) >= j.timeout {
		return &timeoutError{j.timeout}
	}
	return j.cause
}

// end closes the job to its handler and releases its context. It returns the
// follow-up messages, and why the host had cancelled the job, if it had.
func (j *job) end() (follow []*handlerpb.Enqueue, cause error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	if j.stop != nil {
		j.stop()
	}
	if j.cancel != nil {
		j.cancel(errEnded)
	}
	return j.follow, j.cause
}

// JobInfo tells a handler which attempt at which message it is working on.
type JobInfo struct {
	// ID is the message's. It stays the same over all attempts.
	ID    int64
	Queue string
	// Attempt counts from 1. MaxAttempts is the last.
	Attempt, MaxAttempts int
	// Deadline is when the job times out; zero is never.
	Deadline time.Time
	// EnqueuedAt is when the message was put on the queue.
	EnqueuedAt time.Time
	// Headers are the enqueuer's, such as a W3C traceparent. Not to be changed.
	Headers map[string]string
}

// Info tells which job ctx belongs to. It is zero when ctx is no job's.
func Info(ctx context.Context) JobInfo {
	j := jobOf(ctx)
	if j == nil {
		return JobInfo{}
	}
	info := JobInfo{
		ID:          j.msg.Id,
		Queue:       j.msg.Queue,
		Attempt:     int(j.msg.Attempt),
		MaxAttempts: int(j.msg.MaxAttempts),
		Headers:     j.msg.Headers,
	}
	info.Deadline, _ = j.Deadline()
	if j.msg.EnqueuedAtUs != 0 {
		info.EnqueuedAt = time.UnixMicro(j.msg.EnqueuedAtUs)
	}
	return info
}

// Progress says how far the job is: 0 to 100 percent, or a negative number for
// unknown, and a message for people. It costs little and never blocks; when
// calls come faster than they can be sent, the last one counts. It does nothing
// when ctx is no job's, or the job has ended.
//
// Of a run whose author says nothing by it, progress tells by itself which step
// runs, once its body has run for longer than a second.
func Progress(ctx context.Context, percent float64, message string) {
	j := jobOf(ctx)
	if j == nil {
		return
	}
	if math.IsNaN(percent) || percent < 0 {
		percent = -1
	}
	j.lane.session.out.progress(j, min(percent, 100), clean(message))
}

// EnqueueOption says more about a follow-up message.
type EnqueueOption func(*handlerpb.Enqueue)

// Delay makes the message ready only after d.
func Delay(d time.Duration) EnqueueOption {
	return func(e *handlerpb.Enqueue) { e.DelayMs = *milliseconds(max(d, 0)) }
}

// Priority orders the messages of a queue: -1000 to 1000, lower runs first. The
// default is 0.
func Priority(n int) EnqueueOption {
	return func(e *handlerpb.Enqueue) {
		e.Priority = int32(max(math.MinInt32, min(n, math.MaxInt32)))
	}
}

// Headers travel with the message to its handler. Given twice, they add up.
func Headers(headers map[string]string) EnqueueOption {
	return func(e *handlerpb.Enqueue) {
		if e.Headers == nil {
			e.Headers = make(map[string]string, len(headers))
		}
		maps.Copy(e.Headers, headers)
	}
}

// Enqueue adds a follow-up message: payload, encoded as JSON (json.RawMessage and
// []byte are JSON already), is put on queue in the transaction that records this
// job's result, or not at all. A job that failed, timed out or was released
// leaves no follow-ups, so that its next attempt does not enqueue them twice;
// one that is done, snoozed or discarded by its own word does.
//
// In a workflow it belongs to the function's end, outside of all steps: what an
// attempt enqueued that came to a wait is dropped, and the code comes by it again
// in the replay. To start something in the middle of a run use [Child] or [Send].
//
// The error says that the message cannot be encoded, its queue's name or its
// priority is invalid, the job's follow-ups are over 16 MiB, or ctx is not a
// running job's.
func Enqueue(ctx context.Context, queue string, payload any, opts ...EnqueueOption) error {
	fail := func(err error) error { return fmt.Errorf("enqueue a follow-up on queue %s: %w", queue, err) }
	j := jobOf(ctx)
	if j == nil {
		return fail(errNoJob)
	}
	msg, err := newMessage(queue, payload, opts)
	if err != nil {
		return fail(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return fail(errEnded)
	}
	if j.followBytes+len(msg.Payload) > maxFollowBytes {
		return fail(fmt.Errorf("the job's follow-ups are over the limit of %d bytes", maxFollowBytes))
	}
	j.followBytes += len(msg.Payload)
	j.follow = append(j.follow, msg)
	return nil
}

func newMessage(queue string, payload any, opts []EnqueueOption) (*handlerpb.Enqueue, error) {
	if err := checkQueue(queue); err != nil {
		return nil, err
	}
	data, err := encodePayload(payload)
	if err != nil {
		return nil, err
	}
	msg := &handlerpb.Enqueue{Queue: queue, Payload: data}
	for _, opt := range opts {
		opt(msg)
	}
	if msg.Priority < -maxPriority || msg.Priority > maxPriority {
		return nil, fmt.Errorf("priority %d is outside %d to %d", msg.Priority, -maxPriority, maxPriority)
	}
	for k, v := range msg.Headers {
		if clean(k) != k || clean(v) != v {
			return nil, fmt.Errorf("header %q is not valid UTF-8, or longer than %d bytes", k, maxTextBytes)
		}
	}
	return msg, nil
}

// encodePayload encodes payload as JSON, unless it is that already.
func encodePayload(payload any) ([]byte, error) {
	if raw, ok := payload.([]byte); ok {
		payload = json.RawMessage(raw)
	}
	return json.Marshal(payload)
}
