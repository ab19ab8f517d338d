package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

// The most that one transaction records. A database that does not answer in
// time is given half as much the next time, but no less than leastSettle.
const (
	maxSettle      = 2000
	leastSettle    = 16
	maxSettleBytes = 8 << 20
	// minSnooze keeps a handler that snoozes for no time from running the same
	// message over and over as fast as it can.
	minSnooze = 100 * time.Millisecond
)

// outcome is what to record for a handler's result. It wants the lock.
func (q *queue) outcome(j *job, r *host.Result) store.Outcome {
	o := store.Outcome{Lease: j.lease}
	switch r.GetOutcome() {
	case handlerpb.Outcome_OUTCOME_DONE:
		o.Kind, o.Output = store.OutcomeDone, r.GetOutput()
		if q.cfg.Retain == RetainDelete {
			o.Kind, o.Output = store.OutcomeDelete, nil
		}
	case handlerpb.Outcome_OUTCOME_RETRY:
		o = q.retryOutcome(j, r.GetError())
		if r.DelayMs != nil {
			o.Delay = millis(r.GetDelayMs())
		}
	case handlerpb.Outcome_OUTCOME_SNOOZE:
		if r.DelayMs == nil {
			return q.retryOutcome(j, "the handler snoozed without saying for how long")
		}
		o.Kind, o.Delay = store.OutcomeSnooze, max(minSnooze, millis(r.GetDelayMs()))
	case handlerpb.Outcome_OUTCOME_DISCARD:
		o.Kind, o.Error = store.OutcomeDiscard, r.GetError()
	case handlerpb.Outcome_OUTCOME_RELEASE:
		o.Kind = store.OutcomeRelease
		return o
	default:
		return q.retryOutcome(j, fmt.Sprintf("the handler answered with an unknown outcome (%d)", r.GetOutcome()))
	}
	if o.Kind == store.OutcomeRetry && q.d.killing.Load() {
		// It failed because the daemon stops. That is not the job's fault.
		return store.Outcome{Lease: j.lease, Kind: store.OutcomeRelease}
	}
	o.Enqueue = followUps(r.GetEnqueue())
	for _, m := range o.Enqueue {
		if err := q.d.cfg.Validator.Validate(m.Payload); err != nil {
			return store.Outcome{
				Lease: j.lease, Kind: store.OutcomeDiscard,
				Error: fmt.Sprintf("the handler's follow-up message for queue %q cannot be enqueued: %v", m.Queue, err),
			}
		}
	}
	return o
}

// retryOutcome is a failed attempt with the queue's backoff. It wants the lock.
func (q *queue) retryOutcome(j *job, reason string) store.Outcome {
	return store.Outcome{
		Lease: j.lease, Kind: store.OutcomeRetry, Error: reason, Delay: q.cfg.Backoff.delay(j.attempt),
	}
}

func millis(ms int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(max(0, ms), most)) * time.Millisecond
}

func followUps(in []*handlerpb.Enqueue) []store.NewMessage {
	if len(in) == 0 {
		return nil
	}
	out := make([]store.NewMessage, len(in))
	for i, m := range in {
		out[i] = store.NewMessage{
			Queue: m.GetQueue(), Payload: m.GetPayload(), Delay: millis(m.GetDelayMs()),
			Priority: int(m.GetPriority()), Headers: m.GetHeaders(),
		}
	}
	return out
}

// settleLoop records results: whatever is there when the last batch is on disk.
func (q *queue) settleLoop(ctx context.Context) error {
	var (
		back     retry
		batch    []*job
		outcomes []store.Outcome
		refused  bool // by a database that answers; said once
		most     = maxSettle
	)
	for {
		batch, outcomes = q.take(batch, outcomes, most)
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-q.record:
			}
			continue
		}
		settled, err := q.settle(ctx, outcomes)
		switch {
		case err == nil:
			q.settled(batch, settled)
			batch = batch[:0]
			back.reset()
			refused = false
			most = min(2*most, maxSettle)
			continue
		case fatal(err):
			return err
		case itemsFault(err) && len(batch) > 1:
			// One of them is at fault. The others must not wait for it.
			q.log.Error("results could not be recorded together; trying them one by one", "results", len(batch), "error", err)
			batch = q.settleEach(ctx, batch)
		case itemsFault(err):
			q.abandon(batch, err)
			batch = batch[:0] // what is tried again is among the results
		case transient(err) || errors.Is(err, context.Canceled):
			q.unsure(batch)
			most = max(most/2, leastSettle)
			batch = q.shorten(batch, most)
		case !refused:
			refused = true
			q.log.Error("results cannot be recorded; they are kept and tried again", "results", len(batch), "error", err)
		}
		if !sleep(ctx, back.next(), nil) {
			return nil
		}
	}
}

// itemsFault reports whether an error speaks of what was to be recorded. Every
// other one (a lost privilege, a full disk, a trigger that raises) is the
// database's, and must not cost a finished job its result.
func itemsFault(err error) bool {
	return errors.Is(err, store.ErrInvalid) || errors.Is(err, store.ErrExists)
}

// unsure notes that nobody knows whether these were recorded.
func (q *queue) unsure(batch []*job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range batch {
		j.asked = true
	}
}

// shorten puts what is beyond most back among the results.
func (q *queue) shorten(batch []*job, most int) []*job {
	if len(batch) <= most {
		return batch
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.results = slices.Insert(q.results, 0, batch[most:]...)
	q.settling = most
	return batch[:most]
}

// take fills batch with what is to be recorded next, and outcomes with their
// outcomes, at most so many. What is in batch already comes first: it is tried again.
func (q *queue) take(batch []*job, outcomes []store.Outcome, most int) ([]*job, []store.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	kept, bytes := batch[:0], 0
	outcomes = outcomes[:0]
	add := func(j *job) {
		if j.place != ended {
			return // its lease was lost while it waited
		}
		kept = append(kept, j)
		outcomes = append(outcomes, j.outcome)
		bytes += outcomeBytes(&j.outcome)
	}
	for _, j := range batch {
		add(j)
	}
	n := 0
	for n < len(q.results) && len(kept) < most && bytes < maxSettleBytes {
		add(q.results[n])
		n++
	}
	rest := copy(q.results, q.results[n:])
	clear(q.results[rest:])
	q.results = q.results[:rest]
	q.settling = len(kept)
	q.counted()
	return kept, outcomes
}

func (q *queue) settle(ctx context.Context, outcomes []store.Outcome) ([]store.Settled, error) {
	q.mu.Lock()
	consumer := q.consumer
	q.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	settled, err := consumer.Settle(call, outcomes)
	if q.d.database.note(err) != nil {
		return nil, err
	}
	q.d.metrics.batch.Observe(float64(len(outcomes)))
	return settled, nil
}

// settleEach records a batch that failed as a whole one by one, and returns
// what is to be tried again.
func (q *queue) settleEach(ctx context.Context, batch []*job) []*job {
	for i, j := range batch {
		one := []*job{j}
		settled, err := q.settle(ctx, []store.Outcome{j.outcome})
		switch {
		case err == nil:
			q.settled(one, settled)
		case itemsFault(err):
			q.abandon(one, err)
		default:
			q.unsure(one)
			return batch[i:]
		}
	}
	return nil
}

// abandon gives up a result that the store refuses: the first time it is
// recorded as a failed attempt instead; the second time its lease runs out.
func (q *queue) abandon(batch []*job, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range batch {
		if j.place != ended {
			continue
		}
		q.log.Error("the result of a job could not be recorded", "id", j.lease.ID, "outcome", j.outcome.Kind, "error", err)
		if j.outcome.Kind == store.OutcomeRetry {
			q.drop(j)
			continue
		}
		q.replace(j, q.retryOutcome(j, "the result could not be recorded: "+err.Error()))
	}
	q.settling -= len(batch)
	q.counted()
	q.record.raise()
	q.room.raise()
}

// replace puts a job back among the results with another outcome. It wants the lock.
func (q *queue) replace(j *job, o store.Outcome) {
	q.bytes += outcomeBytes(&o) - outcomeBytes(&j.outcome)
	j.outcome = o
	q.results = append(q.results, j)
}

// tally is what one batch came to.
type tally struct {
	kinds    map[store.OutcomeKind]int
	lost     int
	dead     int
	deadID   int64
	deadText string
	delayed  bool
	wake     map[string]bool
}

// settled takes the store's answers.
func (q *queue) settled(batch []*job, answers []store.Settled) {
	t := tally{kinds: make(map[store.OutcomeKind]int, 2)}
	q.mu.Lock()
	for i, j := range batch {
		if j.place == ended {
			q.answered(&t, j, answers[i])
		}
	}
	q.settling -= len(batch)
	q.counted()
	q.mu.Unlock()
	q.room.raise()
	q.report(&t)
}

// answered takes the store's answer for one job. It wants the lock.
func (q *queue) answered(t *tally, j *job, answer store.Settled) {
	o := &j.outcome
	switch {
	case answer.Err == nil:
		t.kinds[o.Kind]++
		if answer.State == store.Dead {
			t.dead++
			t.deadID, t.deadText = j.lease.ID, o.Error
		}
		t.delayed = t.delayed || answer.State == store.Delayed
		for i := range o.Enqueue {
			if t.wake == nil {
				t.wake = map[string]bool{}
			}
			t.wake[o.Enqueue[i].Queue] = true
			t.delayed = t.delayed || o.Enqueue[i].Delay > 0
		}
		if answer.State == store.Ready {
			if t.wake == nil {
				t.wake = map[string]bool{}
			}
			t.wake[q.name] = true
		}
		q.drop(j)
	case errors.Is(answer.Err, store.ErrLeaseLost):
		// After a try whose answer was lost it was recorded then, most likely.
		if j.asked {
			q.log.Debug("a result was recorded before, or its lease is lost", "id", j.lease.ID)
		} else {
			t.lost++
		}
		q.drop(j)
	default:
		q.refused(j, answer.Err)
	}
}

// refused decides what becomes of a job whose outcome the store will not take.
// What the handler says cannot be stored: running it again would give the same,
// so it is discarded. A follow-up's queue that is missing may be made: retried.
func (q *queue) refused(j *job, err error) {
	var unknown *store.UnknownQueueError
	reason := "the handler's result cannot be recorded: " + err.Error()
	switch {
	case errors.As(err, &unknown):
		q.replace(j, q.retryOutcome(j, "a follow-up message cannot be enqueued: "+err.Error()))
	case j.outcome.Kind == store.OutcomeDiscard && len(j.outcome.Enqueue) == 0:
		q.log.Error("a job could not be discarded; its lease runs out", "id", j.lease.ID, "error", err)
		q.drop(j)
	default:
		q.replace(j, store.Outcome{Lease: j.lease, Kind: store.OutcomeDiscard, Error: reason})
	}
	q.record.raise()
}

// report counts and logs a settled batch, one line for many of a kind.
func (q *queue) report(t *tally) {
	for kind, n := range t.kinds {
		q.m.settled[kind].Add(float64(n))
	}
	if t.lost > 0 {
		q.m.lost.Add(float64(t.lost))
		q.log.Warn("results came after their lease was lost and are not recorded", "results", t.lost)
	}
	if t.dead > 0 {
		q.log.Warn("messages went to the dead letters", "messages", t.dead, "last_id", t.deadID, "last_error", cut(t.deadText))
	}
	for name := range t.wake {
		q.d.wakeQueue(name)
	}
	if t.delayed {
		q.d.due.raise()
	}
}

// cut keeps a stack trace from filling a log line.
func cut(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
