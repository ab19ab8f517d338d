package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// sqlOccupied looks at one row of each queue. The order has it come from the
// index, whatever the planner thinks of the table.
const sqlOccupied = `
select q.name from {{schema}}.queues q cross join lateral (
    select from {{schema}}.messages m where m.queue_id = q.id order by m.priority, m.id limit 1
) m
where q.name = any($1::text[])`

// Occupied returns the queues on which messages stand.
func (m messages) Occupied(ctx context.Context, queues ...string) ([]string, error) {
	return rows(ctx, m.s, "look at queues", sqlOccupied, []any{queues}, pgx.RowTo[string])
}
