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
	following bool   // some have messages or steps beside them
	changes   changes
}

// check refuses what can be refused without the database, and reports whether
// anything is left to do.
func (s *settlement) check() bool {
	seen := make(map[store.Lease]bool, len(s.outcomes))
	for i := range s.outcomes {
		o := &s.outcomes[i]
		err := store.ValidateOutcome(*o)
		if err == nil && seen[o.Lease] {
			err = store.ErrLeaseLost
		}
		if s.settled[i].Err = err; err == nil {
			seen[o.Lease] = true
		}
	}
	return len(seen) > 0
}

func (s *settlement) write(t *tx) error {
	queue, err := s.refuse(t)
	if err != nil {
		return err
	}
	found, err := s.read(t)
	if err != nil {
		return err
	}
	ended := make([]store.Lease, 0, len(s.outcomes))
	s.changes.archived.grow(len(s.outcomes), 2)
	back := false
	for i := range s.outcomes {
		if s.settled[i].Err != nil {
			continue
		}
		if s.settled[i].State, err = s.apply(&s.outcomes[i], found, t.now); err != nil {
			return err
		}
		ended = append(ended, s.outcomes[i].Lease)
		back = back || s.settled[i].State == store.Ready || s.settled[i].State == store.Delayed
	}
	if len(ended) == 0 {
		return errNothing
	}
	if back {
		t.wake(s.queue)
	}
	if err := s.changes.write(t); err != nil {
		return err
	}
	if err := t.endLeases(ended); err != nil {
		return err
	}
	return s.follow(t, queue)
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
			s.following = s.following || len(o.Enqueue)+len(o.Steps) > 0
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

// apply notes the changes of one outcome and returns where its message will be.
func (s *settlement) apply(o *store.Outcome, found map[int64]attempted, now int64) (store.State, error) {
	switch o.Kind {
	case store.OutcomeDone:
		s.changes.done(o.ID, o.Output)
		return store.Done, nil
	case store.OutcomeRetry:
		return s.changes.fail(found[o.ID], o.Error, now, o.Delay, false)
	case store.OutcomeDiscard:
		return s.changes.fail(found[o.ID], o.Error, now, 0, true)
	case store.OutcomeSnooze:
		return s.changes.snooze(o.ID, now, o.Delay), nil
	case store.OutcomeDelete:
		s.changes.delete(o.ID)
		return "", nil
	default:
		return s.changes.release(o.ID), nil
	}
}

// follow stores the messages and steps that go with the outcomes.
func (s *settlement) follow(t *tx, queue map[string]int64) error {
	if !s.following {
		return nil
	}
	var msgs []store.NewMessage
	var steps stepResults
	for i, o := range s.outcomes {
		if s.settled[i].Err == nil {
			msgs = append(msgs, o.Enqueue...)
			if o.Kind != store.OutcomeDelete {
				steps.add(o.ID, o.Steps)
			}
		}
	}
	if _, err := t.insert(msgs, queue); err != nil {
		return err
	}
	return steps.write(t)
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
