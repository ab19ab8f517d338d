package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func archiveCases() []testCase {
	return []testCase{
		{"InsertCancels", archiveInsert},
		{"GetOnlyArchived", archiveGet},
		{"ListIsPaged", archiveList},
		{"Delete", archiveDelete},
		{"PurgeByAgeAndState", archivePurge},
		{"PurgeTakesSteps", archivePurgeSteps},
		{"Replay", archiveReplay},
		{"ReplayIsFoundBelowNewerOnes", archiveReplayFound},
		{"ReplayErrors", archiveReplayErrors},
		{"ReplayRunsAllAttemptsAgain", archiveReplayAttempts},
	}
}

// archived makes one done, one dead and one cancelled message and returns their ids in this order.
func (f *fixture) archived(q string) [3]int64 {
	f.Helper()
	ids := f.enqueue(q, 3)
	c := f.consumer(q)
	got := f.take(c, 3)
	f.settle(c, store.Outcome{Lease: got[0].Lease, Kind: store.OutcomeDone, Output: []byte(`1`)},
		outcome(got[1], store.OutcomeDiscard), outcome(got[2], store.OutcomeRelease))
	errs, err := f.s.Archive().Insert(f.ctx, "not wanted", ids[2])
	f.allOK(errs, err)
	return [3]int64(ids)
}

func archiveInsert(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	leased := f.enqueue1(q)
	f.take1(c)
	ready := f.enqueue1(q, withPriority(3))
	delayed := f.enqueue1(q, withDelay(lease))
	errs, err := f.s.Archive().Insert(f.ctx, "not \x00 wanted", ready, leased, delayed, missing)
	f.eachIs(errs, err, nil, store.ErrLeased, nil, store.ErrNotFound)
	for _, id := range []int64{ready, delayed} {
		m := f.state(id, store.Cancelled, 0)
		equalTime(f, "finished at", m.FinishedAt, f.clock.Now())
		equal(f, "errors", len(m.Errors), 1)
		equal(f, "reason", m.Errors[0].Error, store.CleanText("not \x00 wanted"))
	}
	equal(f, "priority", f.get(ready).Priority, 3)
	errs, err = f.s.Archive().Insert(f.ctx, "again", ready)
	f.eachIs(errs, err, store.ErrTerminal)
	f.state(leased, store.Leased, 0)
	f.takeNone(c)
	errs, err = f.s.Archive().Insert(f.ctx, "none")
	f.ok(err)
	equal(f, "results", len(errs), 0)
}

func archiveGet(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	for i, want := range []store.State{store.Done, store.Dead, store.Cancelled} {
		m, err := f.s.Archive().Get(f.ctx, ids[i])
		f.ok(err)
		equal(f, "state", m.State, want)
		equal(f, "queue", m.Queue, q)
	}
	_, err := f.s.Archive().Get(f.ctx, missing)
	f.is(err, store.ErrNotFound)
}

func archiveList(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	var all, dead []int64
	for range 4 {
		ids := f.archived(q)
		all = append(all, ids[:]...)
		dead = append(dead, ids[1])
	}
	f.archived(other)
	f.enqueue(q, 2)
	for _, limit := range []int{1, 5, 12, 50} {
		list := func(state store.State) func(store.Page) ([]store.Message, error) {
			return func(p store.Page) ([]store.Message, error) {
				return f.s.Archive().List(f.ctx, store.MessageFilter{Queue: q, State: state, Page: p})
			}
		}
		equalIDs(f, "archived messages", f.pages(limit, list("")), all)
		equalIDs(f, "dead letters", f.pages(limit, list(store.Dead)), dead)
	}
	for filter, want := range map[store.MessageFilter]int64{
		{}: 15, {Queue: q}: 12, {Queue: q, State: store.Done}: 4, {State: store.Cancelled}: 5,
		{Queue: other, State: store.Dead}: 1, {Queue: q, Page: store.Page{Limit: 1, After: all[5]}}: 12,
	} {
		n, err := f.s.Archive().Count(f.ctx, filter)
		f.ok(err)
		equal(f, fmt.Sprintf("count of %+v", filter), n, want)
	}
}

func archiveDelete(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	f.ok(f.s.Archive().Delete(f.ctx, ids[1]))
	f.gone(ids[1])
	f.is(f.s.Archive().Delete(f.ctx, ids[1]), store.ErrNotFound)
	live := f.enqueue1(q)
	f.is(f.s.Archive().Delete(f.ctx, live), store.ErrNotFound)
	f.state(live, store.Ready, 0)
	f.state(ids[0], store.Done, 0)
}

func archivePurge(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	old := f.archived(q)
	f.archived(other)
	f.clock.Advance(time.Hour)
	young := f.archived(q)
	purge := func(olderThan time.Duration, want int64, states ...store.State) {
		f.Helper()
		n, err := f.s.Archive().Purge(f.ctx, q, olderThan, states...)
		f.ok(err)
		equal(f, "archived messages purged", n, want)
	}
	purge(2*time.Hour, 0)
	purge(30*time.Minute, 1, store.Dead)
	f.gone(old[1])
	f.state(young[1], store.Dead, 1)
	purge(30*time.Minute, 2)
	f.gone(old[0])
	f.gone(old[2])
	f.clock.Advance(time.Millisecond)
	purge(0, 2, store.Done, store.Cancelled)
	f.state(young[1], store.Dead, 1)
	purge(0, 1)
	n, err := f.s.Archive().Count(f.ctx, store.MessageFilter{})
	f.ok(err)
	equal(f, "archived messages of the other queue", n, 3)
}

// archivePurgeSteps: with a run go its steps and its key.
func archivePurgeSteps(f *fixture) {
	q, id := f.finishedRun("k")
	f.clock.Advance(time.Second)
	n, err := f.s.Archive().Purge(f.ctx, q, 0)
	f.ok(err)
	equal(f, "archived messages purged", n, 1)
	f.noSteps(id)
	f.run(q, "k")
}

func archiveReplay(f *fixture) {
	q := f.queue("q", attempts(2))
	id := f.enqueue1(q, withPriority(4), func(_ int, m *store.NewMessage) { m.Headers = map[string]string{"k": "v"} })
	at := f.clock.Now()
	c := f.consumer(q)
	f.settleAs(c, store.Ready, outcome(f.take1(c), store.OutcomeRetry))
	f.settleAs(c, store.Dead, outcome(f.take1(c), store.OutcomeRetry))
	f.state(id, store.Dead, 2)
	f.clock.Advance(time.Hour)
	errs, err := f.s.Archive().Replay(f.ctx, id)
	f.allOK(errs, err)
	m := f.state(id, store.Ready, 0)
	f.hasErrors(m, 2)
	equal(f, "priority", m.Priority, 4)
	equal(f, "header", m.Headers["k"], "v")
	equal(f, "payload", string(m.Payload), string(payload(0)))
	equalTime(f, "enqueued at", m.EnqueuedAt, at)
	if !m.FinishedAt.IsZero() || m.Worker != 0 {
		f.Fatalf("a replayed message shows %+v", m)
	}
	n, err := f.s.Archive().Count(f.ctx, store.MessageFilter{})
	f.ok(err)
	equal(f, "archived messages", n, 0)
	l := f.take1(c)
	equal(f, "attempt", l.Attempt, 1)
	f.done(c, l)
	equal(f, "errors of the finished message", len(f.state(id, store.Done, 0).Errors), 2)
}

// archiveReplayFound: a replayed id lies below all that were leased since, and
// is leased all the same.
func archiveReplayFound(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	first := f.enqueue1(q)
	f.settle(c, outcome(f.take1(c), store.OutcomeDiscard))
	f.enqueue(q, 200)
	f.done(c, f.take(c, 200)...)
	f.takeNone(c)
	errs, err := f.s.Archive().Replay(f.ctx, first)
	f.allOK(errs, err)
	l := f.take1(c)
	equal(f, "message", l.ID, first)

	// Also beside newer ones.
	f.settleAs(c, store.Dead, outcome(l, store.OutcomeDiscard))
	newer := f.enqueue(q, 20)
	f.take(c, 10)
	errs, err = f.s.Archive().Replay(f.ctx, first)
	f.allOK(errs, err)
	rest := leasedIDs(f.take(c, 11))
	slices.Sort(rest)
	equalIDs(f, "messages leased", rest, append([]int64{first}, newer[10:]...))
}

func archiveReplayErrors(f *fixture) {
	q := f.queue("q")
	ids := f.archived(q)
	live := f.enqueue1(q)
	errs, err := f.s.Archive().Replay(f.ctx, ids[0], ids[1], ids[2], live, missing)
	f.eachIs(errs, err, store.ErrTerminal, nil, store.ErrTerminal, store.ErrNotFound, store.ErrNotFound)
	f.state(ids[0], store.Done, 0)
	f.state(ids[1], store.Ready, 0)
	f.state(ids[2], store.Cancelled, 0)
	f.state(live, store.Ready, 0)
}

func archiveReplayAttempts(f *fixture) {
	q := f.queue("q", attempts(2))
	id := f.enqueue1(q)
	c := f.consumer(q)
	for round := range 3 {
		for n := 1; n <= 2; n++ {
			l := f.take1(c)
			equal(f, "attempt", l.Attempt, n)
			f.settle(c, outcome(l, store.OutcomeRetry))
		}
		equal(f, "errors kept", len(f.state(id, store.Dead, 2).Errors), 2*(round+1))
		errs, err := f.s.Archive().Replay(f.ctx, id)
		f.allOK(errs, err)
	}
}
