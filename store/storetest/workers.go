package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func workerCases() []testCase {
	return []testCase{
		{"InsertAndGet", workerInsert},
		{"GetMissing", workerMissing},
		{"ListIsPagedAndFiltered", workerList},
		{"ListShowsHeartbeatAgeAndLeased", workerListShows},
		{"Delete", workerDelete},
		{"Heartbeat", workerHeartbeat},
		{"States", workerStates},
		{"SetInfo", workerSetInfo},
		{"BadInfo", workerBadInfo},
		{"IsHealthy", workerIsHealthy},
		{"EphemeralCloseRemovesTheRow", ephemeralClose},
		{"EphemeralCloseReleasesMessages", ephemeralReleases},
		{"NamedCloseLeavesEverything", namedClose},
	}
}

func workerInsert(f *fixture) {
	q := f.queue("q")
	id, err := f.s.Workers().Insert(f.ctx, store.KindConsumer, q, store.WorkerOptions{
		Name: "host/0", Slot: "host-0", Info: json.RawMessage(`{"pid": 42}`),
	})
	f.ok(err)
	w := f.worker(id)
	equal(f, "id", w.ID, id)
	equal(f, "name", w.Name, "host/0")
	equal(f, "kind", w.Kind, store.KindConsumer)
	equal(f, "queue", w.Queue, q)
	equal(f, "state", w.State, store.WorkerReady)
	equal(f, "slot", w.Slot, "host-0")
	sameJSON(f, "info", w.Info, `{"pid": 42}`)
	equal(f, "leased", w.Leased, 0)
	equalTime(f, "started at", w.StartedAt, f.clock.Now())
	equalTime(f, "heartbeat at", w.HeartbeatAt, f.clock.Now())

	for kind, register := range map[store.WorkerKind]func() store.Worker{
		store.KindAdmin:    func() store.Worker { return f.admin() },
		store.KindProducer: func() store.Worker { return f.producer() },
		store.KindConsumer: func() store.Worker { return f.consumer(q) },
	} {
		equal(f, "kind", f.worker(register().ID()).Kind, kind)
	}
	equal(f, "queue", f.consumer(q).Queue(), q)
	_, err = f.s.Consumer(f.ctx, "nowhere", store.WorkerOptions{})
	f.unknownQueue(err, "nowhere")
}

func workerMissing(f *fixture) {
	_, err := f.s.Workers().Get(f.ctx, missing)
	f.is(err, store.ErrNotFound)
	f.is(f.s.Workers().Delete(f.ctx, missing), store.ErrNotFound)
	f.is(f.s.Workers().Transition(f.ctx, missing, store.WorkerSuspended), store.ErrNotFound)
	f.is(f.s.Workers().SetInfo(f.ctx, missing, json.RawMessage(`{}`)), store.ErrNotFound)
}

func workerList(f *fixture) {
	a, b := f.queue("a"), f.queue("b")
	w := []store.Worker{f.admin(), f.producer(), f.consumer(a), f.consumer(b), f.consumer(a), f.consumer(b)}
	f.ok(w[3].Suspend(f.ctx))
	f.ok(w[4].Suspend(f.ctx))
	f.stop(w[1].ID())
	for _, c := range []struct {
		filter store.WorkerFilter
		want   []int
	}{
		{store.WorkerFilter{}, []int{0, 1, 2, 3, 4, 5}},
		{store.WorkerFilter{Kind: store.KindConsumer}, []int{2, 3, 4, 5}},
		{store.WorkerFilter{Queue: b}, []int{3, 5}},
		{store.WorkerFilter{State: store.WorkerSuspended}, []int{3, 4}},
		{store.WorkerFilter{Kind: store.KindProducer, State: store.WorkerStopped}, []int{1}},
		{store.WorkerFilter{Queue: a, State: store.WorkerReady}, []int{2}},
		{store.WorkerFilter{Queue: "nowhere"}, nil},
	} {
		var want []int64
		for _, i := range c.want {
			want = append(want, w[i].ID())
		}
		what := fmt.Sprintf("workers of %+v", c.filter)
		n, err := f.s.Workers().Count(f.ctx, c.filter)
		f.ok(err)
		equal(f, "count of "+what, n, int64(len(want)))
		for _, limit := range []int{1, 2, 100} {
			var got []int64
			filter := c.filter
			for filter.Limit = limit; ; {
				page, err := f.s.Workers().List(f.ctx, filter)
				f.ok(err)
				for _, r := range page {
					got = append(got, r.ID)
					filter.After = r.ID
				}
				if len(page) < limit {
					break
				}
			}
			equalIDs(f, what, got, want)
		}
	}
}

func workerListShows(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 5)
	c, idle := f.consumer(q), f.consumer(q)
	got := f.take(c, 3)
	f.take(c, 2)
	f.clock.Advance(40 * time.Second)
	f.ok(idle.Heartbeat(f.ctx))
	check := func(held int64) {
		f.Helper()
		list, err := f.s.Workers().List(f.ctx, store.WorkerFilter{Queue: q})
		f.ok(err)
		equal(f, "workers", len(list), 2)
		equal(f, "leased", list[0].Leased, held)
		equal(f, "leased", list[1].Leased, 0)
		equal(f, "heartbeat age", list[0].HeartbeatAge, 40*time.Second)
		equal(f, "heartbeat age", list[1].HeartbeatAge, 0)
		equal(f, "leased", f.worker(c.ID()).Leased, held)
	}
	check(5)
	f.done(c, got[1])
	check(4)
	_, err := c.ReleaseAll(f.ctx)
	f.ok(err)
	check(0)
}

func workerDelete(f *fixture) {
	p := f.producer()
	err := f.s.Workers().Delete(f.ctx, p.ID())
	equal(f, "state in the error", as[*store.TransitionError](f, err).From, store.WorkerReady)
	f.ok(p.Suspend(f.ctx))
	err = f.s.Workers().Delete(f.ctx, p.ID())
	equal(f, "state in the error", as[*store.TransitionError](f, err).From, store.WorkerSuspended)
	f.ok(p.Shutdown(f.ctx))
	f.ok(f.s.Workers().Delete(f.ctx, p.ID()))
	_, err = f.s.Workers().Get(f.ctx, p.ID())
	f.is(err, store.ErrNotFound)
}

func workerHeartbeat(f *fixture) {
	q := f.queue("q")
	ready, suspended, stopped := f.consumer(q), f.consumer(q), f.consumer(q)
	f.ok(suspended.Suspend(f.ctx))
	f.stop(stopped.ID())
	t0 := f.clock.Now()
	t1 := f.clock.Advance(lease)
	states, err := f.s.Workers().Heartbeat(f.ctx, ready.ID(), suspended.ID(), stopped.ID(), missing)
	f.ok(err)
	equal(f, "workers that answered", len(states), 3)
	equal(f, "state", states[ready.ID()], store.WorkerReady)
	equal(f, "state", states[suspended.ID()], store.WorkerSuspended)
	equal(f, "state", states[stopped.ID()], store.WorkerStopped)
	equalTime(f, "heartbeat", f.worker(ready.ID()).HeartbeatAt, t1)
	equalTime(f, "heartbeat", f.worker(suspended.ID()).HeartbeatAt, t1)
	equalTime(f, "heartbeat of a stopped worker", f.worker(stopped.ID()).HeartbeatAt, t0)
	states, err = f.s.Workers().Heartbeat(f.ctx)
	f.ok(err)
	equal(f, "workers that answered", len(states), 0)
}

func workerStates(f *fixture) {
	a, p := f.admin(), f.producer()
	f.ok(p.Suspend(f.ctx))
	t0 := f.clock.Now()
	f.clock.Advance(lease)
	states, err := f.s.Workers().States(f.ctx, a.ID(), p.ID(), missing)
	f.ok(err)
	equal(f, "workers that answered", len(states), 2)
	equal(f, "state", states[a.ID()], store.WorkerReady)
	equal(f, "state", states[p.ID()], store.WorkerSuspended)
	equalTime(f, "heartbeat", f.worker(a.ID()).HeartbeatAt, t0)
}

func workerSetInfo(f *fixture) {
	a := f.admin()
	for _, info := range []string{`{"handlers": [{"name":"census","state":"serving"}]}`, `{}`} {
		f.ok(f.s.Workers().SetInfo(f.ctx, a.ID(), json.RawMessage(info)))
		sameJSON(f, "info", f.worker(a.ID()).Info, info)
	}
}

func workerBadInfo(f *fixture) {
	a := f.admin()
	f.ok(f.s.Workers().SetInfo(f.ctx, a.ID(), json.RawMessage(`{"a":1}`)))
	for _, bad := range []string{`nope`, `[1]`, `"text"`, `{"a":"\u0000"}`} {
		f.is(f.s.Workers().SetInfo(f.ctx, a.ID(), json.RawMessage(bad)), store.ErrInvalid)
		_, err := f.s.Admin(f.ctx, store.WorkerOptions{Name: "n", Info: json.RawMessage(bad)})
		f.is(err, store.ErrInvalid)
	}
	sameJSON(f, "info", f.worker(a.ID()).Info, `{"a":1}`)
	n, err := f.s.Workers().Count(f.ctx, store.WorkerFilter{})
	f.ok(err)
	equal(f, "workers", n, 1)
}

func workerIsHealthy(f *fixture) {
	c := f.consumer(f.queue("q"))
	healthy := func(want bool) {
		f.Helper()
		got, err := c.IsHealthy(f.ctx, lease)
		f.ok(err)
		equal(f, "healthy", got, want)
	}
	healthy(true)
	f.clock.Advance(lease + time.Millisecond)
	healthy(false)
	f.ok(c.Heartbeat(f.ctx))
	healthy(true)
	f.ok(c.Suspend(f.ctx))
	healthy(true)
	f.ok(c.Shutdown(f.ctx))
	healthy(false)
}

func ephemeralClose(f *fixture) {
	q := f.queue("q")
	a, err := f.s.Admin(f.ctx, store.WorkerOptions{})
	f.ok(err)
	p, err := f.s.Producer(f.ctx, store.ProducerOptions{})
	f.ok(err)
	c, err := f.s.Consumer(f.ctx, q, store.WorkerOptions{})
	f.ok(err)
	ids := []int64{a.ID(), p.ID(), c.ID()}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 3 {
		f.Fatalf("ids of three workers are %v", ids)
	}
	for _, w := range []store.Worker{a, p, c} {
		f.ok(w.Close(f.ctx))
		_, err := f.s.Workers().Get(f.ctx, w.ID())
		f.is(err, store.ErrNotFound)
	}
	f.ok(f.s.Queues().Delete(f.ctx, q, false))
}

func ephemeralReleases(f *fixture) {
	q := f.queue("q", attempts(1))
	ids := f.enqueue(q, 2)
	c := f.consumer(q, store.WorkerOptions{})
	got := f.take(c, 2)
	f.start(c, got[0])
	f.ok(c.Close(f.ctx))
	f.state(ids[0], store.Ready, 0)
	f.state(ids[1], store.Ready, 0)
	b := f.consumer(q)
	f.settleIs(b, store.ErrLeaseLost, outcome(got[0], store.OutcomeDone))
	f.take(b, 2)
}

func namedClose(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	l := f.take1(c)
	f.ok(c.Close(f.ctx))
	w := f.worker(c.ID())
	equal(f, "state", w.State, store.WorkerReady)
	equal(f, "leased", w.Leased, 1)
	f.state(l.ID, store.Leased, 0)
}
