package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// heldLeases are the leases ($3, $4) that are held, by their position;
	// the claims $5 are locked.
	heldLeases = `
with claimed as materialized (
    select c.claim, unnest(c.ids) as id from unnest($5::bigint[]) k(claim) cross join lateral (
        select c.claim, c.ids from {{schema}}.claims c where c.worker_id = $2 and c.claim = k.claim limit 1
    ) c
),
there as materialized (select m.id from {{schema}}.messages m where m.id = any($4::bigint[])),
held as materialized (
    select i.ord, i.claim, i.id
    from unnest($3::bigint[], $4::bigint[]) with ordinality as i(claim, id, ord)
    join claimed c on c.claim = i.claim and c.id = i.id
    join there on there.id = i.id
)`

	// The time is of no use to sqlStarted; its parameter keeps the others' places.
	sqlStarted = heldLeases + `,
marked as (
    update {{schema}}.claims c
    set started = array(select unnest(c.started) union select h.id from held h where h.claim = c.claim)
    where c.ctid = any(array(select d.ctid from (select distinct claim from held) k cross join lateral (
        select d.ctid from {{schema}}.claims d where d.worker_id = $2 and d.claim = k.claim limit 1
    ) d))
)
select ord from held where $1::timestamptz is null or true`

	sqlExtend = heldLeases + `,
renewed as (
    update {{schema}}.claims c set expires_at = {{now}} + $6 * interval '1 microsecond'
    where c.ctid = any(array(select d.ctid from (select distinct claim from held) k cross join lateral (
        select d.ctid from {{schema}}.claims d where d.worker_id = $2 and d.claim = k.claim limit 1
    ) d))
)
select ord from held`

	sqlProgress = heldLeases + `,
news as (
    select h.claim, jsonb_object_agg(h.id, jsonb_build_object(
        'percent', ($6::float8[])[h.ord::int], 'message', ($7::text[])[h.ord::int], 'at', {{now}})) as progress
    from held h group by h.claim
),
told as (
    update {{schema}}.claims c set progress = coalesce(c.progress, '{}') || n.progress
    from news n where c.claim = n.claim and c.ctid = any(array(select d.ctid from news k cross join lateral (
        select d.ctid from {{schema}}.claims d where d.worker_id = $2 and d.claim = k.claim limit 1
    ) d))
)
select ord from held`
)

// Started records that attempts have begun.
func (c *consumer) Started(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return c.mark(ctx, "mark started", sqlStarted, leases)
}

// Extend renews claims.
func (c *consumer) Extend(ctx context.Context, d time.Duration, leases ...store.Lease) ([]error, error) {
	const op = "extend leases"
	if d <= 0 {
		return nil, store.Invalidf("%s: %s must be positive", op, d)
	}
	return c.mark(ctx, op, sqlExtend, leases, micros(d))
}

// Progress publishes how far jobs are.
func (c *consumer) Progress(ctx context.Context, progress map[store.Lease]store.Progress) error {
	leases := make([]store.Lease, 0, len(progress))
	percents := make([]float64, 0, len(progress))
	messages := make([]string, 0, len(progress))
	for l, p := range progress {
		if math.IsNaN(p.Percent) || math.IsInf(p.Percent, 0) {
			p.Percent = -1
		}
		leases = append(leases, l)
		percents = append(percents, p.Percent)
		messages = append(messages, store.CleanError(p.Message))
	}
	errs, err := c.mark(ctx, "publish progress", sqlProgress, leases, percents, messages)
	if err != nil {
		return err
	}
	lost := 0
	for _, e := range errs {
		if e != nil {
			lost++
		}
	}
	if lost > 0 {
		return fmt.Errorf("publish progress: %d of %d: %w", lost, len(leases), store.ErrLeaseLost)
	}
	return nil
}

// mark runs a statement on the claims of leases. It returns the position of
// each lease that is held. These writes need not be flushed: losing one gives
// messages back earlier, or does not count an attempt.
func (c *consumer) mark(ctx context.Context, op, text string, leases []store.Lease, more ...any) ([]error, error) {
	op = fmt.Sprintf("%s of queue %q", op, c.queue)
	claims, ids := make([]int64, len(leases)), make([]int64, len(leases))
	errs := make([]error, len(leases))
	for i, l := range leases {
		errs[i] = store.ErrLeaseLost
		if l.Worker == c.id {
			claims[i], ids[i] = l.Claim, l.ID
		}
	}
	if len(leases) == 0 {
		return errs, nil
	}
	distinct := slices.Clone(claims)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	b := c.s.batch()
	var there []int64
	b.add(sqlMarkPlan)
	b.add(sqlLockClaims, c.id, distinct).Query(func(r pgx.Rows) (err error) {
		there, err = pgx.CollectRows(r, pgx.RowTo[int64])
		return err
	})
	b.add(text, append([]any{c.s.now(), c.id, claims, ids, distinct}, more...)...).Query(func(r pgx.Rows) error {
		var ord int
		_, err := pgx.ForEachRow(r, []any{&ord}, func() error {
			errs[ord-1] = nil
			return nil
		})
		return err
	})
	if err := b.send(ctx, op); err != nil {
		return nil, err
	}
	c.holdings.gone(without(distinct, there))
	return errs, nil
}

const sqlMarkPlan = `select set_config('synchronous_commit', 'off', true), ` + planHashed

// Archive settles leases as done.
func (c *consumer) Archive(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeDone, leases)
}

// Delete removes leased messages.
func (c *consumer) Delete(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeDelete, leases)
}

// Release gives leased messages back.
func (c *consumer) Release(ctx context.Context, leases ...store.Lease) ([]error, error) {
	return store.SettleAs(ctx, c, store.OutcomeRelease, leases)
}

// ReleaseAll gives back all that the consumer holds.
func (c *consumer) ReleaseAll(ctx context.Context) (int64, error) {
	c.turn.Lock() // no claim is made meanwhile
	defer c.turn.Unlock()
	op := fmt.Sprintf("release all of consumer %d", c.id)
	n, left, err := c.s.release(ctx, op, c.id, c.queueID, false)
	if err != nil {
		return 0, err
	}
	c.holdings.keep(left.claims)
	c.holdings.returned.Store(true)
	return n, left.err(op)
}
