package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlRunsHeld says of the rows that sqlLockRuns would lock which somebody
	// keeps locked, and which of the runs $9 were started by those.
	sqlRunsHeld = runsWanted + `,
kept as materialized (
    select k.id from (
        select array_agg(d.id) as ids, array_agg(d.queue_id) as queues from (select distinct w.id, w.queue_id from wanted w) d
    ) a cross join lateral {{schema}}.runs_kept(a.ids, a.queues) k(id)
)
select k.id from kept k
union
select r.run_id from {{schema}}.runs r where r.run_id = any($9::bigint[]) and r.parent_id in (select k.id from kept k)`

	// sqlMessagesHeld are those of the messages $1 that somebody keeps locked, as
	// complete_step does until its transaction ends. Of a step that it records,
	// this lock is all that others see.
	sqlMessagesHeld = `
with free as materialized (
    select m.id from {{schema}}.messages m where m.id = any($1::bigint[]) for update skip locked
)
select m.id from {{schema}}.messages m where m.id = any($1::bigint[]) and m.id not in (select f.id from free f)`
)

// settleWait is how long a settlement of runs waits for a row. Settlements and
// signals hold one for milliseconds; an application's transaction, in which it
// sends a signal or records a step, for as long as it likes.
const settleWait = time.Second

// runsSettleWait is settleWait as a part of the statement that plans a settlement.
const runsSettleWait = `set_config('lock_timeout', '{{settle_wait}}', true)`

// settleOthers settles the items but for those whose rows somebody keeps
// locked. Cause is the error that made it look for them; nil if some were held
// when they were tried before, so that waiting for them again is in vain.
func (s *Store) settleOthers(ctx context.Context, op string, t *settlement, flow bool, cause error) error {
	held, err := s.heldUp(ctx, op, t)
	if err != nil {
		return err
	}
	if len(held) == 0 && cause != nil {
		return cause // it was a lock of another kind
	}
	var rest []int
	t.claims = nil
	for _, i := range t.items {
		o := &t.outcomes[i]
		// All of one lease: a result goes with the steps before it, or after them.
		if _, is := held[o.ID]; is {
			t.results[i].Err = fmt.Errorf("run %d, or a run that its outcome concerns, is held by an open transaction, as by one that called send_signal or complete_step; pg_stat_activity shows it: %w",
				o.ID, store.ErrLocked)
			continue
		}
		rest = append(rest, i)
		t.claims = append(t.claims, o.Claim)
	}
	if t.holdings != nil {
		t.holdings.hold(t, held)
	}
	t.items = rest
	slices.Sort(t.claims)
	t.claims = slices.Compact(t.claims)
	if len(rest) == 0 {
		return nil
	}
	return s.settleItems(ctx, op, t, flow)
}

// heldUp are the runs of a settlement that wait for a row which somebody keeps.
func (s *Store) heldUp(ctx context.Context, op string, t *settlement) (map[int64]struct{}, error) {
	with, ended, targets := t.concerned()
	found := map[int64]struct{}{}
	read := func(r pgx.Rows) error {
		var id int64
		_, err := pgx.ForEachRow(r, []any{&id}, func() error {
			found[id] = struct{}{}
			return nil
		})
		return err
	}
	if err := s.look(ctx, op, func(b *batch) {
		b.add(sqlFlowPlan)
		b.add(sqlRunsHeld, t.lockArgs(s.now(), with, ended, targets)...).Query(read)
		b.add(sqlMessagesHeld, t.recording(ended)).Query(read)
	}); err != nil {
		return nil, err
	}
	held := make(map[int64]struct{}, len(found))
	for _, i := range t.items {
		o := &t.outcomes[i]
		_, is := found[o.ID]
		for j := range o.Steps {
			if send := o.Steps[j].Send; send != nil && !is {
				_, is = found[send.Run]
			}
		}
		if is {
			held[o.ID] = struct{}{}
		}
	}
	return held, nil
}

// look sends statements in a transaction that is rolled back: what they lock, or
// make to lock it, is not wanted.
func (s *Store) look(ctx context.Context, op string, add func(b *batch)) error {
	errLooked := errors.New("looked")
	err := s.transaction(ctx, op, func(ctx context.Context, b *batch, tx pgx.Tx) error {
		add(b)
		if err := b.sendIn(ctx, tx); err != nil {
			return err
		}
		return errLooked
	})
	if errors.Is(err, errLooked) {
		return nil
	}
	return err
}

// recording are these runs and those that record steps, which may wait for one
// that is being recorded already.
func (t *settlement) recording(ended []int64) []int64 {
	ids := slices.Clone(ended)
	for _, i := range t.items {
		if o := &t.outcomes[i]; len(o.Steps) > 0 {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// concerned are the items that record something or must be locked, the runs
// whose lease ends, and the runs that a signal goes to.
func (t *settlement) concerned() (with []int, ended, targets []int64) {
	ended, targets = []int64{}, []int64{}
	for _, i := range t.items {
		o := &t.outcomes[i]
		if len(o.Steps) > 0 || mustLock(o) {
			with = append(with, i)
		}
		if o.Kind != store.OutcomeStep {
			ended = append(ended, o.ID)
		}
		for j := range o.Steps {
			if send := o.Steps[j].Send; send != nil {
				targets = append(targets, send.Run)
			}
		}
	}
	return with, ended, targets
}

// hold notes which of a settlement's leases are held up, and which are no more.
func (h *holdings) hold(t *settlement, held map[int64]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range t.items {
		o := &t.outcomes[i]
		if _, is := held[o.ID]; is {
			h.held[o.Lease] = struct{}{}
		} else {
			delete(h.held, o.Lease)
		}
	}
}

// holdsUp reports whether some of a settlement's leases were held up when they
// were tried before.
func (h *holdings) holdsUp(t *settlement) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.held) == 0 {
		return false
	}
	return slices.ContainsFunc(t.items, func(i int) bool {
		_, is := h.held[t.outcomes[i].Lease]
		return is
	})
}
