package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
)

// sqlStranded finds runs that wait for one of the versions ?2; none is all. It
// reads all that waits on the queue, and is for when a handler comes.
const sqlStranded = `
SELECT d.message_id FROM delayed d INDEXED BY delayed_due CROSS JOIN runs w ON w.run_id = d.message_id
WHERE d.queue_id = ?1 AND w.wait_kind = 'version' AND NOT w.paused
    AND (?2 IN ('[]', 'null') OR w.wait_for IN (SELECT value FROM json_each(?2)))
LIMIT ?3 + 0`

func (w workflows) WakeStranded(ctx context.Context, workflow string, versions []string, limit int) (woken int64, err error) {
	list, err := json.Marshal(versions)
	if err != nil {
		return 0, fmt.Errorf("encode the versions %q: %w", versions, err)
	}
	var ids []int64
	err = w.d.write(ctx, flushed, func(t *tx) error {
		queue, err := findQueue(t, workflow)
		if err != nil {
			return err
		}
		ids = ids[:0]
		if err := t.rows(sqlStranded, []any{queue.ID, string(list), limit}, collect(&ids)); err != nil {
			return err
		}
		if len(ids) == 0 {
			return errNothing
		}
		return t.addNews(ids)
	})
	if err != nil {
		return 0, fmt.Errorf("wake the runs of workflow %s that wait for versions %q: %w", workflow, versions, err)
	}
	return int64(len(ids)), nil
}
