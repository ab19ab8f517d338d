package postgres

import (
	"cmp"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	sqlHeldRuns = heldItems + `,
message as (
    select m.id, m.attempts, m.queue_id from {{schema}}.messages m where m.id = any(array(select id from held))
),
run as (
    select r.run_id, r.news, r.cancelling, r.paused, r.parent_id, r.parent_id is not null and not exists (
        select from {{schema}}.steps s
        where s.run_id = r.parent_id and s.name = r.parent_name and s.occurrence = r.parent_occurrence) as bereft
    from {{schema}}.runs r where r.run_id = any(array(select id from held))
)
select h.ord, m.attempts, q.max_attempts, q.name, q.kind = 'workflow',
    coalesce(r.news, 0), coalesce(r.cancelling, false), coalesce(r.paused, false), coalesce(r.parent_id, 0),
    coalesce(r.bereft, false)
from held h join message m on m.id = h.id join {{schema}}.queues q on q.id = m.queue_id
left join run r on r.run_id = h.id`

	// sqlStepLook is what special steps depend on: their state; whether the
	// signal $4 is to be taken; where the run $5 is that a signal goes to; which
	// run of workflow $6 has the key $7.
	sqlStepLook = `
select
    coalesce((select s.state from {{schema}}.steps s
        where s.run_id = i.run_id and s.name = i.name and s.occurrence = i.occurrence), ''),
    coalesce((select g.taken_name is null from {{schema}}.signals g where g.id = i.signal and g.run_id = i.run_id), false),
    case
        when exists (select from {{schema}}.runs r where r.run_id = i.target)
            and (exists (select from {{schema}}.delayed d where d.id = i.target)
                or exists (select from {{schema}}.messages m where m.id = i.target))
            then case when {{schema}}.signals_full(i.target, 0) then 'full' else 'open' end
        when exists (select from {{schema}}.archive a where a.id = i.target) then 'ended'
        else '' end,
    coalesce((select r.run_id from {{schema}}.runs r where i.key <> '' and r.key = i.key
        and r.queue_id = (select q.id from {{schema}}.queues q where q.name = i.workflow)), 0)
from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[]) with ordinality
    as i(run_id, name, occurrence, signal, target, workflow, key, ord)
order by i.ord`

	sqlNextIDs = `select nextval('{{schema}}.message_ids') from generate_series(1, $1::int)`
)

// runFlags is what is known of a held run.
type runFlags struct {
	workflow           bool // its queue is of that kind
	news               int64
	cancelling, paused bool
	parent             int64
	bereft             bool // the step that started it is not there
}

// runParts is the part of a mixed settlement that only runs have.
type runParts struct {
	t *settlement
	// specials are the steps that need a look, their items and places.
	specials map[[2]int]*stepLook
	order    [][2]int
	// workflows are the queues of children, children their ids to be.
	workflows []string
	ids       []int64

	steps    stepRows
	taken    map[int64]stepOf
	signals  takenSignals
	sends    sentSignals
	children newChildren
	events   setEvents
	// waiting are the runs that wait, decided when all else is: what comes to a
	// run in this settlement is news to it.
	waiting   []waitingRun
	came      map[int64]int64
	waitIDs   []int64
	waitKinds []*string
	waitFors  []*string
	cancelled []int64
	ended     []int64
	bereft    []int64 // runs whose step that started one of these is not there
	woken     []string
}

type waitingRun struct {
	item int
	held held
}

// stepLook is what a special step depends on.
type stepLook struct {
	state  store.StepState // "" if it is not there
	free   bool            // the signal is there and nobody's
	target string          // open, full, ended or ""
	keyed  int64           // the run that has the child's key
}

// recorded reports whether the step has its result, or waits for its child already.
func (l *stepLook) recorded(s *store.StepResult) bool {
	return l.state == store.StepSucceeded || l.state == store.StepFailed || s.Child != nil && l.state == store.StepWaiting
}

func newRunParts(t *settlement) *runParts {
	p := &runParts{t: t, specials: map[[2]int]*stepLook{}, taken: map[int64]stepOf{}, came: map[int64]int64{}}
	for _, i := range t.items {
		for j := range t.outcomes[i].Steps {
			s := &t.outcomes[i].Steps[j]
			if !special(s) {
				continue
			}
			p.specials[[2]int{i, j}] = &stepLook{}
			p.order = append(p.order, [2]int{i, j})
			if s.Child != nil {
				p.workflows = append(p.workflows, s.Child.Workflow)
			}
		}
	}
	return p
}

// lookAtRuns locks the rows of all runs concerned, and looks at the items.
func (m *mixed) lookAtRuns(b *batch, found map[int]held) {
	with, ended, targets := m.concerned()
	b.add(sqlLockLimit, milliseconds(settleWait))
	b.add(sqlLockRuns, m.lockArgs(m.s.now(), with, ended, targets)...)
	claims, ids := m.ofLeases(m.items)
	b.add(sqlHeldRuns, m.worker, claims, ids, m.claims).Query(func(r pgx.Rows) error {
		var ord int
		var h held
		_, err := pgx.ForEachRow(r, []any{&ord, &h.attempts, &h.maxAttempts, &h.queue, &h.run.workflow,
			&h.run.news, &h.run.cancelling, &h.run.paused, &h.run.parent, &h.run.bereft}, func() error {
			found[ord-1] = h
			return nil
		})
		return err
	})
	m.runs.look(b)
}

// mustLock reports whether an outcome may let its run wait, so that nothing
// may wake it meanwhile, or removes it, so that nothing may be left for it.
func mustLock(o *store.Outcome) bool {
	switch o.Kind {
	case store.OutcomeWait, store.OutcomeRetry, store.OutcomeSnooze, store.OutcomeDelete:
		return true
	}
	return false
}

// look queues the look at special steps.
func (p *runParts) look(b *batch) {
	if len(p.order) == 0 {
		return
	}
	n := len(p.order)
	runs, names, occurrences := make([]int64, n), make([]string, n), make([]int64, n)
	signals, targets, workflows, keys := make([]int64, n), make([]int64, n), make([]string, n), make([]string, n)
	for k, at := range p.order {
		o := &p.t.outcomes[at[0]]
		s := &o.Steps[at[1]]
		runs[k], names[k], occurrences[k], signals[k] = o.ID, s.Name, int64(s.Occurrence), s.Signal
		if s.Send != nil {
			targets[k] = s.Send.Run
		}
		if s.Child != nil {
			workflows[k], keys[k] = s.Child.Workflow, s.Child.Key
		}
	}
	b.add(sqlStepLook, runs, names, occurrences, signals, targets, workflows, keys).Query(func(r pgx.Rows) error {
		var l stepLook
		k := 0
		_, err := pgx.ForEachRow(r, []any{&l.state, &l.free, &l.target, &l.keyed}, func() error {
			*p.specials[p.order[k]] = l
			k++
			return nil
		})
		return err
	})
	if len(p.workflows) > 0 {
		b.add(sqlNextIDs, len(p.workflows)).Query(func(r pgx.Rows) (err error) {
			p.ids, err = pgx.CollectRows(r, pgx.RowTo[int64])
			return err
		})
	}
}

// check returns why an item cannot be settled as it is.
func (p *runParts) check(i int, h held, there map[string]store.QueueKind) error {
	o := &p.t.outcomes[i]
	switch o.Kind {
	case store.OutcomeStep, store.OutcomeWait, store.OutcomeCancel:
		if !h.run.workflow {
			return store.Invalidf("outcome %s is for runs, and queue %q is for jobs", o.Kind, h.queue)
		}
	}
	taking := map[int64]stepOf{}
	for j := range o.Steps {
		l, s := p.specials[[2]int{i, j}], &o.Steps[j]
		if l == nil || l.recorded(s) {
			continue
		}
		if !h.run.workflow {
			return store.Invalidf("step %s: steps of kind %s are for runs, and queue %q is for jobs",
				s.Text(), s.Kind, h.queue)
		}
		if err := p.checkStep(o, s, l, taking, there); err != nil {
			return fmt.Errorf("step %s: %w", s.Text(), err)
		}
	}
	return nil
}

// checkStep returns why a step cannot be recorded. taking are the signals that
// steps of the same outcome take.
func (p *runParts) checkStep(o *store.Outcome, s *store.StepResult, l *stepLook, taking map[int64]stepOf, there map[string]store.QueueKind) error {
	if s.Signal != 0 {
		this := stepOf{o.Lease, s.StepKey}
		by, taken := p.taken[s.Signal]
		if other, again := taking[s.Signal]; again {
			by, taken = other, true
		}
		if !l.free || taken && by != this {
			return store.Invalidf("signal %d is not there, or is taken by another step", s.Signal)
		}
		taking[s.Signal] = this
	}
	if s.Send != nil && l.target == "full" {
		return fmt.Errorf("send signal %q to run %d: %w", s.Send.Topic, s.Send.Run, store.ErrSignalsFull)
	}
	if s.Child == nil {
		return nil
	}
	switch kind, known := there[s.Child.Workflow]; {
	case !known:
		return fmt.Errorf("start a child: %w", unknownTarget(s.Child.Workflow, store.WorkflowQueue, there))
	case kind != store.WorkflowQueue:
		return fmt.Errorf("start a child: %w", store.NotWorkflow(s.Child.Workflow))
	}
	return nil
}

// recordSteps sorts in an item's steps and what they do. A run that is being
// cancelled begins nothing more.
func (m *mixed) recordSteps(i int, h held) {
	o := &m.outcomes[i]
	for j := range o.Steps {
		s := o.Steps[j]
		l := m.runs.specials[[2]int{i, j}]
		if l != nil && l.recorded(&s) || h.run.cancelling && s.Ends() == store.StepWaiting {
			continue
		}
		if l != nil {
			refuse(&s, l)
		}
		if m.runs.steps.add(0, o.Lease, &s) && l != nil && s.Ends() != store.StepFailed {
			m.runs.do(o, &s)
		}
	}
}

// refuse makes a step fail that cannot do what it is for.
func refuse(s *store.StepResult, l *stepLook) {
	switch {
	case s.Send != nil && l.target == "ended":
		s.State, s.Error = store.StepFailed, fmt.Sprintf("run %d has ended", s.Send.Run)
	case s.Send != nil && l.target == "":
		s.State, s.Error = store.StepFailed, fmt.Sprintf("there is no run %d", s.Send.Run)
	case s.Child != nil && l.keyed != 0:
		s.State, s.Error = store.StepFailed, fmt.Sprintf("the key %q is run %d's", s.Child.Key, l.keyed)
	}
}

// do notes what a step does beside being recorded.
func (p *runParts) do(o *store.Outcome, s *store.StepResult) {
	switch {
	case s.Signal != 0:
		p.taken[s.Signal] = stepOf{o.Lease, s.StepKey}
		p.signals.add(s)
	case s.Send != nil:
		p.came[s.Send.Run]++
		p.sends.add(s.Send)
	case s.Child != nil:
		id := p.ids[0]
		p.ids = p.ids[1:]
		p.steps.child(o.Lease, s.StepKey, id)
		p.children.add(id, o.ID, s)
	case s.Kind == store.StepEvent:
		p.events.add(o.ID, s)
	}
}

// end notes that a run ends that another one started.
func (p *runParts) end(id, parent int64) {
	p.ended = append(p.ended, id)
	p.came[parent]++
}

// decideWaits decides about the runs that wait, when all that comes to them in
// this settlement is known.
func (m *mixed) decideWaits(results []store.Settled) {
	if m.runs == nil {
		return
	}
	for _, w := range m.runs.waiting {
		o := &m.outcomes[w.item]
		state, delay := store.Delayed, micros(o.Wait.Delay)
		switch {
		case w.held.run.paused || o.Wait.Delay < 0:
			delay = -1
		}
		if !w.held.run.paused && (w.held.run.news+m.runs.came[o.ID] != o.Wait.News || delay == 0) {
			state = store.Ready
		} else {
			m.wait.add(o.ID, delay, nil)
			m.runs.wait(o)
		}
		m.placed(w.item, state, w.held)
		results[w.item] = store.Settled{State: state}
	}
}

// wait notes what a run waits for.
func (p *runParts) wait(o *store.Outcome) {
	kind := string(cmp.Or(o.Wait.Kind, store.WaitSleep))
	p.waitIDs = append(p.waitIDs, o.ID)
	p.waitKinds = append(p.waitKinds, &kind)
	p.waitFors = append(p.waitFors, &o.Wait.For)
}

// write queues the steps and what they do.
func (p *runParts) write(b *batch, now *time.Time) error {
	// The lock made rows for those that were removed while it was waited for.
	nowhere := p.bereft
	for at, l := range p.specials {
		if send := p.t.outcomes[at[0]].Steps[at[1]].Send; send != nil && l.target == "" {
			nowhere = append(nowhere, send.Run)
		}
	}
	if len(nowhere) > 0 {
		b.add(sqlForgetGone, nowhere)
	}
	if err := p.children.queue(b, now); err != nil {
		return err
	}
	p.woken = append(p.woken, p.children.workflows()...)
	p.steps.queue(b, now)
	p.signals.queue(b)
	p.events.queue(b, now)
	p.sends.queue(b, now, &p.woken)
	return nil
}
