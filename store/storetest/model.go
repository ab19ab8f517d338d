package storetest

import (
	"cmp"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// model is what a store ought to do, kept in memory: where every message is
// after each operation, and who may write to it.
type model struct {
	max  map[string]int // attempts of each queue
	msgs map[int64]*modelMessage
	// claims are the claims that were not yet given back, with their ends.
	claims map[claimKey]time.Time
}

type claimKey struct{ worker, claim int64 }

type modelMessage struct {
	id       int64
	queue    string
	priority int
	state    store.State // "" when it was deleted
	failed   int
	errors   int
	due      time.Time
	lease    store.Lease
	started  bool
}

func newModel(max map[string]int) *model {
	return &model{max: max, msgs: map[int64]*modelMessage{}, claims: map[claimKey]time.Time{}}
}

func keyOf(l store.Lease) claimKey { return claimKey{l.Worker, l.Claim} }

// held returns the message that a lease holds, or nil if it is lost.
func (m *model) held(l store.Lease) *modelMessage {
	if msg := m.msgs[l.ID]; msg != nil && msg.state == store.Leased && msg.lease == l {
		return msg
	}
	return nil
}

func (m *model) insert(id int64, n store.NewMessage, now time.Time) {
	msg := &modelMessage{id: id, queue: n.Queue, priority: n.Priority}
	m.msgs[id] = msg
	msg.wait(n.Delay, now)
}

// wait makes the message delayed, or ready at once.
func (msg *modelMessage) wait(delay time.Duration, now time.Time) {
	msg.state, msg.lease, msg.started, msg.due = store.Ready, store.Lease{}, false, time.Time{}
	if delay > 0 {
		msg.state, msg.due = store.Delayed, now.Add(delay)
	}
}

func (msg *modelMessage) finish(state store.State) {
	msg.state, msg.lease, msg.started, msg.due = state, store.Lease{}, false, time.Time{}
}

// fail counts a failed attempt.
func (m *model) fail(msg *modelMessage, delay time.Duration, now time.Time) {
	msg.failed++
	msg.errors++
	if msg.failed >= m.max[msg.queue] {
		msg.finish(store.Dead)
		return
	}
	msg.wait(delay, now)
}

// giveBack takes away the leases that which chooses.
func (m *model) giveBack(now time.Time, which func(*modelMessage) bool) store.GivenBack {
	var n store.GivenBack
	for _, msg := range m.msgs {
		if msg.state != store.Leased || !which(msg) {
			continue
		}
		if msg.started {
			m.fail(msg, 0, now)
		} else {
			msg.wait(0, now)
		}
		if msg.state == store.Dead {
			n.Dead++
		} else {
			n.Ready++
		}
	}
	return n
}

// ranOut says whether a leased message's claim has run out.
func (m *model) ranOut(msg *modelMessage, now time.Time) bool {
	return now.After(m.claims[keyOf(msg.lease)])
}

// release gives back what a worker holds without costing attempts.
func (m *model) release(worker int64, now time.Time) int64 {
	var n int64
	for _, msg := range m.msgs {
		if msg.state == store.Leased && msg.lease.Worker == worker {
			msg.wait(0, now)
			n++
		}
	}
	return n
}

// settle returns the state that an outcome leads to, and whether its lease held.
func (m *model) settle(o store.Outcome, now time.Time) (store.State, bool) {
	msg := m.held(o.Lease)
	if msg == nil {
		return "", false
	}
	switch o.Kind {
	case store.OutcomeDone:
		msg.finish(store.Done)
	case store.OutcomeRetry:
		m.fail(msg, o.Delay, now)
	case store.OutcomeSnooze:
		msg.wait(o.Delay, now)
	case store.OutcomeDiscard:
		msg.failed++
		msg.errors++
		msg.finish(store.Dead)
	case store.OutcomeRelease:
		msg.wait(0, now)
	case store.OutcomeDelete:
		msg.finish("")
	}
	return msg.state, true
}

// take moves a waiting message to the archive, or says why it cannot be.
func (m *model) take(id int64, to store.State) error {
	msg := m.msgs[id]
	switch {
	case msg == nil || msg.state == "":
		return store.ErrNotFound
	case msg.state == store.Leased:
		return store.ErrLeased
	case msg.state.Archived():
		return store.ErrTerminal
	}
	if to != "" {
		msg.errors++
	}
	msg.finish(to)
	return nil
}

// replay puts a dead letter back.
func (m *model) replay(id int64, now time.Time) error {
	msg := m.msgs[id]
	switch {
	case msg == nil || msg.state == "" || !msg.state.Archived():
		return store.ErrNotFound
	case msg.state != store.Dead:
		return store.ErrTerminal
	}
	msg.failed = 0
	msg.wait(0, now)
	return nil
}

// inState lists messages by id, so that a run can be repeated.
func (m *model) inState(queue string, state store.State) []*modelMessage {
	var out []*modelMessage
	for _, msg := range m.msgs {
		if msg.state == state && (queue == "" || msg.queue == queue) {
			out = append(out, msg)
		}
	}
	slices.SortFunc(out, func(a, b *modelMessage) int { return cmp.Compare(a.id, b.id) })
	return out
}

// check compares every message of the store with the model.
func (m *model) check(f *fixture) {
	f.Helper()
	have := f.places()
	for id, msg := range m.msgs {
		got, found := have[id]
		delete(have, id)
		if !found {
			if msg.state != "" {
				f.Fatalf("message %d is nowhere, want it %s", id, msg.state)
			}
			continue
		}
		m.checkMessage(f, got, msg)
	}
	for id, got := range have {
		f.Fatalf("message %d is %s, but it was never enqueued", id, got.State)
	}
}

func (m *model) checkMessage(f *fixture, got store.Message, want *modelMessage) {
	f.Helper()
	if got.State != want.state || got.Queue != want.queue || got.Priority != want.priority ||
		got.Attempts != want.failed || len(got.Errors) != min(want.errors, store.MaxErrors) {
		f.Fatalf("message %d is %s on %s, priority %d, %d failed attempts, %d errors; want %+v",
			got.ID, got.State, got.Queue, got.Priority, got.Attempts, len(got.Errors), *want)
	}
	equalTime(f, "available at", got.AvailableAt, want.due)
	if want.state != store.Leased {
		return
	}
	if got.Worker != want.lease.Worker || got.Started != want.started || got.Attempt != want.failed+1 {
		f.Fatalf("leased message %d has worker %d, started %t, attempt %d; want %+v",
			got.ID, got.Worker, got.Started, got.Attempt, *want)
	}
	equalTime(f, "lease's end", got.LeaseExpiresAt, m.claims[keyOf(want.lease)])
}
