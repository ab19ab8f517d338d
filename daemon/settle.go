package daemon

import (
	"context"
	"errors"
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
)

// settleLoop records results and steps: whatever is there when the last batch is
// on disk.
func (q *queue) settleLoop(ctx context.Context) error {
	var (
		back     retry
		batch    []entry
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
func (q *queue) unsure(batch []entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range batch {
		if e.call == nil { // recording a step again says nothing new
			e.job.asked = true
		}
	}
}

// shorten puts what is beyond most back among the results.
func (q *queue) shorten(batch []entry, most int) []entry {
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
func (q *queue) take(batch []entry, outcomes []store.Outcome, most int) ([]entry, []store.Outcome) {
	var lost []host.Reply
	kept, bytes := batch[:0], 0
	outcomes = outcomes[:0]
	add := func(e entry) {
		e.taken()
		switch {
		case e.job.place == gone && e.call != nil:
			lost = append(lost, q.lostCall(e))
			return
		case e.job.place != ended && e.call == nil:
			return // its lease was lost while it waited
		case q.waits(e):
			return
		}
		o := e.outcome()
		kept = append(kept, e)
		outcomes = append(outcomes, *o)
		bytes += outcomeBytes(o)
	}
	q.mu.Lock()
	for _, e := range batch {
		add(e)
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
	q.mu.Unlock()
	q.lane.Reply(lost)
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
func (q *queue) settleEach(ctx context.Context, batch []entry) []entry {
	for i, e := range batch {
		if q.overtakes(e) {
			continue
		}
		one := []entry{e}
		settled, err := q.settle(ctx, []store.Outcome{*e.outcome()})
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

// overtakes puts off a result of a batch some of whose calls were just put off,
// and reports whether it did.
func (q *queue) overtakes(e entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.waits(e) {
		return false
	}
	q.settling--
	return true
}

// abandon gives up a result that the store refuses: the first time it is
// recorded as a failed attempt instead; the second time its lease runs out.
func (q *queue) abandon(batch []entry, err error) {
	var t tally
	q.mu.Lock()
	for _, e := range batch {
		j := e.job
		if e.call != nil {
			q.recordedCall(&t, e, store.Settled{Err: err}, &handlerpb.StepReply{})
			continue
		}
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
	q.mu.Unlock()
	q.lane.Reply(t.replies)
	q.record.raise()
	q.room.raise()
}

// replace puts a job back among the results with another outcome. It wants the lock.
func (q *queue) replace(j *job, o store.Outcome) {
	q.bytes += outcomeBytes(&o) - outcomeBytes(&j.outcome)
	j.outcome = o
	q.results = append(q.results, entry{job: j})
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
	steps    int
	replies  []host.Reply
	held     int // that are tried again, and why
	heldWhy  error
	// others says that runs of other queues may have been woken.
	others bool
}

// settled takes the store's answers.
func (q *queue) settled(batch []entry, answers []store.Settled) {
	t := tally{kinds: make(map[store.OutcomeKind]int, 2)}
	replies := t.roomForReplies(batch)
	q.mu.Lock()
	for i, e := range batch {
		switch {
		case transient(answers[i].Err):
			q.again(e)
			t.held, t.heldWhy = t.held+1, answers[i].Err
		case e.call != nil:
			q.recordedCall(&t, e, answers[i], &replies[len(t.replies)])
		case e.job.place == ended:
			q.answered(&t, e.job, answers[i])
		}
	}
	q.settling -= len(batch)
	q.counted()
	q.mu.Unlock()
	q.lane.Reply(t.replies)
	if len(t.replies) < len(batch) {
		q.room.raise() // steps make none
	}
	q.report(&t)
}

// roomForReplies makes room for the replies to the calls of a batch, at once.
func (t *tally) roomForReplies(batch []entry) []handlerpb.StepReply {
	calls := 0
	for i := range batch {
		if batch[i].call != nil {
			calls++
		}
	}
	if calls == 0 {
		return nil
	}
	t.replies = make([]host.Reply, 0, calls)
	return make([]handlerpb.StepReply, calls)
}

// touch notes which queues an outcome puts messages on, or may have.
func (t *tally) touch(o *store.Outcome) {
	for i := range o.Enqueue {
		t.woken(o.Enqueue[i].Queue, o.Enqueue[i].Delay)
	}
	for i := range o.Steps {
		if child := o.Steps[i].Child; child != nil {
			t.woken(child.Workflow, child.Delay)
		}
		t.others = t.others || o.Steps[i].Send != nil
	}
}

// woken notes that there is a message on a queue, after the delay.
func (t *tally) woken(queue string, delay time.Duration) {
	if delay > 0 {
		t.delayed = true
		return
	}
	if t.wake == nil {
		t.wake = map[string]bool{}
	}
	t.wake[queue] = true
}

// answered takes the store's answer for one job. It wants the lock.
func (q *queue) answered(t *tally, j *job, answer store.Settled) {
	o := &j.outcome
	switch {
	case answer.Err == nil:
		kind := o.Kind
		t.steps += len(o.Steps)
		t.touch(o)
		switch answer.State {
		case store.Dead:
			t.dead++
			t.deadID, t.deadText = j.lease.ID, o.Error
		case store.Cancelled: // whatever the handler answered
			kind = store.OutcomeCancel
		case store.Delayed:
			t.delayed = t.delayed || o.Wait == nil || o.Wait.Delay >= 0
		case store.Ready:
			t.woken(q.name, 0)
		}
		// A run that has ended may have woken the one that started it.
		t.others = t.others || q.kind == store.WorkflowQueue && answer.State.Archived()
		t.kinds[kind]++
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
		q.replace(j, q.retryOutcome(j, "what it enqueues or starts cannot be: "+err.Error()))
	case j.outcome.Kind == store.OutcomeDiscard && len(j.outcome.Enqueue)+len(j.outcome.Steps) == 0:
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
	if t.held > 0 {
		q.sayHeldUp(t.held, t.heldWhy, time.Now())
	}
	if t.steps > 0 {
		q.m.steps.Add(float64(t.steps))
	}
	if t.others && !q.d.listening.Load() {
		t.woken("", 0) // the store knows which, and has no way to say
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
