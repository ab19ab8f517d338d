package storetest

import (
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func metricsCases() []testCase {
	return []testCase{
		{"AfterEveryOperation", metricsAfterEach},
		{"OfNamedQueues", metricsNamed},
		{"OldestReady", metricsOldest},
		{"Sampled", metricsSampled},
		{"SystemStats", systemStats},
	}
}

// metricsAfterEach walks messages through every operation; the exact counts,
// the sampled ones and the system's agree after each.
func metricsAfterEach(f *fixture) {
	a := f.admin()
	q := f.queue("q", attempts(2))
	c := f.consumer(q)
	want := store.QueueMetrics{Queue: q}
	check := func(after string) {
		f.Helper()
		for name, read := range map[string]func() ([]store.QueueMetrics, error){
			"metrics": func() ([]store.QueueMetrics, error) { return a.QueueMetrics(f.ctx, q) },
			"sample":  func() ([]store.QueueMetrics, error) { return a.SampleMetrics(f.ctx) },
		} {
			got, err := read()
			f.ok(err)
			equal(f, "queues in "+name, len(got), 1)
			if got[0] != want {
				f.Fatalf("after %s the %s is %+v, want %+v", after, name, got[0], want)
			}
		}
		s, err := a.SystemStats(f.ctx)
		f.ok(err)
		have := store.QueueMetrics{Queue: q, Ready: s.Ready, Delayed: s.Delayed, Leased: s.Leased,
			Done: s.Done, Dead: s.Dead, Cancelled: s.Cancelled, OldestReady: want.OldestReady}
		if have != want {
			f.Fatalf("after %s the system's counts are %+v, want %+v", after, have, want)
		}
		f.ledger()
	}
	check("nothing")
	f.enqueue(q, 10)
	want.Ready = 10
	check("enqueue")
	later := f.enqueue(q, 3, withDelay(lease/2))
	want.Delayed = 3
	check("delayed enqueue")
	got := f.take(c, 8)
	want.Ready, want.Leased = 2, 8
	check("dequeue")
	f.done(c, got[0])
	want.Leased, want.Done = 7, 1
	check("done")
	f.settle(c, outcome(got[1], store.OutcomeRetry))
	want.Leased, want.Ready = 6, 3
	check("retry")
	f.settle(c, store.Outcome{Lease: got[2].Lease, Kind: store.OutcomeSnooze, Delay: time.Hour})
	want.Leased, want.Delayed = 5, 4
	check("snooze")
	f.settle(c, outcome(got[3], store.OutcomeDiscard))
	want.Leased, want.Dead = 4, 1
	check("discard")
	f.settle(c, outcome(got[4], store.OutcomeRelease), outcome(got[5], store.OutcomeDelete))
	want.Leased, want.Ready = 2, 4
	check("release and delete")
	errs, err := f.s.Archive().Replay(f.ctx, got[3].ID)
	f.allOK(errs, err)
	want.Dead, want.Ready = 0, 5
	check("replay")
	errs, err = f.s.Archive().Insert(f.ctx, "no", later[0], got[4].ID)
	f.allOK(errs, err)
	want.Delayed, want.Ready, want.Cancelled = 3, 4, 2
	check("cancel")
	errs, err = a.DeadLetter(f.ctx, "no", later[1])
	f.allOK(errs, err)
	want.Delayed, want.Dead = 2, 1
	check("dead-lettering")
	f.ok(f.s.Messages().Delete(f.ctx, got[3].ID))
	want.Ready = 3
	check("delete")

	f.clock.Advance(lease / 2)
	want.OldestReady = lease / 2
	_, _, err = a.Promote(f.ctx, 10)
	f.ok(err)
	want.Delayed, want.Ready = 1, 4
	check("promote")
	f.clock.Advance(lease)
	want.OldestReady = 3 * lease / 2
	f.gaveBack(a, store.GivenBack{Ready: 2})
	want.Leased, want.Ready = 0, 6
	check("give-back")
	n, err := f.s.Archive().Purge(f.ctx, q, 0, store.Cancelled)
	f.ok(err)
	equal(f, "archived messages purged", n, 2)
	want.Cancelled = 0
	check("archive purge")
	_, err = f.s.Queues().Purge(f.ctx, q)
	f.ok(err)
	want.Ready, want.Delayed, want.OldestReady = 0, 0, 0
	check("queue purge")
}

func metricsNamed(f *fixture) {
	a := f.admin()
	for i, q := range []string{"c", "a", "b"} {
		f.enqueue(f.queue(q), i+1)
	}
	count := func(queues ...string) map[string]int64 {
		f.Helper()
		ms, err := a.QueueMetrics(f.ctx, queues...)
		f.ok(err)
		got := map[string]int64{}
		for _, m := range ms {
			got[m.Queue] = m.Ready
		}
		equal(f, "queues", len(got), len(ms))
		return got
	}
	all := count()
	if len(all) != 3 || all["c"] != 1 || all["a"] != 2 || all["b"] != 3 {
		f.Fatalf("metrics of all queues are %v", all)
	}
	two := count("c", "b")
	if len(two) != 2 || two["c"] != 1 || two["b"] != 3 {
		f.Fatalf("metrics of c and b are %v", two)
	}
	_, err := a.QueueMetrics(f.ctx, "a", "nowhere")
	f.unknownQueue(err, "nowhere")
}

func metricsOldest(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	c := f.consumer(q)
	oldest := func(want time.Duration) {
		f.Helper()
		equal(f, "oldest ready", f.metrics(a, q).OldestReady, want)
	}
	f.enqueue(q, 1)
	f.clock.Advance(10 * time.Second)
	f.enqueue(q, 1, withPriority(-9))
	oldest(10 * time.Second)
	f.clock.Advance(5 * time.Second)
	oldest(15 * time.Second)
	got := f.take(c, 2)
	oldest(0)
	f.settle(c, outcome(got[0], store.OutcomeRelease))
	oldest(5 * time.Second)
}

func metricsSampled(f *fixture) {
	a := f.admin()
	names := []string{f.queue("a"), f.queue("b")}
	f.enqueue("b", 2)
	got, err := a.SampleMetrics(f.ctx)
	f.ok(err)
	var seen []string
	for _, m := range got {
		seen = append(seen, m.Queue)
		if m.Estimated {
			f.Fatalf("a count of %d is an estimate: %+v", m.Ready, m)
		}
	}
	slices.Sort(seen)
	if !slices.Equal(seen, names) {
		f.Fatalf("sampled queues are %v, want %v", seen, names)
	}
}

func systemStats(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	f.queue("r")
	p, c := f.producer(), f.consumer(q)
	f.ok(p.Suspend(f.ctx))
	f.ok(c.Suspend(f.ctx))
	f.ok(c.Shutdown(f.ctx))
	s, err := a.SystemStats(f.ctx)
	f.ok(err)
	equal(f, "queues", s.Queues, 2)
	equal(f, "ready workers", s.Workers[store.WorkerReady], 1)
	equal(f, "suspended workers", s.Workers[store.WorkerSuspended], 1)
	equal(f, "stopped workers", s.Workers[store.WorkerStopped], 1)
}
