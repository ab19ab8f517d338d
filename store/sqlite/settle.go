package sqlite

import (
	"context"
	"fmt"

	"github.com/pgqrs/pgqrsd/store"
)

func (c *consumer) Settle(ctx context.Context, outcomes []store.Outcome) ([]store.Settled, error) {
	settled, err := c.d.settle(ctx, c.queue, outcomes)
	if err != nil {
		return nil, fmt.Errorf("settle %d messages of queue %s: %w", len(outcomes), c.queue, err)
	}
	return settled, nil
}

// settle records outcomes of messages of a queue in one transaction.
func (d *database) settle(ctx context.Context, queue string, outcomes []store.Outcome) ([]store.Settled, error) {
	settled := make([]store.Settled, len(outcomes))
	s := settlement{queue: queue, outcomes: outcomes, settled: settled}
	if !s.check() {
		return settled, nil
	}
	if err := d.write(ctx, flushed, s.write); err != nil {
		return nil, err
	}
	return settled, nil
}

// settlement is a call of Settle. Outcomes whose settled has an error are out.
type settlement struct {
	queue     string
	outcomes  []store.Outcome
	settled   []store.Settled
	failing   idList // those that need to be read first
	following bool   // some have messages beside them
	changes   changes
	runs      runWork
}

// check refuses what can be refused without the database, and reports whether
// anything is left to do.
func (s *settlement) check() bool {
	ended := make(map[store.Lease]bool, len(s.outcomes))
	some := false
	for i := range s.outcomes {
		o := &s.outcomes[i]
		err := store.ValidateOutcome(*o)
		if err == nil && ended[o.Lease] {
			err = store.ErrLeaseLost
		}
		if s.settled[i].Err = err; err == nil {
			some = true
			if o.Kind != store.OutcomeStep {
				ended[o.Lease] = true
			}
		}
	}
	return some
}

func (s *settlement) write(t *tx) error {
	queue, err := s.refuse(t)
	if err != nil {
		return err
	}
	if err := s.acceptRuns(t); err != nil {
		return err
	}
	found, err := s.read(t)
	if err != nil {
		return err
	}
	ended, some, err := s.applyAll(t, found)
	if err != nil {
		return err
	}
	if !some {
		return errNothing
	}
	if err := s.runs.write(t); err != nil {
		return err
	}
	if err := s.changes.write(t); err != nil {
		return err
	}
	if err := t.endLeases(ended); err != nil {
		return err
	}
	if err := s.follow(t, queue); err != nil {
		return err
	}
	return s.runs.tell(t)
}

// acceptRuns takes what the outcomes say of runs of workflows.
func (s *settlement) acceptRuns(t *tx) error {
	left := make([]*store.Outcome, 0, len(s.outcomes))
	for i := range s.outcomes {
		if s.settled[i].Err == nil {
			left = append(left, &s.outcomes[i])
		}
	}
	if err := s.runs.load(t, left); err != nil {
		return err
	}
	for i := range s.outcomes {
		if s.settled[i].Err != nil {
			continue
		}
		refused, err := s.runs.accept(t, &s.outcomes[i])
		if err != nil {
			return err
		}
		s.settled[i].Err = refused
	}
	return nil
}

// applyAll applies the outcomes that are not refused, and returns the leases
// that they end. some is false if all were refused.
func (s *settlement) applyAll(t *tx, found map[int64]attempted) (ended []store.Lease, some bool, err error) {
	ended = make([]store.Lease, 0, len(s.outcomes))
	s.changes.archived.grow(len(s.outcomes), 2)
	back := false
	for i := range s.outcomes {
		o, is := &s.outcomes[i], &s.settled[i]
		if is.Err != nil {
			continue
		}
		some = true
		run := s.runs.place(o)
		if o.Kind == store.OutcomeStep {
			is.State, is.Halt = store.Leased, run.halt()
			continue
		}
		if is.State, err = s.apply(o, run, found, t.now); err != nil {
			return nil, false, err
		}
		if is.State.Archived() {
			s.runs.ended(o.ID, run)
		}
		ended = append(ended, o.Lease)
		back = back || is.State == store.Ready || is.State == store.Delayed
	}
	if back {
		t.wake(s.queue)
	}
	return ended, some, nil
}

// refuse finds the outcomes whose lease is lost or that enqueue to queues that
// do not exist, and returns the queues of those that remain.
func (s *settlement) refuse(t *tx) (map[string]int64, error) {
	leases := make([]store.Lease, len(s.outcomes))
	for i, o := range s.outcomes {
		leases[i] = o.Lease
	}
	is, err := held(t, leases)
	if err != nil {
		return nil, err
	}
	var follow []store.NewMessage
	for i, o := range s.outcomes {
		if s.settled[i].Err == nil && !is[i] {
			s.settled[i].Err = store.ErrLeaseLost
		}
		if s.settled[i].Err == nil {
			follow = append(follow, o.Enqueue...)
			s.following = s.following || len(o.Enqueue) > 0
		}
	}
	if len(follow) == 0 {
		return nil, nil
	}
	queue, err := queueIDs(t, queueNames(follow))
	if err != nil {
		return nil, err
	}
	return queue, s.refuseUnknown(t, queue)
}

// refuseUnknown refuses the outcomes that enqueue to other queues than these.
func (s *settlement) refuseUnknown(t *tx, queue map[string]int64) error {
	var names []string // read once, for all that are refused
	for i, o := range s.outcomes {
		if s.settled[i].Err != nil {
			continue
		}
		for _, m := range o.Enqueue {
			if _, found := queue[m.Queue]; found {
				continue
			}
			if names == nil {
				if err := t.rows(sqlQueueNames, nil, collect(&names)); err != nil {
					return err
				}
			}
			s.settled[i].Err = &store.UnknownQueueError{Queue: m.Queue, Near: store.NearNames(m.Queue, names)}
			break
		}
	}
	return nil
}

// read reads the messages whose attempts have failed.
func (s *settlement) read(t *tx) (map[int64]attempted, error) {
	for i, o := range s.outcomes {
		if s.settled[i].Err == nil && (o.Kind == store.OutcomeRetry || o.Kind == store.OutcomeDiscard) {
			s.failing.add(o.ID)
		}
	}
	if s.failing.empty() {
		return nil, nil
	}
	found := make(map[int64]attempted)
	err := t.rows(sqlAttempted, []any{s.failing.json()}, scanAttempted(func(m attempted) { found[m.id] = m }))
	return found, err
}

// apply notes the changes of one outcome and returns where its message will
// be. run is zero for a job.
func (s *settlement) apply(o *store.Outcome, run runPlace, found map[int64]attempted, now int64) (store.State, error) {
	if overruled(o, run) {
		return s.changes.cancel(o.ID), nil
	}
	switch o.Kind {
	case store.OutcomeDone:
		s.changes.done(o.ID, o.Output)
		return store.Done, nil
	case store.OutcomeRetry:
		return s.changes.fail(found[o.ID], o.Error, now, o.Delay, false)
	case store.OutcomeDiscard:
		if err := s.changes.failedAt(o.ID, o.Failed); err != nil {
			return "", err
		}
		return s.changes.fail(found[o.ID], o.Error, now, 0, true)
	case store.OutcomeSnooze:
		return s.changes.snooze(o.ID, now, o.Delay), nil
	case store.OutcomeDelete:
		s.changes.delete(o.ID)
		return "", nil
	case store.OutcomeCancel:
		return s.changes.cancel(o.ID), nil
	case store.OutcomeWait:
		switch {
		case run.paused:
			return s.changes.wait(o.ID, now, -1), nil
		case run.news != o.Wait.News:
			return s.changes.wait(o.ID, now, 0), nil
		}
		return s.changes.wait(o.ID, now, o.Wait.Delay), nil
	default:
		return s.changes.release(o.ID), nil
	}
}

// overruled says that the run ends as cancelled, whatever its handler answered.
func overruled(o *store.Outcome, run runPlace) bool {
	return run.cancelling && o.Kind != store.OutcomeStep && o.Kind != store.OutcomeRelease
}

// follow stores the messages that go with the outcomes.
func (s *settlement) follow(t *tx, queue map[string]int64) error {
	if !s.following {
		return nil
	}
	var msgs []store.NewMessage
	for i := range s.outcomes {
		if o := &s.outcomes[i]; s.settled[i].Err == nil && !overruled(o, s.runs.place(o)) {
			msgs = append(msgs, o.Enqueue...)
		}
	}
	_, err := t.insert(msgs, queue)
	return err
}

func (c *consumer) Archive(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeDone, leases)
}

func (c *consumer) Delete(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeDelete, leases)
}

func (c *consumer) Release(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeRelease, leases)
}

func (c *consumer) ReleaseAll(ctx context.Context) (int64, error) {
	n, err := c.d.releaseAll(ctx, c.id)
	if err != nil {
		return 0, fmt.Errorf("release all that worker %d holds: %w", c.id, err)
	}
	return n, nil
}
