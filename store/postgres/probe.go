package postgres

import (
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// sqlProbe looks for messages up to the marks ($5, $6) that stand in no claim.
	// It holds no lock: a claim looks again at what it finds. Its last row is how
	// many blocks it touched.
	sqlProbe = `
with ` + claimsLive + `,
found as materialized (
    select m.id, m.priority from unnest($5::smallint[], $6::bigint[]) as r(priority, id)
    cross join lateral (
        select m.id, m.priority from {{schema}}.messages m
        where m.queue_id = $2 and m.priority = r.priority and m.id <= r.id
            and m.id not in (select unnest(live.ids) from live)
        order by m.id limit $7
    ) m limit $7
)
select id, priority, null::bigint from found
union all
select null, null, coalesce(` + blocksTouched + `, 0)
where $1::timestamptz is null or true -- the time is of no use; its place is the claim's`

	sqlProbePlan = `select ` + planNested
)

// maxFound is how many messages a probe finds at most.
const maxFound = 1000

// probed is what a probe brought.
type probed struct {
	found  []mark
	blocks int64
	began  time.Time
	err    error
}

// probe starts a look below the marks, beside the claims, unless one is under
// way. When it finds something, the queue's consumers are woken.
func (c *consumer) probe() {
	if c.scan.probing != nil {
		return
	}
	done := make(chan probed, 1)
	c.scan.probing, c.scan.wanted = done, false
	priorities, ids := make([]int16, len(c.scan.marks)), make([]int64, len(c.scan.marks))
	for i, m := range c.scan.marks {
		priorities[i], ids[i] = m.priority, m.id
	}
	workers, lowest := c.lowestClaims()
	c.s.background.Go(func() {
		p := c.s.runProbe(c.queueID, workers, lowest, priorities, ids)
		done <- p
		if len(p.found) > 0 {
			c.s.notifier.add(c.queue)
		}
	})
}

func (s *Store) runProbe(queueID int32, workers, lowest []int64, priorities []int16, ids []int64) probed {
	p := probed{began: time.Now()}
	b := s.batch()
	b.add(sqlProbePlan)
	b.add(sqlProbe, s.now(), queueID, workers, lowest, priorities, ids, maxFound).Query(func(rows pgx.Rows) error {
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
	})
	p.err = b.send(s.life, "look for messages that came back")
	return p
}

// collect takes the finds of a probe that has ended. One that failed is made
// again in its time; the claims say what is wrong with the database.
func (c *consumer) collect() {
	select {
	case p := <-c.scan.probing:
		c.scan.probing = nil
		if p.err != nil {
			c.scan.last = time.Now()
			return
		}
		c.scan.looked(p.began, p.blocks, len(p.found))
		c.scan.found = p.found
	default:
	}
}
