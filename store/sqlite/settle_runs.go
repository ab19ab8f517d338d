package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// runWork is what a settlement does to runs of workflows: what it has read of
// them, and what it is to write beside the changes of their messages.
type runWork struct {
	places  map[int64]*runPlace // of the leased runs; empty if all are jobs
	have    map[stepID]store.StepState
	signals map[int64]*signalPlace
	targets map[int64]runPlace // of signals to send
	full    map[int64]bool     // those of them that get no more

	steps   stepResults
	touched records // run, began, and where version, wait's kind and wait's name are
	events  records // run, and where name and value are
	text    texts   // of touched, events and taken
	taken   records // signal, occurrence, and where the name of its step is
	sends   []store.NewSignal
	// queues are those of the runs to start; nameless is how many of these there
	// may be without a key, and firstChild the first of their ids.
	queues     map[string]int64
	nameless   int
	firstChild int64
	children   []store.NewMessage
	parents    records // child, its queue, parent

	over []int64 // runs that others may wait for, and that have ended
}

// stepID is the identity of a step.
type stepID struct {
	run int64
	store.StepKey
}

type signalPlace struct {
	run   int64
	taken bool
}

// ofRun reports whether an outcome says what only a run of a workflow has.
func ofRun(o *store.Outcome) bool {
	return o.Kind == store.OutcomeStep || o.Kind == store.OutcomeWait || o.Kind == store.OutcomeCancel ||
		o.Version != "" || len(o.Steps) > 0
}

// special reports whether recording a step does more than to record it.
func special(r *store.StepResult) bool {
	return r.Signal != 0 || r.Send != nil || r.Kind == store.StepEvent || (r.Kind == store.StepChild && r.Ends() == store.StepWaiting)
}

// load reads what the outcomes, of which none is refused, need of their runs.
// Of jobs it is a look whether they are runs at all.
func (w *runWork) load(t *tx, outcomes []*store.Outcome) error {
	if len(outcomes) == 0 {
		return nil
	}
	ids := make([]int64, len(outcomes))
	for i, o := range outcomes {
		ids[i] = o.ID
	}
	if !slices.ContainsFunc(outcomes, ofRun) {
		if is, err := anyRun(t, slices.Min(ids), slices.Max(ids)); err != nil || !is {
			return err
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	places, err := runPlaces(t, sqlLeasedRuns, ids)
	if err != nil {
		return err
	}
	w.places = make(map[int64]*runPlace, len(ids))
	for i, id := range ids {
		w.places[id] = &places[i]
	}
	return w.loadSpecial(t, outcomes)
}

const (
	// With each row a run, an occurrence, and where the name is in the texts.
	sqlStepStates = `
WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1),
f(i, run_id, occurrence, name) AS (
    SELECT i, CAST(substr(?2, i*60 + 1, 20) AS INTEGER), CAST(substr(?2, i*60 + 21, 20) AS INTEGER),
        CAST(substr(?2, i*60 + 41, 20) AS INTEGER)
    FROM r)
SELECT f.i, st.state FROM f CROSS JOIN steps st
    ON st.run_id = f.run_id AND st.name = CAST(substr(?3, f.name>>31, f.name&0x7fffffff) AS TEXT) AND st.occurrence = f.occurrence`
	sqlSignalPlaces = `SELECT sg.id, sg.run_id, sg.taken_name IS NOT NULL FROM json_each(?1) j CROSS JOIN signals sg ON sg.id = j.value`
)

// loadSpecial reads what the special steps of outcomes need.
func (w *runWork) loadSpecial(t *tx, outcomes []*store.Outcome) error {
	var keys []stepID
	var rec records
	var names texts
	var signals idList
	var targets []int64
	for _, o := range outcomes {
		for i := range o.Steps {
			r := &o.Steps[i]
			if !special(r) {
				continue
			}
			keys = append(keys, stepID{o.ID, r.StepKey})
			rec.add(o.ID, int64(r.Occurrence), names.add([]byte(r.Name)))
			if r.Signal != 0 {
				signals.add(r.Signal)
			}
			if r.Send != nil {
				targets = append(targets, r.Send.Run)
			}
			if r.Child != nil && r.Child.Key == "" {
				w.nameless++
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	w.have = make(map[stepID]store.StepState, len(keys))
	var i int
	var state store.StepState
	err := t.rows(sqlStepStates, []any{rec.n, rec.buf, names.buf}, scanInto(func() { w.have[keys[i]] = state }, &i, &state))
	if err != nil {
		return err
	}
	if err := w.loadSignals(t, signals); err != nil {
		return err
	}
	return w.loadTargets(t, targets)
}

func (w *runWork) loadSignals(t *tx, ids idList) error {
	if ids.empty() {
		return nil
	}
	w.signals = make(map[int64]*signalPlace)
	return t.rows(sqlSignalPlaces, []any{ids.json()}, func(rows *sql.Rows) error {
		var id int64
		var p signalPlace
		err := rows.Scan(&id, &p.run, &p.taken)
		w.signals[id] = &p
		return err
	})
}

// sqlFullRuns finds those runs that have as many signals that no step has taken
// as they may have.
const sqlFullRuns = `
SELECT sg.run_id FROM signals sg WHERE sg.run_id IN (SELECT value FROM json_each(?1)) AND sg.taken_name IS NULL
GROUP BY sg.run_id HAVING count(*) >= ?2 OR sum(octet_length(sg.payload)) > ?3`

func (w *runWork) loadTargets(t *tx, ids []int64) error {
	places, err := runPlaces(t, sqlRunPlaces, ids)
	if err != nil {
		return err
	}
	w.targets = make(map[int64]runPlace, len(ids))
	w.full = make(map[int64]bool)
	for i, id := range ids {
		w.targets[id] = places[i]
	}
	if len(ids) == 0 {
		return nil
	}
	return t.rows(sqlFullRuns, []any{jsonIDs(ids), store.MaxSignals, store.MaxSignalBytes}, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		w.full[id] = true
		return err
	})
}

// place is what is known of the run of an outcome; zero for a job.
func (w *runWork) place(o *store.Outcome) runPlace {
	if p := w.places[o.ID]; p != nil {
		return *p
	}
	return runPlace{}
}

// accept takes what an outcome says of a run, or refuses the outcome: refused
// is that item's error, err the whole call's.
func (w *runWork) accept(t *tx, o *store.Outcome) (refused, err error) {
	if len(w.places) == 0 {
		return nil, nil
	}
	p := w.places[o.ID]
	if !p.isRun() && (o.Kind == store.OutcomeStep || o.Kind == store.OutcomeWait || o.Kind == store.OutcomeCancel) {
		return store.Invalidf("queue %s holds jobs, whose outcome %s cannot be", p.queue, o.Kind), nil
	}
	steps := make([]*store.StepResult, 0, len(o.Steps))
	for i := range o.Steps {
		// A run that is being cancelled waits for nothing any more, and starts
		// no run that the cancellation would miss.
		if !p.cancelling || o.Steps[i].Ends() != store.StepWaiting {
			steps = append(steps, &o.Steps[i])
		}
	}
	if o.Kind == store.OutcomeDelete {
		steps = nil
	}
	if refused, err = w.check(t, o.ID, steps); refused != nil || err != nil {
		return refused, err
	}
	for _, r := range steps {
		if err := w.record(t, o.ID, r); err != nil {
			return nil, err
		}
	}
	w.touch(o, p, steps, t.now)
	return nil, nil
}

// check finds out whether the steps of an outcome can be recorded.
func (w *runWork) check(t *tx, run int64, steps []*store.StepResult) (refused, err error) {
	taken := make(map[int64]bool)
	for _, r := range steps {
		state := w.have[stepID{run, r.StepKey}]
		if !special(r) || done(state) {
			continue
		}
		if r.Signal != 0 {
			if s := w.signals[r.Signal]; s == nil || s.run != run || s.taken || taken[r.Signal] {
				return store.Invalidf("step %s: signal %d is taken or not this run's", r.Text(), r.Signal), nil
			}
			taken[r.Signal] = true
		}
		if r.Send != nil && w.full[r.Send.Run] {
			return fmt.Errorf("step %s: send signal %q to run %d: %w", r.Text(), r.Send.Topic, r.Send.Run, store.ErrSignalsFull), nil
		}
		if r.Kind == store.StepChild && state != store.StepWaiting {
			if refused, err = w.startable(t, r); refused != nil || err != nil {
				return refused, err
			}
		}
	}
	return nil, nil
}

// done says that a step has its result.
func done(s store.StepState) bool { return s == store.StepSucceeded || s == store.StepFailed }

// record notes a step, and does what goes with it unless the step has its
// result already.
func (w *runWork) record(t *tx, run int64, r *store.StepResult) error {
	key := stepID{run, r.StepKey}
	if !special(r) {
		w.steps.add(run, r, 0, t.now)
		return nil
	}
	before := w.have[key]
	if done(before) {
		return nil
	}
	w.have[key] = r.Ends()
	switch {
	case r.Signal != 0:
		w.signals[r.Signal].taken = true
		w.taken.add(r.Signal, int64(r.Occurrence), w.text.add([]byte(r.Name)))
	case r.Send != nil:
		r = w.send(r)
	case r.Kind == store.StepEvent:
		if r.Ends() == store.StepSucceeded {
			w.events.add(run, w.text.add([]byte(r.Topic)), w.text.add(orNull(r.Output)))
		}
	case before != store.StepWaiting:
		return w.start(t, run, r)
	}
	w.steps.add(run, r, 0, t.now)
	return nil
}

func orNull(text []byte) []byte {
	if len(text) == 0 {
		return []byte("null")
	}
	return text
}

// send notes a signal to send, or returns the step as failed if nobody can get it.
func (w *runWork) send(r *store.StepResult) *store.StepResult {
	var reason string
	switch target := w.targets[r.Send.Run]; {
	case r.Ends() != store.StepSucceeded:
		return r
	case !target.isRun():
		reason = fmt.Sprintf("there is no run %d to send to", r.Send.Run)
	case target.state.Archived():
		reason = fmt.Sprintf("run %d has ended", r.Send.Run)
	default:
		w.sends = append(w.sends, *r.Send)
		return r
	}
	failed := *r
	failed.State, failed.Error, failed.Output = store.StepFailed, reason, nil
	return &failed
}

// start starts the run of a waiting step, and notes the step, as failed if the
// run's key is another run's.
func (w *runWork) start(t *tx, run int64, r *store.StepResult) error {
	if r.Child.Key != "" {
		return w.startKeyed(t, run, r)
	}
	if w.firstChild == 0 {
		var err error
		if w.firstChild, err = t.takeIDs(w.nameless); err != nil {
			return err
		}
	}
	id := w.firstChild + int64(len(w.children))
	w.children = append(w.children, r.Child.Message())
	w.parents.add(id, w.queues[r.Child.Workflow], run)
	w.steps.add(run, r, id, t.now)
	return nil
}

func (w *runWork) startKeyed(t *tx, run int64, r *store.StepResult) error {
	queue := store.Queue{ID: w.queues[r.Child.Workflow], Name: r.Child.Workflow}
	id, created, err := t.createRun(queue, *r.Child, run)
	if err != nil && !errors.Is(err, store.ErrKeyConflict) {
		return err
	}
	if created {
		w.steps.add(run, r, id, t.now)
		return nil
	}
	w.have[stepID{run, r.StepKey}] = store.StepFailed
	failed := *r
	failed.State, failed.Error = store.StepFailed, fmt.Sprintf("the key %q is run %d's", r.Child.Key, id)
	w.steps.add(run, &failed, 0, t.now)
	return nil
}

// startable finds out whether a step's run can be started.
func (w *runWork) startable(t *tx, r *store.StepResult) (refused, err error) {
	if r.Child == nil {
		return store.Invalidf("step %s waits for no run", r.Text()), nil
	}
	if _, found := w.queues[r.Child.Workflow]; found {
		return nil, nil
	}
	queue, err := workflowQueue(t, r.Child.Workflow)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return fmt.Errorf("step %s: start a child: %w", r.Text(), err), nil
	}
	if w.queues == nil {
		w.queues = make(map[string]int64)
	}
	w.queues[r.Child.Workflow] = queue.ID
	return nil, err
}
