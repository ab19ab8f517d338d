package postgres

import (
	"context"

	"github.com/pgqrs/pgqrsd/store"
)

// sqlRecordStep is sqlLockClaims and sqlRunSteps for one step.
const sqlRecordStep = `
select {{schema}}.record_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::bigint * interval '1 microsecond',
    nullif($12::text, '')::json, nullif($13::text, ''), nullif($14::text, ''), $15::bigint * interval '1 microsecond')`

// lone reports whether all there is to record is one step of a run whose row is
// known to have all that a step notes in it. A workflow that runs alone has
// nothing else to record, again and again.
func (t *settlement) lone() bool {
	if len(t.items) != 1 || t.holdings == nil || t.holdings.leftDrained() {
		return false
	}
	o := &t.outcomes[t.items[0]]
	return o.Kind == store.OutcomeStep && len(o.Steps) == 1 && t.recorded(t.items)
}

// settleLone records the one step: a single statement, which is a transaction.
func (s *Store) settleLone(ctx context.Context, op string, t *settlement) error {
	i := t.items[0]
	o := &t.outcomes[i]
	var r stepRows
	r.add(1, o.Lease, &o.Steps[0])
	var halt *string
	if err := s.committed(ctx, op, sqlRecordStep, []any{s.now(), o.Worker, o.Claim, o.ID, r.kinds[0], r.positions[0], r.names[0],
		r.occurrences[0], r.states[0], r.tries[0], r.took[0], r.outputs[0], r.errors[0], r.topics[0], r.delays[0]}, &halt); err != nil {
		return err
	}
	if halt == nil {
		t.results[i].Err = store.ErrLeaseLost
	} else {
		t.results[i] = store.Settled{State: store.Leased, Halt: store.Halt(*halt)}
	}
	return nil
}
