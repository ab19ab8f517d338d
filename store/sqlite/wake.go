package sqlite

import (
	"database/sql"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// What has come to a run is counted, so that one which is about to wait
	// notices.
	sqlAddNews = `
INSERT INTO runs (run_id, queue_id, news) SELECT m.id, m.queue_id, 1 FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value
WHERE true
ON CONFLICT (run_id) DO UPDATE SET news = news + 1`
	// Runs that suspended themselves. One that waits for its start or for its
	// own next attempt is not hurried by what comes to it, nor one that is paused.
	sqlWakeable = `
SELECT d.message_id, q.name
FROM json_each(?1) j CROSS JOIN delayed d ON d.message_id = j.value CROSS JOIN runs w ON w.run_id = d.message_id
    CROSS JOIN queues q ON q.id = d.queue_id
WHERE w.wait_kind IS NOT NULL AND NOT w.paused`
	sqlReadyDelayed = `
INSERT INTO ready (queue_id, priority, message_id, ready_at)
SELECT m.queue_id, m.priority, m.id, ?2
FROM json_each(?1) j CROSS JOIN delayed d ON d.message_id = j.value CROSS JOIN messages m ON m.id = d.message_id`
)

// addNews tells runs that something has come to them, and wakes those that wait.
func (t *tx) addNews(runs []int64) error {
	if len(runs) == 0 {
		return nil
	}
	slices.Sort(runs)
	list := jsonIDs(slices.Compact(runs))
	if _, err := t.exec(sqlAddNews, list); err != nil {
		return err
	}
	var awake idList
	var id int64
	var queue string
	err := t.rows(sqlWakeable, []any{list}, scanInto(func() {
		awake.add(id)
		t.wake(queue)
	}, &id, &queue))
	if err != nil || awake.empty() {
		return err
	}
	return t.readyNow(awake.json())
}

// readyNow makes delayed messages, a list of ids in JSON, ready.
func (t *tx) readyNow(ids string) error {
	if _, err := t.exec(sqlReadyDelayed, ids, t.now); err != nil {
		return err
	}
	_, err := t.exec(sqlDeleteDelayed, ids)
	return err
}

// sqlEndChildSteps records what became of runs as the results of the steps that
// wait for them.
const sqlEndChildSteps = `
UPDATE steps SET (state, output, error) = (
    SELECT CASE a.state WHEN 'done' THEN 'succeeded' ELSE 'failed' END, CASE a.state WHEN 'done' THEN a.output END,
        CASE a.state WHEN 'done' THEN NULL
            WHEN 'dead' THEN coalesce(json_extract(m.errors, '$[#-1].error'), 'run ' || steps.child_id || ' failed')
            WHEN 'cancelled' THEN 'run ' || steps.child_id || ' was cancelled'
            ELSE 'run ' || steps.child_id || ' was deleted' END
    FROM (SELECT 1) LEFT JOIN archive a ON a.message_id = steps.child_id LEFT JOIN messages m ON m.id = steps.child_id),
    due_at = NULL, finished_at = ?2
WHERE child_id IN (SELECT value FROM json_each(?1)) AND state = 'waiting'
RETURNING run_id`

// runsEnded tells the runs that wait for some of these, which are archived or
// gone, what became of them.
func (t *tx) runsEnded(ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	var parents []int64
	if err := t.rows(sqlEndChildSteps, []any{jsonIDs(ids), t.now}, collect(&parents)); err != nil {
		return err
	}
	return t.addNews(parents)
}

// runPlace is a run and where it is.
type runPlace struct {
	found      bool
	kind       store.QueueKind
	queue      string
	state      store.State
	recorded   bool // something is recorded of it
	begun      bool
	version    string
	news       int64
	cancelling bool
	paused     bool
	waits      bool // it suspended itself when it was delayed last
}

const (
	columnsRunPlace = `w.run_id IS NOT NULL, w.begun_at IS NOT NULL, coalesce(w.version, ''), coalesce(w.news, 0),
    coalesce(w.cancelling, 0), coalesce(w.paused, 0), w.wait_kind IS NOT NULL`

	sqlRunPlaces = `
SELECT j.key, q.kind, q.name, ` + columnState + `, ` + columnsRunPlace + `
FROM json_each(?1) j CROSS JOIN messages m ON m.id = j.value CROSS JOIN queues q ON q.id = m.queue_id` + fromPlaces + `
    LEFT JOIN runs w ON w.run_id = m.id`

	sqlLeasedRuns = `
SELECT j.key, q.kind, q.name, 'leased', ` + columnsRunPlace + `
FROM json_each(?1) j CROSS JOIN leases l ON l.message_id = j.value CROSS JOIN queues q ON q.id = l.queue_id
    LEFT JOIN runs w ON w.run_id = l.message_id`
)

// runPlaces finds messages by sqlRunPlaces or sqlLeasedRuns, in the order of ids.
func runPlaces(q querier, query string, ids []int64) ([]runPlace, error) {
	places := make([]runPlace, len(ids))
	if len(ids) == 0 {
		return places, nil
	}
	err := q.rows(query, []any{jsonIDs(ids)}, func(rows *sql.Rows) error {
		var i int
		p := runPlace{found: true}
		err := rows.Scan(&i, &p.kind, &p.queue, &p.state, &p.recorded, &p.begun, &p.version, &p.news, &p.cancelling, &p.paused, &p.waits)
		if err == nil {
			places[i] = p
		}
		return err
	})
	return places, err
}

// isRun tells a run from a message that is a job, or none.
func (p runPlace) isRun() bool { return p.found && p.kind == store.WorkflowQueue }

func (p runPlace) halt() store.Halt {
	switch {
	case p.cancelling:
		return store.HaltCancel
	case p.paused:
		return store.HaltPause
	}
	return store.HaltNone
}
