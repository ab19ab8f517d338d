package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func queueCases() []testCase {
	return []testCase{
		{"InsertAndGet", queueInsert},
		{"InsertTwice", queueInsertTwice},
		{"InsertBad", queueInsertBad},
		{"Ensure", queueEnsure},
		{"GetUnknownListsNearNames", queueUnknown},
		{"ListIsPaged", queueList},
		{"DeleteEmpty", queueDeleteEmpty},
		{"DeleteUnknown", queueDeleteUnknown},
		{"DeleteNotEmpty", queueDeleteNotEmpty},
		{"DeleteWithLeased", queueDeleteLeased},
		{"DeleteWithConsumer", queueDeleteConsumer},
		{"DeleteByForce", queueDeleteForce},
		{"Purge", queuePurge},
	}
}

func queueInsert(f *fixture) {
	policy := store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 7, Retention: -1}
	made, err := f.s.Queues().Insert(f.ctx, "mail.out:v1-x_Y", policy)
	f.ok(err)
	got, err := f.s.Queues().Get(f.ctx, "mail.out:v1-x_Y")
	f.ok(err)
	for _, q := range []store.Queue{made, got} {
		if q.ID <= 0 || q.Name != "mail.out:v1-x_Y" || q.QueuePolicy != policy {
			f.Fatalf("queue is %+v", q)
		}
	}
	equal(f, "id", got.ID, made.ID)

	f.queue("plain")
	got, err = f.s.Queues().Get(f.ctx, "plain")
	f.ok(err)
	equal(f, "policy", got.QueuePolicy, store.QueuePolicy{}.WithDefaults())
}

func queueInsertTwice(f *fixture) {
	f.queue("q", attempts(3))
	_, err := f.s.Queues().Insert(f.ctx, "q", attempts(9))
	f.is(err, store.ErrExists)
	got, err := f.s.Queues().Get(f.ctx, "q")
	f.ok(err)
	equal(f, "max attempts", got.MaxAttempts, 3)
}

func queueInsertBad(f *fixture) {
	for _, name := range []string{"", "a b", "-a", ".a", "é", "a/b", "a\x00", strings.Repeat("a", store.MaxQueueName+1)} {
		_, err := f.s.Queues().Insert(f.ctx, name, store.QueuePolicy{})
		f.is(err, store.ErrInvalid)
		_, err = f.s.Queues().Ensure(f.ctx, name, store.QueuePolicy{})
		f.is(err, store.ErrInvalid)
	}
	for _, p := range []store.QueuePolicy{{MaxAttempts: -1}, {Kind: "heap"}} {
		_, err := f.s.Queues().Insert(f.ctx, "q", p)
		f.is(err, store.ErrInvalid)
		_, err = f.s.Queues().Ensure(f.ctx, "q", p)
		f.is(err, store.ErrInvalid)
	}
	n, err := f.s.Queues().Count(f.ctx)
	f.ok(err)
	equal(f, "queues", n, 0)
	f.queue(strings.Repeat("a", store.MaxQueueName))
}

func queueEnsure(f *fixture) {
	made, err := f.s.Queues().Ensure(f.ctx, "q", attempts(3))
	f.ok(err)
	equal(f, "max attempts", made.MaxAttempts, 3)
	id := f.enqueue1("q")
	changed, err := f.s.Queues().Ensure(f.ctx, "q", store.QueuePolicy{MaxAttempts: 1, Retention: time.Hour})
	f.ok(err)
	equal(f, "id", changed.ID, made.ID)
	got, err := f.s.Queues().Get(f.ctx, "q")
	f.ok(err)
	equal(f, "policy", got.QueuePolicy, store.QueuePolicy{Kind: store.JobQueue, MaxAttempts: 1, Retention: time.Hour})
	// A policy holds for the messages that are there already.
	c := f.consumer("q")
	l := f.take1(c)
	equal(f, "max attempts", l.MaxAttempts, 1)
	f.settleAs(c, store.Dead, outcome(l, store.OutcomeRetry))
	f.state(id, store.Dead, 1)
}

func queueUnknown(f *fixture) {
	for _, name := range []string{"census", "censor", "mail"} {
		f.queue(name)
	}
	near := func(err error, name string) {
		f.Helper()
		f.unknownQueue(err, name)
		if got := as[*store.UnknownQueueError](f, err).Near; !slices.Contains(got, "census") || slices.Contains(got, "mail") {
			f.Fatalf("near names of %s are %v", name, got)
		}
	}
	_, err := f.s.Queues().Get(f.ctx, "censsus")
	near(err, "censsus")
	_, err = f.s.Messages().Insert(f.ctx, messages("censu", 1))
	near(err, "censu")
	_, err = f.s.Consumer(f.ctx, "Census", store.WorkerOptions{})
	near(err, "Census")
	_, err = f.s.Messages().List(f.ctx, store.MessageFilter{Queue: "cemsus"})
	near(err, "cemsus")
	_, err = f.s.Queues().Purge(f.ctx, "censuss")
	near(err, "censuss")
}

func queueList(f *fixture) {
	var want []string
	for i := range 7 {
		// Names run against ids, so that the order is seen to be by id.
		want = append(want, f.queue(fmt.Sprintf("q%d", 9-i)))
	}
	var got []string
	page := store.Page{Limit: 3}
	for {
		qs, err := f.s.Queues().List(f.ctx, page)
		f.ok(err)
		for _, q := range qs {
			got = append(got, q.Name)
			page.After = q.ID
		}
		if len(qs) < page.Limit {
			break
		}
	}
	if !slices.Equal(got, want) {
		f.Fatalf("queues are %v, want %v", got, want)
	}
	n, err := f.s.Queues().Count(f.ctx)
	f.ok(err)
	equal(f, "queues", n, 7)
}

func queueDeleteEmpty(f *fixture) {
	q := f.queue("q")
	f.ok(f.s.Queues().Delete(f.ctx, q, false))
	_, err := f.s.Queues().Get(f.ctx, q)
	f.unknownQueue(err, q)
	f.unknownQueue(f.s.Queues().Delete(f.ctx, q, false), q)
	f.queue(q)
}

func queueDeleteUnknown(f *fixture) {
	f.unknownQueue(f.s.Queues().Delete(f.ctx, "q", false), "q")
	f.unknownQueue(f.s.Queues().Delete(f.ctx, "q", true), "q")
}

func queueDeleteNotEmpty(f *fixture) {
	fill := map[string]func(q string){
		"ready":   func(q string) { f.enqueue(q, 1) },
		"delayed": func(q string) { f.enqueue(q, 1, withDelay(lease)) },
		"archive": func(q string) {
			errs, err := f.s.Archive().Insert(f.ctx, "no", f.enqueue1(q))
			f.allOK(errs, err)
		},
	}
	for q, put := range fill {
		f.queue(q)
		put(q)
		f.is(f.s.Queues().Delete(f.ctx, q, false), store.ErrNotEmpty)
		_, err := f.s.Queues().Get(f.ctx, q)
		f.ok(err)
	}
	equal(f, "messages", len(f.ledger()), 3)
}

func queueDeleteLeased(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 2)
	c := f.consumer(q)
	l := f.take1(c)
	if err := f.s.Queues().Delete(f.ctx, q, false); err == nil {
		f.Fatal("a queue with a leased message was deleted")
	}
	f.is(f.s.Queues().Delete(f.ctx, q, true), store.ErrLeased)
	equal(f, "messages", len(f.ledger()), 2)
	f.done(c, l)
	f.ok(f.s.Queues().Delete(f.ctx, q, true))
	equal(f, "messages", len(f.ledger()), 0)
}

func queueDeleteConsumer(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	f.is(f.s.Queues().Delete(f.ctx, q, false), store.ErrNotEmpty)
	f.ok(c.Suspend(f.ctx))
	f.is(f.s.Queues().Delete(f.ctx, q, false), store.ErrNotEmpty)
	f.ok(c.Shutdown(f.ctx))
	f.ok(f.s.Queues().Delete(f.ctx, q, false))
}

func queueDeleteForce(f *fixture) {
	q := f.queue("q", store.QueuePolicy{Kind: store.WorkflowQueue})
	keep := f.queue("keep")
	kept := f.enqueue1(keep)
	c := f.consumer(q)
	run, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(1), Key: "k"})
	f.ok(err)
	f.done(c, f.take1(c))
	ids := append(f.enqueue(q, 2), f.enqueue(q, 2, withDelay(lease))...)
	f.ok(f.s.Queues().Delete(f.ctx, q, true))
	for _, id := range append(ids, run) {
		f.gone(id)
	}
	_, err = c.Dequeue(f.ctx, 1, lease)
	f.unknownQueue(err, q)

	// A queue of the same name starts empty, keys included.
	f.queue(q, store.QueuePolicy{Kind: store.WorkflowQueue})
	equal(f, "messages", len(f.ledger()), 1)
	again, created, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: payload(2), Key: "k"})
	f.ok(err)
	if !created || again == run {
		f.Fatalf("run %d, created %t: the key outlived its queue", again, created)
	}
	f.state(kept, store.Ready, 0)
}

func queuePurge(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	f.enqueue(other, 1)
	f.enqueue(q, 2)
	c := f.consumer(q)
	got := f.take(c, 2)
	f.done(c, got[0])
	f.enqueue(q, 3)
	f.enqueue(q, 4, withDelay(lease))
	n, err := f.s.Queues().Purge(f.ctx, q)
	f.ok(err)
	equal(f, "messages purged", n, 7)
	f.takeNone(c)
	f.done(c, got[1])
	m := f.metrics(f.admin(), q)
	equal(f, "metrics", m, store.QueueMetrics{Queue: q, Done: 2})
	equal(f, "messages in all", len(f.ledger()), 3)
	n, err = f.s.Queues().Purge(f.ctx, q)
	f.ok(err)
	equal(f, "messages purged", n, 0)
}
