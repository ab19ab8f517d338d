package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// planHints pins the plans of the hot statements, for this transaction. The
	// tables' sizes change faster than their statistics: a plan made while a
	// table was empty would scan all of it when it is full.
	planHints = `set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('enable_mergejoin', 'off', true)`
	// planNested is for statements that walk along an index, planHashed for
	// those that match arrays with arrays and then look messages up by their
	// ids. The latter are planned each time, by the size that the table has now:
	// one that was planned while it was empty reads an index from end to end.
	planNested = planHints + `, set_config('enable_hashjoin', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`
	planHashed = planHints + `, set_config('enable_nestloop', 'off', true), ` + planNow
	planNow    = `set_config('plan_cache_mode', 'force_custom_plan', true)`

	// sqlPlanNow is for a statement that looks messages up by their ids after
	// planNested.
	sqlPlanNow = `select ` + planNow

	// sqlClaimTurn takes the queue's claim lock, in a statement of its own. The
	// claim is not flushed: losing it makes the messages ready again.
	sqlClaimTurn = `
select pg_advisory_xact_lock($1, $2), set_config('synchronous_commit', 'off', true), ` + planNested

	// claimsLive is the queue's claims. It finds them by its workers, each from
	// the number $4 on. Those below are gone, and none can come: a worker's
	// numbers only grow. Their dead rows pile up while an old snapshot is open.
	claimsLive = `live as materialized (
    select w.id as worker_id, c.claim, c.ids, c.expires_at
    from {{schema}}.workers w
    left join unnest($3::bigint[], $4::bigint[]) as b(worker_id, claim) on b.worker_id = w.id
    cross join lateral (
        select c.claim, c.ids, c.expires_at from {{schema}}.claims c
        where c.worker_id = w.id and c.claim >= coalesce(b.claim, 0)
        offset 0 -- so that the join never begins with all claims, dead ones too
    ) c
    where w.queue_id = $2 and w.state <> 'stopped'
)`

	// claimedIDs is the ids in these claims, by way of an array, whose length the
	// planner does not guess from statistics: it hashes them whatever ANALYZE
	// found in the table. When it did not, each claim compared each message with
	// each id, and took seconds until the next ANALYZE.
	claimedIDs = `select unnest(array(select unnest(live.ids) from live))`

	// sqlClaim leases the next messages that stand in no claim, from the ranges
	// ($10, $11, $12). Its last row is not a message but the gate: state is the
	// worker's, attempts the queue's limit, id whether leases have run out (then
	// it claims nothing unless $9), enqueued_at the time of the claim, payload
	// the lowest claim of each worker, work how many blocks the scan has
	// touched, which tells a slow scan from a busy machine.
	sqlClaim = claimHead + `
pick as materialized (` + claimRanges + ` limit $7
),` + claimTail

	// sqlClaimFound leases the messages $13 as well, if they are ready.
	sqlClaimFound = claimHead + `
pick as materialized (
    select distinct on (m.priority, m.id) * from (
        (` + claimRanges + ` limit $7)
        union all
        (select * from (
            select ` + claimColumns + ` from {{schema}}.messages m
            where (select open from gate) and m.id = any($13::bigint[]) and m.queue_id + 0 = $2 -- not by the line's index
                and m.id not in (` + claimedIDs + `)
            offset 0 -- nor in its order
        ) m order by m.priority, m.id limit $7)
    ) m order by m.priority, m.id limit $7
),` + claimTail

	claimHead = `
with ` + claimsLive + `,
gate as materialized (
    select g.*, g.state = 'ready' and g.max_attempts is not null and ($9::boolean or not g.ran_out) as open
    from (
        select {{now}} as now,
            (select w.state from {{schema}}.workers w where w.id = $5) as state,
            (select q.max_attempts from {{schema}}.queues q where q.id = $2) as max_attempts,
            exists (select from live where live.expires_at <= {{now}}) as ran_out,
            ` + blocksTouched + ` as touched
        offset 0 -- evaluates each of them once
    ) g
),`

	claimColumns = `m.id, m.attempts, m.priority, m.enqueued_at, m.ready_at, m.headers, m.payload`

	// claimRanges scans one range after the other, most urgent first.
	claimRanges = `
    select m.* from unnest($10::smallint[], $11::bigint[], $12::smallint[]) as r(priority, id, below)
    cross join lateral (
        select ` + claimColumns + ` from {{schema}}.messages m
        where (select open from gate) and m.queue_id = $2
            and (m.priority, m.id) > (r.priority, r.id) and m.priority < r.below
            and m.id not in (` + claimedIDs + `)
        order by m.priority, m.id limit $7
    ) m`

	claimTail = `
claimed as (
    insert into {{schema}}.claims (worker_id, claim, queue_id, ids, leased_at, expires_at)
    select $5, $6, $2, array_agg(p.id), {{now}}, {{now}} + $8 * interval '1 microsecond'
    from pick p having count(*) > 0
)
select null as state, p.id, p.attempts, p.priority, p.enqueued_at, p.ready_at, p.headers, p.payload, null::bigint as work
from pick p
union all
select g.state, g.ran_out::int, g.max_attempts, null, g.now, null, null,
    (select json_object_agg(l.worker_id, l.lowest) from (select worker_id, min(claim) as lowest from live group by worker_id) l),
    coalesce(` + blocksTouched + ` - g.touched, 0) from gate g`

	// blocksTouched counts in this transaction and a little before.
	blocksTouched = `pg_stat_get_xact_blocks_fetched('{{schema}}.messages_line'::regclass)
            + pg_stat_get_xact_blocks_fetched('{{schema}}.messages'::regclass)`
)

// maxLowest bounds what is remembered of workers that may be long gone.
const maxLowest = 1000

// gate is what a claim found besides messages.
type gate struct {
	state       store.WorkerState // "" if the worker's row is gone
	maxAttempts int               // 0 if the queue is gone
	ranOut      bool
	now         time.Time
	work        int64
	lowest      map[int64]int64
}

// Dequeue leases messages; see store.Consumer.
func (c *consumer) Dequeue(ctx context.Context, limit int, lease time.Duration) ([]store.LeasedMessage, error) {
	op := fmt.Sprintf("dequeue from queue %q", c.queue)
	if limit <= 0 || lease <= 0 {
		return nil, store.Invalidf("%s: limit %d and lease %s must be positive", op, limit, lease)
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	c.collect()
	returned := c.holdings.returned.Swap(false)
	full := c.scan.full(returned)
	got, g, err := c.take(ctx, op, limit, lease, full, false)
	if err == nil {
		err = c.open(ctx, op, g)
	}
	if err != nil {
		if returned {
			c.holdings.returned.Store(true)
		}
		return nil, err
	}
	if g.ranOut {
		// Where another transaction keeps a row locked, the others are leased all
		// the same, and the next claim tries again.
		if _, err := c.s.giveBack(ctx, op, c.queueID, c.queue); err != nil && !errors.Is(err, store.ErrLocked) {
			return nil, err
		}
		// Those that still have run out are held up, or being settled or renewed now.
		full = true
		if got, _, err = c.take(ctx, op, limit, lease, full, true); err != nil {
			return nil, err
		}
	}
	// Without wake-ups nobody would come for a probe's finds.
	beside := c.scan.dear && !c.s.cfg.PgBouncer
	if len(got) < limit && !full && !beside && (!c.scan.dear || c.scan.due()) {
		more, _, err := c.take(ctx, op, limit-len(got), lease, true, true)
		if err != nil && len(got) == 0 {
			return nil, err
		}
		got = append(got, more...)
		slices.SortFunc(got, func(a, b store.LeasedMessage) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID))
		})
	}
	if beside {
		c.probe()
	}
	return got, nil
}

// open returns the error for a gate that lets nobody through.
func (c *consumer) open(ctx context.Context, op string, g gate) error {
	c.s.noted(c.id, g.state)
	switch {
	case g.maxAttempts == 0:
		return c.s.unknownQueue(ctx, op, c.queue, "")
	case g.state == "":
		return c.s.fail(ctx, op, fmt.Errorf("worker %d: %w", c.id, store.ErrNotFound))
	case g.state != store.WorkerReady:
		return c.s.fail(ctx, op, &store.NotReadyError{Worker: c.id, State: g.state})
	}
	return nil
}

// take makes one claim. Its number is used up even if the answer is lost.
func (c *consumer) take(ctx context.Context, op string, limit int, lease time.Duration, full, ignoreRunOut bool) ([]store.LeasedMessage, gate, error) {
	c.claim++
	priorities, ids, below := c.scan.ranges(full)
	r := claimRows{worker: c.id, claim: c.claim, got: []store.LeasedMessage{}}
	b := c.s.batch()
	b.add(sqlClaimTurn, c.s.claimLock, c.queueID)
	drained := c.holdings.emptied(nil)
	if len(drained) > 0 {
		b.add(sqlDropClaims, c.id, drained)
	}
	workers, lowest := c.lowestClaims()
	text, args := sqlClaim, []any{c.s.now(), c.queueID, workers, lowest, c.id, c.claim, limit, micros(lease), ignoreRunOut,
		priorities, ids, below}
	if found := c.scan.candidates(); len(found) > 0 && !full {
		b.add(sqlPlanNow)
		text, args = sqlClaimFound, append(args, found)
	}
	b.add(text, args...).Query(r.read)
	began := time.Now()
	if err := b.send(ctx, op); err != nil {
		// It may have been committed all the same. Nobody knows what it holds,
		// so the next call drops it.
		c.holdings.lost(c.claim)
		return nil, gate{}, err
	}
	c.holdings.settled(nil, drained)
	if len(r.got) > 0 {
		c.holdings.add(c.claim, r.got)
	}
	if len(c.lowest) > maxLowest {
		clear(c.lowest)
	}
	maps.Copy(c.lowest, r.gate.lowest)
	if full {
		c.scan.looked(began, time.Now(), r.gate.work, len(r.got))
	}
	c.scan.claimed(full, limit, r.got)
	return r.got, r.gate, nil
}

// lowestClaims are the claims from which on there may be rows, by worker.
func (c *consumer) lowestClaims() (workers, lowest []int64) {
	c.lowest[c.id] = c.holdings.lowest(c.claim)
	workers, lowest = make([]int64, 0, len(c.lowest)), make([]int64, 0, len(c.lowest))
	for w, claim := range c.lowest {
		workers, lowest = append(workers, w), append(lowest, claim)
	}
	return workers, lowest
}

// claimRows decodes the rows of sqlClaim.
type claimRows struct {
	worker, claim int64
	gate          gate
	got           []store.LeasedMessage
	ready         []time.Time
}

func (c *claimRows) read(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		v := rows.RawValues()
		if v[8] != nil {
			if err := c.readGate(rows); err != nil {
				return err
			}
			continue
		}
		if err := c.message(v); err != nil {
			return err
		}
	}
	for i := range c.got {
		c.got[i].MaxAttempts = c.gate.maxAttempts
		c.got[i].Waited = max(c.gate.now.Sub(c.ready[i]), 0)
	}
	return rows.Err()
}

func (c *claimRows) readGate(rows pgx.Rows) error {
	var state *string
	var ranOut int64
	var lowest []byte
	var attempts *int
	if err := rows.Scan(&state, &ranOut, &attempts, nil, &c.gate.now, nil, nil, &lowest, &c.gate.work); err != nil {
		return err
	}
	c.gate.state = store.WorkerState(orZero(state))
	c.gate.maxAttempts = orZero(attempts)
	c.gate.ranOut = ranOut != 0
	if lowest == nil {
		return nil
	}
	return json.Unmarshal(lowest, &c.gate.lowest)
}

// message decodes one row without pgx's reflection: this is once for each job.
// Numbers and times come in the binary format, JSON as text.
func (c *claimRows) message(v [][]byte) error {
	if len(v[1]) != 8 || len(v[2]) != 4 || len(v[3]) != 2 || len(v[4]) != 8 || len(v[5]) != 8 {
		return fmt.Errorf("a leased message's columns have unexpected lengths %d, %d, %d, %d, %d",
			len(v[1]), len(v[2]), len(v[3]), len(v[4]), len(v[5]))
	}
	be := binary.BigEndian
	m := store.LeasedMessage{
		Lease:      store.Lease{Worker: c.worker, Claim: c.claim, ID: int64(be.Uint64(v[1]))},
		Attempt:    int(be.Uint32(v[2])) + 1,
		Priority:   int(int16(be.Uint16(v[3]))),
		EnqueuedAt: pgTime(v[4]),
		Headers:    store.ParseHeaders(v[6]),
		Payload:    slices.Clone(v[7]),
	}
	c.got = append(c.got, m)
	c.ready = append(c.ready, pgTime(v[5]))
	return nil
}

// pgEpoch is 2000-01-01, from which PostgreSQL counts microseconds.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func pgTime(v []byte) time.Time {
	return time.UnixMicro(pgEpoch + int64(binary.BigEndian.Uint64(v)))
}
