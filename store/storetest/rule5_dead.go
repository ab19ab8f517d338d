package storetest

import (
	"encoding/json"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 5: a worker that dies (no heartbeat within the limit) loses its leases.
// Each process start registers a new worker row, under a slot, so that a daemon
// started again knows its own corpse and does not rob another.
func deadWorkerCases() []testCase {
	return []testCase{
		{"NoHeartbeatLosesItsLeases", deadLosesLeases},
		{"HeartbeatKeepsThem", heartbeatKeeps},
		{"BatchedHeartbeatKeepsThem", batchedHeartbeatKeeps},
		{"StartedLosesAnAttempt", deadStarted},
		{"LastAttemptIsDeadWithItsError", deadLastAttempt},
		{"SuspendedOnesToo", deadSuspended},
		{"EveryKindOfWorker", deadKinds},
		{"StoppedOnesAreLeftAlone", deadStopped},
		{"LateWritesChangeNothing", deadLateWrites},
		{"SlotIsReclaimedAtOnce", slotAtOnce},
		{"SlotsDoNotRobEachOther", slotsApart},
		{"NoSlotIsNobodysSlot", noSlot},
		{"IDsAreNeverReused", workerIDsNotReused},
		{"SameNameTwice", sameNameTwice},
	}
}

const silence = 5 * time.Minute

// reclaim declares dead who was silent and checks the counts.
func (f *fixture) reclaim(a store.Admin, want store.GivenBack) {
	f.Helper()
	got, err := a.Reclaim(f.ctx, silence)
	f.ok(err)
	equal(f, "reclaimed", got, want)
}

func (f *fixture) reclaimSlot(a store.Admin, slot string, want store.GivenBack) {
	f.Helper()
	got, err := a.ReclaimSlot(f.ctx, slot)
	f.ok(err)
	equal(f, "reclaimed of slot "+slot, got, want)
}

// fallSilent lets time pass until whoever has not sent a heartbeat is dead.
func (f *fixture) fallSilent(alive ...store.Worker) {
	f.Helper()
	f.clock.Advance(silence + time.Millisecond)
	for _, w := range alive {
		f.ok(w.Heartbeat(f.ctx))
	}
}

// takeLong leases n messages for so long that only death ends the lease.
func (f *fixture) takeLong(c store.Consumer, n int) []store.LeasedMessage {
	f.Helper()
	got, err := c.Dequeue(f.ctx, n, 100*silence)
	f.ok(err)
	equal(f, "messages leased", len(got), n)
	return got
}

func (f *fixture) worker(id int64) store.WorkerRecord {
	f.Helper()
	w, err := f.s.Workers().Get(f.ctx, id)
	f.ok(err)
	return w
}

func deadLosesLeases(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 3)
	a, c := f.admin(), f.consumer(q)
	f.takeLong(c, 3)
	f.reclaim(a, store.GivenBack{})
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1, Ready: 3})
	w := f.worker(c.ID())
	equal(f, "state of the dead worker", w.State, store.WorkerStopped)
	equal(f, "reclaimed", w.Reclaimed, true)
	equalIDs(f, "messages that came back", leasedIDs(f.take(f.consumer(q), 3)), ids)
	f.reclaim(a, store.GivenBack{})
}

func heartbeatKeeps(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	a, c := f.admin(), f.consumer(q)
	l := f.takeLong(c, 1)
	for range 5 {
		f.clock.Advance(silence - time.Second)
		f.ok(a.Heartbeat(f.ctx))
		f.ok(c.Heartbeat(f.ctx))
		f.clock.Advance(2 * time.Second)
		f.reclaim(a, store.GivenBack{})
	}
	f.done(c, l...)
}

func batchedHeartbeatKeeps(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	a, b, c := f.admin(), f.consumer(q), f.consumer(q)
	lb, lc := f.takeLong(b, 1), f.takeLong(c, 1)
	f.fallSilent()
	states, err := f.s.Workers().Heartbeat(f.ctx, a.ID(), b.ID(), c.ID())
	f.ok(err)
	equal(f, "workers that live", len(states), 3)
	f.reclaim(a, store.GivenBack{})
	f.done(b, lb...)
	f.done(c, lc...)
}

func deadStarted(f *fixture) {
	q := f.queue("q", attempts(3))
	f.enqueue(q, 3)
	a, c := f.admin(), f.consumer(q)
	got := f.takeLong(c, 3)
	f.start(c, got[0], got[2])
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1, Ready: 3})
	f.hasErrors(f.state(got[0].ID, store.Ready, 1), 1)
	f.hasErrors(f.state(got[1].ID, store.Ready, 0), 0)
	f.hasErrors(f.state(got[2].ID, store.Ready, 1), 1)
}

func deadLastAttempt(f *fixture) {
	q := f.queue("q", attempts(1))
	f.enqueue(q, 2)
	a, c := f.admin(), f.consumer(q)
	got := f.takeLong(c, 2)
	f.start(c, got[0])
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1, Ready: 1, Dead: 1})
	m := f.state(got[0].ID, store.Dead, 1)
	f.hasErrors(m, 1)
	equal(f, "worker", m.Worker, c.ID())
	f.state(got[1].ID, store.Ready, 0)
}

func deadSuspended(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	a, c := f.admin(), f.consumer(q)
	f.takeLong(c, 1)
	f.ok(c.Suspend(f.ctx))
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1, Ready: 1})
	equal(f, "state of the dead worker", f.worker(c.ID()).State, store.WorkerStopped)
}

func deadKinds(f *fixture) {
	q := f.queue("q")
	a, other := f.admin(), f.admin()
	p, c := f.producer(), f.consumer(q)
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 3})
	for _, w := range []store.Worker{other, p, c} {
		equal(f, "state of a dead worker", f.worker(w.ID()).State, store.WorkerStopped)
	}
	equal(f, "state of the live one", f.worker(a.ID()).State, store.WorkerReady)
	_, err := p.Enqueue(f.ctx, messages(q, 1)[0])
	f.notReady(err, p.ID(), store.WorkerStopped)
}

func deadStopped(f *fixture) {
	q := f.queue("q")
	a, c := f.admin(), f.consumer(q)
	f.ok(c.Suspend(f.ctx))
	f.ok(c.Shutdown(f.ctx))
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{})
	equal(f, "reclaimed", f.worker(c.ID()).Reclaimed, false)
}

func deadLateWrites(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	a, c := f.admin(), f.consumer(q)
	l := f.takeLong(c, 1)[0]
	f.fallSilent(a)
	f.reclaim(a, store.GivenBack{Workers: 1, Ready: 1})
	f.settleIs(c, store.ErrLeaseLost, outcome(l, store.OutcomeDone))
	_, err := c.Dequeue(f.ctx, 1, lease)
	f.notReady(err, c.ID(), store.WorkerStopped)
	states, err := f.s.Workers().Heartbeat(f.ctx, c.ID())
	f.ok(err)
	equal(f, "state of the dead worker", states[c.ID()], store.WorkerStopped)
	b := f.consumer(q)
	f.done(b, f.take1(b))
}

func slotAtOnce(f *fixture) {
	q := f.queue("q", attempts(2))
	f.enqueue(q, 3)
	slot := store.WorkerOptions{Name: "host/0", Slot: "host-0"}
	c := f.consumer(q, slot)
	_, err := f.s.Producer(f.ctx, store.ProducerOptions{WorkerOptions: slot})
	f.ok(err)
	got := f.takeLong(c, 3)
	f.start(c, got[1])
	a := f.on(f.second()).admin()
	f.reclaimSlot(a, "host-0", store.GivenBack{Workers: 2, Ready: 3})
	f.state(got[0].ID, store.Ready, 0)
	f.state(got[1].ID, store.Ready, 1)
	f.settleIs(c, store.ErrLeaseLost, outcome(got[0], store.OutcomeDone))
	equal(f, "state of the corpse", f.worker(c.ID()).State, store.WorkerStopped)
	equal(f, "reclaimed", f.worker(c.ID()).Reclaimed, true)
	f.reclaimSlot(a, "host-0", store.GivenBack{})
	f.take(f.consumer(q, slot), 3)
}

func slotsApart(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	a := f.admin()
	c0 := f.consumer(q, store.WorkerOptions{Name: "host/0", Slot: "host-0"})
	c1 := f.consumer(q, store.WorkerOptions{Name: "host/0", Slot: "host-1"})
	l0, l1 := f.takeLong(c0, 1), f.takeLong(c1, 1)
	f.reclaimSlot(a, "host-0", store.GivenBack{Workers: 1, Ready: 1})
	f.settleIs(c0, store.ErrLeaseLost, outcome(l0[0], store.OutcomeDone))
	f.done(c1, l1...)
	f.reclaimSlot(a, "host-2", store.GivenBack{})
}

func noSlot(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	a, c := f.admin(), f.consumer(q)
	l := f.takeLong(c, 1)
	_, err := a.ReclaimSlot(f.ctx, "")
	f.is(err, store.ErrInvalid)
	f.done(c, l...)
}

func workerIDsNotReused(f *fixture) {
	var last int64
	for range 4 {
		id, err := f.s.Workers().Insert(f.ctx, store.KindAdmin, "", store.WorkerOptions{Name: "n"})
		f.ok(err)
		if id <= last {
			f.Fatalf("worker id %d came after %d", id, last)
		}
		last = id
		f.stop(id)
		f.ok(f.s.Workers().Delete(f.ctx, id))
	}
}

// stop suspends a worker and shuts it down.
func (f *fixture) stop(id int64) {
	f.Helper()
	f.ok(f.s.Workers().Transition(f.ctx, id, store.WorkerSuspended))
	f.ok(f.s.Workers().Transition(f.ctx, id, store.WorkerStopped))
}

func sameNameTwice(f *fixture) {
	q := f.queue("q")
	o := store.WorkerOptions{Name: "host/0", Slot: "s", Info: json.RawMessage(`{"pid":1}`)}
	a, b := f.consumer(q, o), f.consumer(q, o)
	if a.ID() == b.ID() {
		f.Fatalf("two workers registered as one, %d", a.ID())
	}
	n, err := f.s.Workers().Count(f.ctx, store.WorkerFilter{Queue: q})
	f.ok(err)
	equal(f, "workers", n, 2)
}
