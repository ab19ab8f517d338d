package storetest

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func maintenanceCases() []testCase {
	return []testCase{
		{"PromoteSaysWhenTheNextIsDue", promoteNext},
		{"PromoteHonoursItsLimit", promoteLimit},
		{"PromoteKeepsTheMessage", promoteKeeps},
		{"PromoteEveryQueue", promoteEveryQueue},
		{"PurgeExpired", purgeExpired},
		{"PurgeExpiredHonoursItsLimit", purgeExpiredLimit},
		{"PurgeExpiredTakesSteps", purgeExpiredSteps},
		{"RetentionChanged", retentionChanged},
		{"LeadOneAtATime", leadOne},
		{"LeadPassesOn", leadPasses},
		{"LeadRaces", leadRaces},
		{"LeadOfADeadLeader", leadDead},
		{"LeadOfASuspendedLeader", leadSuspended},
	}
}

// promote moves what is due and checks the counts; next < 0 is none.
func (f *fixture) promote(a store.Admin, limit int, moved int64, next time.Duration) {
	f.Helper()
	n, d, err := a.Promote(f.ctx, limit)
	f.ok(err)
	equal(f, "messages promoted", n, moved)
	if d != next && (d >= 0 || next >= 0) {
		f.Fatalf("the next is due in %s, want %s", d, next)
	}
}

func promoteNext(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	f.promote(a, 10, 0, -1)
	f.enqueue(q, 1, withDelay(3*time.Second))
	f.enqueue(q, 1, withDelay(1*time.Second))
	f.promote(a, 10, 0, time.Second)
	f.clock.Advance(400 * time.Millisecond)
	f.promote(a, 10, 0, 600*time.Millisecond)
	// A caller that waits as long as it was told finds the message due.
	f.clock.Advance(600 * time.Millisecond)
	f.promote(a, 10, 1, 2*time.Second)
	f.clock.Advance(time.Hour)
	f.promote(a, 10, 1, -1)
	f.take(f.consumer(q), 2)
}

func promoteLimit(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	f.enqueue(q, 5, withDelay(time.Second))
	f.clock.Advance(time.Minute)
	f.promote(a, 2, 2, 0)
	f.promote(a, 2, 2, 0)
	f.promote(a, 2, 1, -1)
	f.promote(a, 2, 0, -1)
}

func promoteKeeps(f *fixture) {
	a := f.admin()
	q := f.queue("q")
	at := f.clock.Now()
	id := f.enqueue1(q, withDelay(time.Second), withPriority(6), func(_ int, m *store.NewMessage) {
		m.Headers = map[string]string{"k": "v"}
	})
	f.clock.Advance(time.Second)
	f.promote(a, 10, 1, -1)
	m := f.state(id, store.Ready, 0)
	equal(f, "priority", m.Priority, 6)
	equal(f, "header", m.Headers["k"], "v")
	equal(f, "payload", string(m.Payload), string(payload(0)))
	equalTime(f, "enqueued at", m.EnqueuedAt, at)
	equalTime(f, "available at", m.AvailableAt, time.Time{})
}

func promoteEveryQueue(f *fixture) {
	a := f.admin()
	for _, q := range []string{"a", "b", "c"} {
		f.enqueue(f.queue(q), 2, withDelay(time.Second))
	}
	f.clock.Advance(time.Second)
	f.promote(a, 100, 6, -1)
	for _, q := range []string{"a", "b", "c"} {
		f.take(f.consumer(q), 2)
	}
}

func purgeExpired(f *fixture) {
	a := f.admin()
	short := f.archived(f.queue("short", store.QueuePolicy{Retention: time.Hour}))
	usual := f.archived(f.queue("usual"))
	ever := f.archived(f.queue("ever", store.QueuePolicy{Retention: -1}))
	purge := func(want int64) {
		f.Helper()
		n, err := a.PurgeExpired(f.ctx, 100)
		f.ok(err)
		equal(f, "archived messages purged", n, want)
	}
	purge(0)
	f.clock.Advance(time.Hour - time.Second)
	purge(0)
	f.clock.Advance(2 * time.Second)
	purge(2)
	f.gone(short[0])
	f.state(short[1], store.Dead, 1) // dead letters stay
	f.gone(short[2])
	f.state(usual[0], store.Done, 0)
	f.clock.Advance(store.DefaultRetention)
	purge(2)
	f.gone(usual[0])
	f.clock.Advance(100 * store.DefaultRetention)
	purge(0)
	f.state(ever[0], store.Done, 0)
	f.state(ever[2], store.Cancelled, 0)
	equal(f, "messages left", len(f.ledger()), 5)
}

func purgeExpiredLimit(f *fixture) {
	a := f.admin()
	q := f.queue("q", store.QueuePolicy{Retention: time.Hour})
	f.enqueue(q, 7)
	c := f.consumer(q)
	f.done(c, f.take(c, 7)...)
	f.clock.Advance(2 * time.Hour)
	for _, want := range []int64{3, 3, 1, 0} {
		n, err := a.PurgeExpired(f.ctx, 3)
		f.ok(err)
		equal(f, "archived messages purged", n, want)
	}
}

func purgeExpiredSteps(f *fixture) {
	a := f.admin()
	q := f.queue("flow", store.QueuePolicy{Kind: store.WorkflowQueue, Retention: time.Hour})
	id, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(1), Key: "k"})
	f.ok(err)
	c := f.consumer(q)
	l := f.take1(c)
	f.step(l, "one", 0, `1`)
	f.done(c, l)
	f.clock.Advance(2 * time.Hour)
	n, err := a.PurgeExpired(f.ctx, 10)
	f.ok(err)
	equal(f, "archived messages purged", n, 1)
	f.noSteps(id)
	_, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(2), Key: "k"})
	f.ok(err)
	equal(f, "created by a key whose run is gone", created, true)
}

func retentionChanged(f *fixture) {
	a := f.admin()
	q := f.queue("q", store.QueuePolicy{Retention: -1})
	f.archived(q)
	f.clock.Advance(2 * time.Hour)
	n, err := a.PurgeExpired(f.ctx, 10)
	f.ok(err)
	equal(f, "archived messages purged", n, 0)
	_, err = f.s.Queues().Ensure(f.ctx, q, store.QueuePolicy{Retention: time.Hour})
	f.ok(err)
	n, err = a.PurgeExpired(f.ctx, 10)
	f.ok(err)
	equal(f, "archived messages purged", n, 2)
}

func (f *fixture) lead(a store.Admin, want bool) {
	f.Helper()
	got, err := a.Lead(f.ctx, lease)
	f.ok(err)
	equal(f, "leads", got, want)
}

func leadOne(f *fixture) {
	a, b := f.admin(), f.on(f.second()).admin()
	f.lead(a, true)
	f.lead(b, false)
	for range 5 {
		f.clock.Advance(lease - time.Millisecond)
		f.lead(b, false)
		f.lead(a, true)
	}
}

func leadPasses(f *fixture) {
	a, b := f.admin(), f.on(f.second()).admin()
	f.lead(a, true)
	f.clock.Advance(lease + time.Millisecond)
	f.lead(b, true)
	f.lead(a, false)
	f.clock.Advance(lease + time.Millisecond)
	f.lead(a, true)
	f.lead(b, false)
}

func leadRaces(f *fixture) {
	var admins []store.Admin
	for _, g := range []*fixture{f, f.on(f.second())} {
		admins = append(admins, g.admin(), g.admin())
	}
	for range 5 {
		var leaders atomic.Int64
		errs := make([]error, len(admins))
		var wg sync.WaitGroup
		for i, a := range admins {
			wg.Go(func() {
				leads, err := a.Lead(f.ctx, lease)
				if errs[i] = err; leads {
					leaders.Add(1)
				}
			})
		}
		wg.Wait()
		f.allOK(errs, nil)
		equal(f, "leaders", leaders.Load(), 1)
		f.clock.Advance(lease + time.Millisecond)
	}
}

// leadDead: a leader that was declared dead leads no more, whatever is left of its time.
func leadDead(f *fixture) {
	a, err := f.s.Admin(f.ctx, store.WorkerOptions{Name: "host/0", Slot: "host-0"})
	f.ok(err)
	f.closeLater(a)
	b := f.admin()
	f.lead(a, true)
	f.reclaimSlot(b, "host-0", store.GivenBack{Workers: 1})
	f.lead(b, true)
	f.lead(a, false)
}

// leadSuspended: who does not work does not lead, and leaves the lead to others at once.
func leadSuspended(f *fixture) {
	a, b := f.admin(), f.on(f.second()).admin()
	f.lead(a, true)
	f.ok(a.Suspend(f.ctx))
	f.lead(a, false)
	f.lead(b, true)
	f.clock.Advance(lease + time.Millisecond)
	f.lead(a, false)
	f.ok(a.Resume(f.ctx))
	f.lead(a, true)
	f.ok(a.Suspend(f.ctx))
	f.ok(a.Shutdown(f.ctx))
	f.lead(a, false)
	f.lead(b, true)
}
