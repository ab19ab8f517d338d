package storetest

import (
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func outcomeCases() []testCase {
	return []testCase{
		{"Done", outcomeDone},
		{"DoneWithoutOutput", outcomeDoneEmpty},
		{"Retry", outcomeRetry},
		{"RetryAtOnce", outcomeRetryAtOnce},
		{"RetryOfTheLastAttempt", outcomeRetryLast},
		{"Snooze", outcomeSnooze},
		{"SnoozeCostsNothing", outcomeSnoozeForEver},
		{"Discard", outcomeDiscard},
		{"Release", outcomeRelease},
		{"Delete", outcomeDelete},
		{"ErrorsAreCapped", outcomeErrorsCapped},
		{"ErrorsSurviveEveryPlace", outcomeErrorsSurvive},
		{"DefaultMaxAttempts", outcomeDefaultAttempts},
		{"StartedCountsOnce", outcomeStartedOnce},
	}
}

// leased1 makes a queue with that many attempts and leases its one message.
func (f *fixture) leased1(n int) (store.Consumer, store.LeasedMessage) {
	f.Helper()
	q := f.queue("q", attempts(n))
	f.enqueue(q, 1)
	c := f.consumer(q)
	return c, f.take1(c)
}

func outcomeDone(f *fixture) {
	c, l := f.leased1(3)
	now := f.clock.Advance(time.Second)
	f.settleAs(c, store.Done, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone, Output: []byte(`{"lines": 3}`)})
	m := f.state(l.ID, store.Done, 0)
	equal(f, "output", string(m.Output), `{"lines": 3}`)
	equal(f, "worker", m.Worker, c.ID())
	equal(f, "errors", len(m.Errors), 0)
	equalTime(f, "finished at", m.FinishedAt, now)
	f.takeNone(c)
}

func outcomeDoneEmpty(f *fixture) {
	c, l := f.leased1(3)
	f.settleAs(c, store.Done, outcome(l, store.OutcomeDone))
	equal(f, "length of the output", len(f.get(l.ID).Output), 0)
}

func outcomeRetry(f *fixture) {
	c, l := f.leased1(3)
	f.start(c, l)
	now := f.clock.Advance(time.Second)
	f.settleAs(c, store.Delayed, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: "no route to host", Delay: lease})
	m := f.state(l.ID, store.Delayed, 1)
	equalTime(f, "available at", m.AvailableAt, now.Add(lease))
	equal(f, "errors", len(m.Errors), 1)
	e := m.Errors[0]
	if e.Attempt != 1 || e.Error != "no route to host" || e.Worker != c.ID() {
		f.Fatalf("error is %+v", e)
	}
	equalTime(f, "error's time", e.At, now)
	f.takeNone(c)
	f.clock.Advance(lease)
	_, _, err := f.admin().Promote(f.ctx, 10)
	f.ok(err)
	equal(f, "attempt", f.take1(c).Attempt, 2)
}

func outcomeRetryAtOnce(f *fixture) {
	c, l := f.leased1(3)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRetry))
	l = f.take1(c)
	equal(f, "attempt", l.Attempt, 2)
	f.done(c, l)
	f.hasErrors(f.state(l.ID, store.Done, 1), 1)
}

func outcomeRetryLast(f *fixture) {
	c, l := f.leased1(2)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRetry))
	l = f.take1(c)
	now := f.clock.Advance(time.Second)
	// The delay has no meaning any more.
	f.settleAs(c, store.Dead, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: "the last", Delay: lease})
	m := f.state(l.ID, store.Dead, 2)
	f.hasErrors(m, 2)
	equal(f, "last error", m.Errors[1].Error, "the last")
	equal(f, "worker", m.Worker, c.ID())
	equalTime(f, "finished at", m.FinishedAt, now)
	equal(f, "length of the output", len(m.Output), 0)
}

func outcomeSnooze(f *fixture) {
	c, l := f.leased1(1)
	f.start(c, l)
	f.settleAs(c, store.Delayed, store.Outcome{Lease: l.Lease, Kind: store.OutcomeSnooze, Delay: lease})
	m := f.state(l.ID, store.Delayed, 0)
	equalTime(f, "available at", m.AvailableAt, f.clock.Now().Add(lease))
	equal(f, "errors", len(m.Errors), 0)
	f.takeNone(c)
}

func outcomeSnoozeForEver(f *fixture) {
	c, l := f.leased1(1)
	for range 10 {
		f.start(c, l)
		f.settleAs(c, store.Ready, outcome(l, store.OutcomeSnooze))
		l = f.take1(c)
		equal(f, "attempt", l.Attempt, 1)
	}
}

func outcomeDiscard(f *fixture) {
	c, l := f.leased1(5)
	now := f.clock.Advance(time.Second)
	f.settleAs(c, store.Dead, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDiscard, Error: "no such file"})
	m := f.state(l.ID, store.Dead, 1)
	f.hasErrors(m, 1)
	equal(f, "error", m.Errors[0].Error, "no such file")
	equal(f, "worker", m.Worker, c.ID())
	equalTime(f, "finished at", m.FinishedAt, now)
	f.takeNone(c)
}

func outcomeRelease(f *fixture) {
	c, l := f.leased1(1)
	for range 5 {
		f.start(c, l)
		f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
		m := f.state(l.ID, store.Ready, 0)
		if m.Worker != 0 || len(m.Errors) != 0 {
			f.Fatalf("a released message shows %+v", m)
		}
		l = f.take1(c)
		equal(f, "attempt", l.Attempt, 1)
	}
}

func outcomeDelete(f *fixture) {
	c, l := f.leased1(1)
	f.settleAs(c, "", outcome(l, store.OutcomeDelete))
	f.gone(l.ID)
	f.takeNone(c)
	equal(f, "messages in all", len(f.ledger()), 0)
}

// outcomeErrorsCapped: the newest MaxErrors are kept, whichever way an attempt failed.
func outcomeErrorsCapped(f *fixture) {
	const n = store.MaxErrors + 6
	c, l := f.leased1(n)
	for i := 1; i <= n; i++ {
		equal(f, "attempt", l.Attempt, i)
		if i%4 == 0 {
			f.start(c, l)
			f.runOut()
			if i == n {
				f.takeNone(c)
			}
		} else {
			f.settle(c, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: fmt.Sprintf("error %d", i)})
		}
		if i == n {
			break
		}
		l = f.take1(c)
		m := f.state(l.ID, store.Leased, i)
		equal(f, "errors kept", len(m.Errors), min(i, store.MaxErrors))
		equal(f, "attempt of the newest error", m.Errors[len(m.Errors)-1].Attempt, i)
		equal(f, "attempt of the oldest error", m.Errors[0].Attempt, max(1, i-store.MaxErrors+1))
	}
	m := f.state(l.ID, store.Dead, n)
	equal(f, "errors kept", len(m.Errors), store.MaxErrors)
	equal(f, "newest error", m.Errors[store.MaxErrors-1].Error, fmt.Sprintf("error %d", n))
	for i, e := range m.Errors {
		equal(f, "attempt of an error", e.Attempt, n-store.MaxErrors+1+i)
	}
}

func outcomeErrorsSurvive(f *fixture) {
	c, l := f.leased1(9)
	a := f.admin()
	has := func(state store.State) {
		f.Helper()
		m := f.get(l.ID)
		equal(f, "state", m.State, state)
		equal(f, "attempts", m.Attempts, 1)
		f.hasErrors(m, 1)
	}
	f.settleAs(c, store.Delayed, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: "once", Delay: lease})
	has(store.Delayed)
	f.clock.Advance(lease)
	_, _, err := a.Promote(f.ctx, 1)
	f.ok(err)
	has(store.Ready)
	l = f.take1(c)
	has(store.Leased)
	f.settleAs(c, store.Delayed, store.Outcome{Lease: l.Lease, Kind: store.OutcomeSnooze, Delay: lease})
	has(store.Delayed)
	f.clock.Advance(lease)
	_, _, err = a.Promote(f.ctx, 1)
	f.ok(err)
	l = f.take1(c)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRelease))
	has(store.Ready)
	l = f.take1(c)
	f.runOut()
	f.gaveBack(a, store.GivenBack{Ready: 1})
	has(store.Ready)
	l = f.take1(c)
	f.done(c, l)
	has(store.Done)
}

func outcomeDefaultAttempts(f *fixture) {
	q := f.queue("q")
	id := f.enqueue1(q)
	c := f.consumer(q)
	for range store.DefaultMaxAttempts {
		l := f.take1(c)
		equal(f, "max attempts", l.MaxAttempts, store.DefaultMaxAttempts)
		f.settle(c, outcome(l, store.OutcomeRetry))
	}
	f.state(id, store.Dead, store.DefaultMaxAttempts)
}

// outcomeStartedOnce: an attempt that was recorded as started and then settled
// as retry failed once, not twice; and what had started before is forgotten.
func outcomeStartedOnce(f *fixture) {
	c, l := f.leased1(9)
	f.start(c, l)
	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRetry))
	f.state(l.ID, store.Ready, 1)
	f.take1(c) // not started this time
	f.runOut()
	equal(f, "attempt", f.take1(c).Attempt, 2)
}
