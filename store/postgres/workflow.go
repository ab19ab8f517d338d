package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// sqlShareClaim keeps a claim from being settled meanwhile.
	sqlShareClaim = `select claim from {{schema}}.claims where worker_id = $1 and claim = $2 for share`

	// heldRun is the run $4 if the lease ($2, $3) holds it.
	heldRun = `
with held as materialized (
    select m.id, m.queue_id from {{schema}}.claims c join {{schema}}.messages m on m.id = $4
    where c.worker_id = $2 and c.claim = $3 and $4 = any(c.ids)
)`

	// sqlRunStart records the first beginning, and that this attempt has started.
	sqlRunStart = heldRun + `,
begun as (
    insert into {{schema}}.runs as r (run_id, queue_id, begun_at) select id, queue_id, {{now}} from held
    on conflict (run_id) do update set begun_at = coalesce(r.begun_at, excluded.begun_at)
),
marked as (
    update {{schema}}.claims c set started = array(select unnest(c.started) union select $4)
    where c.worker_id = $2 and c.claim = $3 and exists (select from held)
)
select exists (select from held)`

	// sqlMessagePlace says where a message is.
	sqlMessagePlace = `
select case
    when exists (select from {{schema}}.archive where id = $1) then 'archived'
    when exists (select from {{schema}}.messages where id = $1)
        or exists (select from {{schema}}.delayed where id = $1) then 'open'
    else '' end`
)

// workflow is a handle on one run.
type workflow struct {
	s  *Store
	id int64
}

// Workflow is a handle on the run of this id.
func (s *Store) Workflow(id int64) store.Workflow { return &workflow{s, id} }

func (w *workflow) ID() int64 { return w.id }

func (w *workflow) Start(ctx context.Context, lease store.Lease) error {
	op := fmt.Sprintf("start run %d", w.id)
	var held bool
	if lease.ID == w.id {
		b := w.s.batch()
		b.add(sqlLockClaims, lease.Worker, []int64{lease.Claim})
		b.add(sqlRunStart, w.s.now(), lease.Worker, lease.Claim, w.id).
			QueryRow(func(r pgx.Row) error { return r.Scan(&held) })
		if err := b.send(ctx, op); err != nil {
			return err
		}
	}
	if !held {
		return w.refused(ctx, op)
	}
	return nil
}

func (w *workflow) Complete(ctx context.Context, lease store.Lease, output json.RawMessage) error {
	op := fmt.Sprintf("complete run %d", w.id)
	return w.settle(ctx, op, store.Outcome{Lease: lease, Kind: store.OutcomeDone, Output: output})
}

func (w *workflow) Fail(ctx context.Context, lease store.Lease, reason string) error {
	op := fmt.Sprintf("fail run %d", w.id)
	return w.settle(ctx, op, store.Outcome{Lease: lease, Kind: store.OutcomeDiscard, Error: reason})
}

func (w *workflow) settle(ctx context.Context, op string, o store.Outcome) error {
	if o.ID != w.id {
		return w.refused(ctx, op)
	}
	var h *holdings
	if known, ok := w.s.holding.Load(o.Worker); ok {
		h = known.(*holdings)
	}
	settled, err := w.s.settle(ctx, op, newSettlement(o.Worker, h, []store.Outcome{o}), true)
	if err != nil {
		return err
	}
	if errors.Is(settled[0].Err, store.ErrLeaseLost) {
		return w.refused(ctx, op)
	}
	if err := settled[0].Err; err != nil {
		return w.s.fail(ctx, op, err)
	}
	if settled[0].State == store.Cancelled {
		return w.s.fail(ctx, op, fmt.Errorf("it was being cancelled, and is now: %w", store.ErrTerminal))
	}
	return nil
}

// refused says why a lease does not hold the run.
func (w *workflow) refused(ctx context.Context, op string) error {
	var place string
	if err := w.s.row(ctx, op, sqlMessagePlace, []any{w.id}, &place); err != nil {
		return err
	}
	switch place {
	case "archived":
		return w.s.fail(ctx, op, store.ErrTerminal)
	case "":
		return w.s.fail(ctx, op, store.ErrNotFound)
	}
	return w.s.fail(ctx, op, store.ErrLeaseLost)
}
