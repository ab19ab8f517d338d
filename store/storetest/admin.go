package storetest

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func adminCases() []testCase {
	return []testCase{
		{"Queues", adminQueues},
		{"WorkerMessages", adminWorkerMessages},
		{"ReleaseWorker", adminReleaseWorker},
		{"ListAndDeleteWorkers", adminWorkers},
		{"PurgeWorkers", adminPurgeWorkers},
		{"WorkerStats", adminWorkerStats},
		{"WorkerHealth", adminWorkerHealth},
		{"DeadLetter", adminDeadLetter},
	}
}

func adminQueues(f *fixture) {
	a := f.admin()
	made, err := a.CreateQueue(f.ctx, "q", attempts(3))
	f.ok(err)
	got, err := a.GetQueue(f.ctx, "q")
	f.ok(err)
	equal(f, "id", got.ID, made.ID)
	equal(f, "max attempts", got.MaxAttempts, 3)
	_, err = a.CreateQueue(f.ctx, "q", store.QueuePolicy{})
	f.is(err, store.ErrExists)
	_, err = a.CreateQueue(f.ctx, "no such", store.QueuePolicy{})
	f.is(err, store.ErrInvalid)
	_, err = a.GetQueue(f.ctx, "p")
	f.unknownQueue(err, "p")
	f.enqueue("q", 2)
	f.is(a.DeleteQueue(f.ctx, "q", false), store.ErrNotEmpty)
	n, err := a.PurgeQueue(f.ctx, "q")
	f.ok(err)
	equal(f, "messages purged", n, 2)
	f.ok(a.DeleteQueue(f.ctx, "q", false))
	f.unknownQueue(a.DeleteQueue(f.ctx, "q", true), "q")
	_, err = a.PurgeQueue(f.ctx, "q")
	f.unknownQueue(err, "q")
}

func adminWorkerMessages(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	ids := f.enqueue(q, 9)
	c, other := f.consumer(q), f.consumer(q)
	first := f.take(c, 3)
	f.take(other, 2)
	f.take(c, 4)
	f.start(c, first[1])
	held := append(append([]int64{}, ids[:3]...), ids[5:]...)
	for _, limit := range []int{1, 3, 20} {
		equalIDs(f, "messages held", f.pages(limit, func(p store.Page) ([]store.Message, error) {
			return a.WorkerMessages(f.ctx, c.ID(), p)
		}), held)
	}
	list, err := a.WorkerMessages(f.ctx, c.ID(), store.Page{})
	f.ok(err)
	for i, m := range list {
		equal(f, "state", m.State, store.Leased)
		equal(f, "worker", m.Worker, c.ID())
		equal(f, "attempt", m.Attempt, 1)
		equal(f, "started", m.Started, i == 1)
		equalTime(f, "lease's end", m.LeaseExpiresAt, f.clock.Now().Add(lease))
	}
	_, err = a.WorkerMessages(f.ctx, missing, store.Page{})
	f.is(err, store.ErrNotFound)
}

func adminReleaseWorker(f *fixture) {
	a := f.admin()
	q := f.queue("q", attempts(1))
	ids := f.enqueue(q, 4)
	c, other := f.consumer(q), f.consumer(q)
	got := append(f.take(c, 2), f.take(c, 1)...)
	kept := f.take1(other)
	f.start(c, got[0])
	n, err := a.ReleaseWorker(f.ctx, c.ID())
	f.ok(err)
	equal(f, "messages released", n, 3)
	for _, id := range ids[:3] {
		equal(f, "errors", len(f.state(id, store.Ready, 0).Errors), 0)
	}
	f.done(other, kept)
	equal(f, "state of the worker", f.worker(c.ID()).State, store.WorkerReady)
	f.settleIs(c, store.ErrLeaseLost, outcome(got[2], store.OutcomeDone))
	n, err = a.ReleaseWorker(f.ctx, c.ID())
	f.ok(err)
	equal(f, "messages released", n, 0)
	_, err = a.ReleaseWorker(f.ctx, missing)
	f.is(err, store.ErrNotFound)
	f.take(c, 3)
}

func adminWorkers(f *fixture) {
	a := f.admin()
	p := f.producer()
	list, err := a.ListWorkers(f.ctx, store.WorkerFilter{Kind: store.KindProducer})
	f.ok(err)
	equal(f, "producers", len(list), 1)
	equal(f, "id", list[0].ID, p.ID())
	equal(f, "state in the error", as[*store.TransitionError](f, a.DeleteWorker(f.ctx, p.ID())).From, store.WorkerReady)
	f.stop(p.ID())
	f.ok(a.DeleteWorker(f.ctx, p.ID()))
	f.is(a.DeleteWorker(f.ctx, p.ID()), store.ErrNotFound)
}

func adminPurgeWorkers(f *fixture) {
	a := f.admin()
	old, young, live := f.producer(), f.producer(), f.producer()
	f.stop(old.ID())
	f.clock.Advance(2 * time.Hour)
	f.stop(young.ID())
	f.clock.Advance(time.Minute)
	purge := func(olderThan time.Duration, want int64) {
		f.Helper()
		n, err := a.PurgeWorkers(f.ctx, olderThan)
		f.ok(err)
		equal(f, "workers purged", n, want)
	}
	purge(3*time.Hour, 0)
	// The young one's last heartbeat is as old, but it stopped later.
	purge(time.Hour, 1)
	_, err := f.s.Workers().Get(f.ctx, old.ID())
	f.is(err, store.ErrNotFound)
	f.worker(young.ID())
	purge(0, 1)
	f.worker(live.ID())
	f.worker(a.ID())
}

func adminWorkerStats(f *fixture) {
	a := f.admin()
	q, other := f.queue("q"), f.queue("other")
	f.queue("nobody")
	f.producer()
	f.enqueue(q, 3)
	c, s, x := f.consumer(q), f.consumer(q), f.consumer(q)
	f.consumer(other)
	f.take(c, 2)
	f.ok(s.Suspend(f.ctx))
	f.stop(x.ID())
	f.clock.Advance(30 * time.Second)
	f.ok(s.Heartbeat(f.ctx))
	want := store.WorkerStats{Queue: q, Ready: 1, Suspended: 1, Stopped: 1, Leased: 2, OldestHeartbeatAge: 30 * time.Second}
	got, err := a.WorkerStats(f.ctx, q)
	f.ok(err)
	equal(f, "queues", len(got), 1)
	equal(f, "stats", got[0], want)
	all, err := a.WorkerStats(f.ctx, "")
	f.ok(err)
	equal(f, "queues with consumers", len(all), 2)
	for _, st := range all {
		if st.Queue == q {
			equal(f, "stats", st, want)
		} else {
			equal(f, "stats", st, store.WorkerStats{Queue: other, Ready: 1, OldestHeartbeatAge: 30 * time.Second})
		}
	}
	none, err := a.WorkerStats(f.ctx, "nobody")
	f.ok(err)
	equal(f, "queues", len(none), 0)
}

func adminWorkerHealth(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	stale, suspended, stopped := f.consumer(q), f.consumer(q), f.consumer(q)
	f.ok(suspended.Suspend(f.ctx))
	f.stop(stopped.ID())
	f.clock.Advance(lease)
	f.ok(a.Heartbeat(f.ctx))
	f.ok(suspended.Heartbeat(f.ctx))
	r, err := a.WorkerHealth(f.ctx, lease/2)
	f.ok(err)
	equal(f, "healthy", r.Healthy, 1)
	equal(f, "stale", r.Stale, 1)
	equal(f, "suspended", r.Suspended, 1)
	equal(f, "stopped", r.Stopped, 1)
	equal(f, "stale workers", len(r.StaleWorkers), 1)
	equal(f, "stale worker", r.StaleWorkers[0].ID, stale.ID())
	equal(f, "heartbeat age", r.StaleWorkers[0].HeartbeatAge, lease)
}

func adminDeadLetter(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	c := f.consumer(q)
	leased := f.enqueue1(q)
	f.take1(c)
	ready, delayed := f.enqueue1(q), f.enqueue1(q, withDelay(lease))
	errs, err := a.DeadLetter(f.ctx, "beyond help", ready, leased, delayed, missing)
	f.eachIs(errs, err, nil, store.ErrLeased, nil, store.ErrNotFound)
	for _, id := range []int64{ready, delayed} {
		m := f.state(id, store.Dead, 0)
		equal(f, "errors", len(m.Errors), 1)
		equal(f, "reason", m.Errors[0].Error, "beyond help")
		equalTime(f, "finished at", m.FinishedAt, f.clock.Now())
	}
	errs, err = a.DeadLetter(f.ctx, "again", ready)
	f.eachIs(errs, err, store.ErrTerminal)
	errs, err = f.s.Archive().Replay(f.ctx, ready, delayed)
	f.allOK(errs, err)
	f.take(c, 2)
}
