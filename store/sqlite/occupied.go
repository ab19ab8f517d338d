package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
)

const sqlOccupied = `
SELECT q.name FROM json_each(?1) j CROSS JOIN queues q ON q.name = j.value
WHERE EXISTS (SELECT 1 FROM ready WHERE queue_id = q.id)`

// Occupied returns the queues on which messages are ready. On one process's
// file what is leased is this process's own, which needs no looking for.
func (m messages) Occupied(ctx context.Context, queues ...string) (names []string, err error) {
	list, err := json.Marshal(queues)
	if err != nil {
		return nil, fmt.Errorf("look at queues: %w", err)
	}
	err = m.d.view(ctx, func(v view) error {
		return v.rows(sqlOccupied, []any{string(list)}, collect(&names))
	})
	if err != nil {
		return nil, fmt.Errorf("look at queues: %w", err)
	}
	return names, nil
}
