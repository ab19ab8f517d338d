package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// sqlWakeStranded wakes at most $4 runs of workflow $2 that wait for one of the
// versions $3; none is all. It reads all runs, and is for when a handler comes.
// What others are at they wake or put off themselves. It counts also those that
// somebody moved meanwhile: fewer than $4 say that no more are left.
const sqlWakeStranded = `
with stranded as materialized (
    select r.run_id from {{schema}}.queues q join {{schema}}.runs r on r.queue_id = q.id
    where q.name = $2 and r.wait_kind = 'version' and not r.paused
        and (cardinality($3::text[]) = 0 or r.wait_for = any($3::text[]))
        and exists (select from {{schema}}.delayed d where d.id = r.run_id)
    order by r.run_id limit $4 for update of r skip locked
)
select count(*) from (select {{schema}}.wake_run(s.run_id, {{now}}) as woken from stranded s offset 0) w`

// WakeStranded wakes runs that wait for a handler of their version.
func (t workflows) WakeStranded(ctx context.Context, workflow string, versions []string, limit int) (int64, error) {
	op := fmt.Sprintf("wake the runs of workflow %q that wait for versions %q", workflow, versions)
	if err := t.s.checkQueue(ctx, op, workflow); err != nil {
		return 0, err
	}
	if versions == nil {
		versions = []string{}
	}
	var woken int64
	b := t.s.batch()
	b.add(sqlPromotePlan)
	b.add(sqlWakeStranded, t.s.now(), workflow, versions, limit).QueryRow(func(r pgx.Row) error { return r.Scan(&woken) })
	if err := b.send(ctx, op); err != nil {
		return 0, err
	}
	if woken > 0 {
		t.s.notifier.add(workflow)
	}
	return woken, nil
}
