package sqlite

import (
	"cmp"

	"github.com/pgqrs/pgqrsd/store"
)

// touch notes what is to be written of a run itself.
func (w *runWork) touch(o *store.Outcome, p *runPlace, steps []*store.StepResult, now int64) {
	recording := len(steps) > 0 && (!p.recorded || !p.begun || (p.version == "" && o.Version != ""))
	delayed := o.Kind == store.OutcomeRetry || o.Kind == store.OutcomeSnooze
	if !recording && o.Kind != store.OutcomeWait && (!delayed || !p.waits) {
		return
	}
	var began int64
	if len(steps) > 0 {
		began, p.begun = now-micros(steps[0].Took), true
	}
	var version, kind, name string
	if o.Kind == store.OutcomeWait {
		kind, name = string(cmp.Or(o.Wait.Kind, store.WaitSleep)), o.Wait.For
	}
	if len(steps) > 0 || (kind != "" && kind != string(store.WaitVersion)) {
		version = o.Version
	}
	p.recorded, p.version = true, cmp.Or(p.version, version)
	w.touched.add(o.ID, began, w.text.add([]byte(version)), w.text.add([]byte(kind)), w.text.add([]byte(name)))
}

// ended notes a run that others may wait for.
func (w *runWork) ended(id int64, p runPlace) {
	if p.recorded {
		w.over = append(w.over, id)
	}
}

const (
	sqlTouchRuns = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(run_id, began, version, kind, name) AS (
    SELECT CAST(substr(?2, i*100 + 1, 20) AS INTEGER), CAST(substr(?2, i*100 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 41, 20) AS INTEGER), CAST(substr(?2, i*100 + 61, 20) AS INTEGER),
        CAST(substr(?2, i*100 + 81, 20) AS INTEGER)
    FROM r)
INSERT INTO runs (run_id, queue_id, begun_at, version, wait_kind, wait_for)
SELECT f.run_id, l.queue_id, NULLIF(f.began, 0), NULLIF(CAST(substr(?3, version>>31, version&0x7fffffff) AS TEXT), ''),
    NULLIF(CAST(substr(?3, kind>>31, kind&0x7fffffff) AS TEXT), ''), CAST(substr(?3, name>>31, name&0x7fffffff) AS TEXT)
FROM f CROSS JOIN leases l ON l.message_id = f.run_id
WHERE true
ON CONFLICT (run_id) DO UPDATE SET begun_at = coalesce(begun_at, excluded.begun_at), version = coalesce(version, excluded.version),
    wait_kind = excluded.wait_kind, wait_for = excluded.wait_for`
	sqlSetEvents = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(run_id, name, value) AS (
    SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)
INSERT INTO events (run_id, name, value, set_at)
SELECT run_id, CAST(substr(?3, name>>31, name&0x7fffffff) AS TEXT), CAST(substr(?3, value>>31, value&0x7fffffff) AS TEXT), ?4
FROM f WHERE true
ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value, set_at = excluded.set_at`
	// With each row a run, and where topic, key and payload are in the texts.
	sqlSendSignals = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(run_id, topic, key, payload) AS (
    SELECT CAST(substr(?2, i*80 + 1, 20) AS INTEGER), CAST(substr(?2, i*80 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*80 + 41, 20) AS INTEGER), CAST(substr(?2, i*80 + 61, 20) AS INTEGER)
    FROM r)
INSERT INTO signals (run_id, topic, key, payload, sent_at)
SELECT run_id, CAST(substr(?3, topic>>31, topic&0x7fffffff) AS TEXT),
    NULLIF(CAST(substr(?3, key>>31, key&0x7fffffff) AS TEXT), ''), CAST(substr(?3, payload>>31, payload&0x7fffffff) AS TEXT), ?4
FROM f WHERE true
ON CONFLICT (run_id, key) WHERE key IS NOT NULL DO NOTHING
RETURNING run_id`
	// With each row a run, its queue, and the run that starts it.
	sqlAddChildren = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1)
INSERT INTO runs (run_id, queue_id, parent_id)
SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
    CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
FROM r`
	// With each row a signal, and the occurrence and the name of the step that takes it.
	sqlTakeSignals = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(id, occurrence, name) AS (
    SELECT CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)
UPDATE signals SET taken_name = CAST(substr(?3, f.name>>31, f.name&0x7fffffff) AS TEXT), taken_occurrence = f.occurrence
FROM f WHERE signals.id = f.id`
)

// write writes all but what tells others.
func (w *runWork) write(t *tx) error {
	if err := w.startChildren(t); err != nil {
		return err
	}
	if err := w.steps.write(t); err != nil {
		return err
	}
	if w.touched.n > 0 {
		if _, err := t.exec(sqlTouchRuns, w.touched.n, w.touched.buf, w.text.buf); err != nil {
			return err
		}
	}
	if w.events.n > 0 {
		if _, err := t.exec(sqlSetEvents, w.events.n, w.events.buf, w.text.buf, t.now); err != nil {
			return err
		}
	}
	if w.taken.n == 0 {
		return nil
	}
	_, err := t.exec(sqlTakeSignals, w.taken.n, w.taken.buf, w.text.buf)
	return err
}

// tell sends the signals, and lets those know who wait for a run that has
// ended. It is the last, so that it finds them waiting.
func (w *runWork) tell(t *tx) error {
	told, err := w.sendAll(t)
	if err != nil {
		return err
	}
	if err := t.addNews(told); err != nil {
		return err
	}
	return t.runsEnded(w.over)
}

// sendAll returns the runs to which signals were sent that were not there before.
func (w *runWork) sendAll(t *tx) (told []int64, err error) {
	if len(w.sends) == 0 {
		return nil, nil
	}
	var rec records
	var text texts
	for _, s := range w.sends {
		rec.add(s.Run, text.add([]byte(s.Topic)), text.add([]byte(s.Key)), text.add(orNull(s.Payload)))
	}
	return told, t.rows(sqlSendSignals, []any{rec.n, rec.buf, text.buf, t.now}, collect(&told))
}

// startChildren starts the runs without a key.
func (w *runWork) startChildren(t *tx) error {
	if len(w.children) == 0 {
		return nil
	}
	if _, err := t.insertAt(w.firstChild, w.children, w.queues); err != nil {
		return err
	}
	_, err := t.exec(sqlAddChildren, w.parents.n, w.parents.buf)
	return err
}
