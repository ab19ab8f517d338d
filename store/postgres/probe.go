package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// sqlProbe looks for messages up to the marks ($5, $6) that stand in no claim.
	// It holds no lock: a claim looks again at what it finds. Its last row is how
	// many blocks the connection has touched; sqlTouched says how many before.
	sqlProbe = `
with ` + claimsLive + `,
found as materialized (
    select m.id, m.priority from unnest($5::smallint[], $6::bigint[]) as r(priority, id)
    cross join lateral (
        select m.id, m.priority from {{schema}}.messages m
        where m.queue_id = $2 and m.priority >= r.priority and (m.priority, m.id) <= (r.priority, r.id)
            and m.id not in (` + claimedIDs + `)
        order by m.priority, m.id limit $7
    ) m limit $7
)
select id, priority, null::bigint from found
union all
select null, null, coalesce(` + blocksTouched + `, 0)
where $1::timestamptz is null or true -- the time is of no use; its place is the claim's`

	sqlTouched = `select coalesce(` + blocksTouched + `, 0)`

	sqlProbePlan = `select ` + planNested
)

const (
	// maxFound is how many messages a probe finds at most.
	maxFound = 1000
	// maxProbes is how many probes of one store look at once, so that they
	// leave connections to the others.
	maxProbes = 2
)

// prober looks below the marks of a consumer beside its claims. Each claim
// while that is dear asks for a look that begins after it, in due time.
type prober struct {
	mu      sync.Mutex
	running bool
	asked   *below // a look to make, as the last claim wants it
	next    time.Time
	result  *probed // until a claim collects it
}

// below is what a probe looks for.
type below struct {
	workers, lowest []int64
	priorities      []int16
	ids             []int64
}

// probed is what a probe brought.
type probed struct {
	found        []mark
	blocks       int64
	began, ended time.Time
	err          error
}

// probe asks for a look below the marks. When it finds something, the queue's
// consumers are woken.
func (c *consumer) probe() {
	b := &below{priorities: make([]int16, len(c.scan.marks)), ids: make([]int64, len(c.scan.marks))}
	for i, m := range c.scan.marks {
		b.priorities[i], b.ids[i] = m.priority, m.id
	}
	b.workers, b.lowest = c.lowestClaims()
	p := &c.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = b
	if at := c.scan.last.Add(c.scan.pause()); at.After(p.next) {
		p.next = at
	}
	if !p.running {
		p.running = c.s.inBackground(c.runProbes)
	}
}

// runProbes looks until nobody asks any more.
func (c *consumer) runProbes(ctx context.Context) {
	for {
		b, wait := c.prober.turn()
		if b == nil {
			return
		}
		if !pause(ctx, wait) {
			c.prober.end()
			return
		}
		if c.prober.done(c.s.runProbe(ctx, c.queueID, c.prober.latest())) {
			c.s.notifier.add(c.queue)
		}
	}
}

// turn is what to look for next, and how long to wait before; nil is nothing,
// and the end.
func (p *prober) turn() (*below, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = p.asked != nil
	return p.asked, time.Until(p.next)
}

// latest takes what was asked for last.
func (p *prober) latest() *below {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.asked
	p.asked = nil
	return b
}

// done keeps the result of a look, and reports whether it found something.
func (p *prober) done(r probed) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result = &r
	p.next = r.ended.Add(rescanPause(r.ended.Sub(r.began)))
	return len(r.found) > 0
}

func (p *prober) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
}

// pause waits and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Store) runProbe(ctx context.Context, queueID int32, look *below) (p probed) {
	select {
	case s.probes <- struct{}{}:
		defer func() { <-s.probes }()
	case <-ctx.Done():
	}
	p.began = time.Now()
	defer func() { p.ended = time.Now() }()
	var before int64
	b := s.batch()
	b.add(sqlProbePlan)
	b.add(sqlTouched).QueryRow(func(r pgx.Row) error { return r.Scan(&before) })
	b.add(sqlProbe, s.now(), queueID, look.workers, look.lowest, look.priorities, look.ids, maxFound).Query(p.read)
	p.err = b.send(ctx, "look for messages that came back")
	p.blocks -= before
	return p
}

func (p *probed) read(rows pgx.Rows) error {
	var id, blocks *int64
	var priority *int16
	_, err := pgx.ForEachRow(rows, []any{&id, &priority, &blocks}, func() error {
		if blocks != nil {
			p.blocks = *blocks
			return nil
		}
		p.found = append(p.found, mark{*priority, *id})
		return nil
	})
	return err
}

// collect takes the finds of a probe that has ended. One that failed is made
// again in its time; the claims say what is wrong with the database.
func (c *consumer) collect() {
	p := &c.prober
	p.mu.Lock()
	r := p.result
	p.result = nil
	p.mu.Unlock()
	if r != nil && r.err == nil {
		c.scan.looked(r.began, r.ended, r.blocks, len(r.found))
		c.scan.take(r.found)
	}
}
