package storetest

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func messageCases() []testCase {
	return []testCase{
		{"InsertReturnsIDsInOrder", messageIDsInOrder},
		{"InsertIsAllOrNothing", insertAllOrNothing},
		{"InsertOfOneBadMessage", insertOneBad},
		{"InsertNothing", insertNothing},
		{"InsertAcrossQueues", insertAcrossQueues},
		{"IDsAreNeverReused", messageIDsNotReused},
		{"GetShowsEveryState", getShowsEveryState},
		{"GetMissing", getMissing},
		{"HeadersRoundTrip", headersRoundTrip},
		{"ListIsPaged", messageListPaged},
		{"ListByStateAndQueue", messageListFiltered},
		{"ListDefaultLimit", messageListDefault},
		{"CountIgnoresPage", countIgnoresPage},
		{"Delete", messageDelete},
		{"Delayed", delayedMessage},
		{"PriorityBounds", priorityBounds},
		{"Occupied", occupiedQueues},
	}
}

func messageIDsInOrder(f *fixture) {
	q := f.queue("q")
	ids := append(f.enqueue(q, 50), f.enqueue(q, 50, withDelay(lease))...)
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != 100 || ids[0] <= 0 {
		f.Fatalf("ids are %v", ids)
	}
	for i, id := range ids {
		equal(f, "payload", string(f.get(id).Payload), string(payload(i%50)))
	}
}

// badBatches are batches of ten with one bad message, and what it is.
var badBatches = []struct {
	name string
	edit func(m *store.NewMessage)
	is   error
}{
	{"unknown queue", func(m *store.NewMessage) { m.Queue = "nowhere" }, store.ErrNotFound},
	{"bad queue name", func(m *store.NewMessage) { m.Queue = "no where" }, store.ErrInvalid},
	{"bad payload", func(m *store.NewMessage) { m.Payload = []byte("nope") }, store.ErrInvalid},
	{"no payload", func(m *store.NewMessage) { m.Payload = nil }, store.ErrInvalid},
	{"bad priority", func(m *store.NewMessage) { m.Priority = store.MinPriority - 1 }, store.ErrInvalid},
	{"negative delay", func(m *store.NewMessage) { m.Delay = -1 }, store.ErrInvalid},
	{"bad header", func(m *store.NewMessage) { m.Headers = map[string]string{"k": "a\x00"} }, store.ErrInvalid},
}

func insertAllOrNothing(f *fixture) {
	q := f.queue("q")
	for _, bad := range badBatches {
		for _, at := range []int{0, 4, 9} {
			msgs := messages(q, 10)
			bad.edit(&msgs[at])
			_, err := f.s.Messages().Insert(f.ctx, msgs)
			equal(f, "index of the "+bad.name, as[*store.BatchError](f, err).Index, at)
			f.is(err, bad.is)
		}
	}
	msgs := messages(q, 10)
	badBatches[2].edit(&msgs[3])
	badBatches[2].edit(&msgs[7])
	_, err := f.s.Messages().Insert(f.ctx, msgs)
	equal(f, "index of the first bad one", as[*store.BatchError](f, err).Index, 3)
	msgs[1].Queue = "nowhere" // is found when every message is good in itself
	_, err = f.s.Messages().Insert(f.ctx, msgs)
	equal(f, "index of the first bad one", as[*store.BatchError](f, err).Index, 3)
	msgs = messages(q, 10)
	msgs[2].Queue, msgs[6].Queue = "nowhere", "elsewhere"
	_, err = f.s.Messages().Insert(f.ctx, msgs)
	equal(f, "index of the first unknown queue", as[*store.BatchError](f, err).Index, 2)
	equal(f, "messages stored", len(f.ledger()), 0)
}

func insertOneBad(f *fixture) {
	q := f.queue("q")
	for _, bad := range badBatches {
		msgs := messages(q, 1)
		bad.edit(&msgs[0])
		_, err := f.s.Messages().Insert(f.ctx, msgs)
		f.is(err, bad.is)
		if e, found := errors.AsType[*store.BatchError](err); found {
			f.Fatalf("the error of a single message speaks of a batch: %v", e)
		}
	}
	_, err := f.s.Messages().Insert(f.ctx, messages("nowhere", 1))
	f.unknownQueue(err, "nowhere")
	equal(f, "messages stored", len(f.ledger()), 0)
}

func insertNothing(f *fixture) {
	ids, err := f.s.Messages().Insert(f.ctx, nil)
	f.ok(err)
	equal(f, "ids", len(ids), 0)
}

func insertAcrossQueues(f *fixture) {
	a, b := f.queue("a"), f.queue("b")
	ids := f.enqueue("", 9, func(i int, m *store.NewMessage) {
		m.Queue = []string{a, b, a}[i%3]
		m.Delay = time.Duration(i%2) * lease
	})
	for i, id := range ids {
		m := f.get(id)
		equal(f, "queue", m.Queue, []string{a, b, a}[i%3])
		equal(f, "payload", string(m.Payload), string(payload(i)))
		equal(f, "state", m.State, []store.State{store.Ready, store.Delayed}[i%2])
	}
}

// messageIDsNotReused deletes the newest message, whose id a backend that
// counts from the highest row would give away again.
func messageIDsNotReused(f *fixture) {
	q := f.queue("q")
	var last int64
	for i := range 4 {
		id := f.enqueue1(q, withDelay(time.Duration(i%2)*lease))
		if id <= last {
			f.Fatalf("message id %d came after %d", id, last)
		}
		last = id
		f.ok(f.s.Messages().Delete(f.ctx, id))
	}
	c := f.consumer(q)
	id := f.enqueue1(q)
	f.done(c, f.take1(c))
	f.ok(f.s.Archive().Delete(f.ctx, id))
	if next := f.enqueue1(q); next <= id {
		f.Fatalf("message id %d came after %d", next, id)
	}
}

func getShowsEveryState(f *fixture) {
	q := f.queue("q", attempts(3))
	c := f.consumer(q)
	waiting := f.enqueue1(q, withDelay(time.Hour), withPriority(4))
	m := f.state(waiting, store.Delayed, 0)
	equal(f, "queue", m.Queue, q)
	equal(f, "priority", m.Priority, 4)
	equalTime(f, "available at", m.AvailableAt, f.clock.Now().Add(time.Hour))

	id := f.enqueue1(q, withPriority(-2))
	m = f.state(id, store.Ready, 0)
	if !m.AvailableAt.IsZero() || m.Worker != 0 || m.Attempt != 0 || m.Started || m.Progress != nil ||
		!m.LeaseExpiresAt.IsZero() || !m.LeasedAt.IsZero() || len(m.Output) > 0 || !m.FinishedAt.IsZero() {
		f.Fatalf("a ready message shows %+v", m)
	}

	l := f.take1(c)
	m = f.state(id, store.Leased, 0)
	equal(f, "worker", m.Worker, c.ID())
	equal(f, "attempt", m.Attempt, 1)
	equal(f, "started", m.Started, false)
	equalTime(f, "leased at", m.LeasedAt, f.clock.Now())
	equalTime(f, "lease's end", m.LeaseExpiresAt, f.clock.Now().Add(lease))
	f.start(c, l)
	f.ok(c.Progress(f.ctx, map[store.Lease]store.Progress{l.Lease: {Percent: 12.5, Message: "an eighth", At: f.clock.Now()}}))
	m = f.get(id)
	equal(f, "started", m.Started, true)
	if m.Progress == nil || m.Progress.Percent != 12.5 || m.Progress.Message != "an eighth" {
		f.Fatalf("progress is %+v", m.Progress)
	}

	f.settleAs(c, store.Ready, outcome(l, store.OutcomeRetry))
	m = f.state(id, store.Ready, 1)
	if m.Worker != 0 || m.Started || m.Progress != nil || !m.LeaseExpiresAt.IsZero() {
		f.Fatalf("a message that is ready again shows %+v", m)
	}
	l = f.take1(c)
	equal(f, "attempt", l.Attempt, 2)
	equal(f, "attempt", f.get(id).Attempt, 2)
	f.settleAs(c, store.Done, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone, Output: []byte(`{"ok": true}`)})
	m = f.state(id, store.Done, 1)
	equal(f, "worker", m.Worker, c.ID())
	equal(f, "output", string(m.Output), `{"ok": true}`)
	equal(f, "priority", m.Priority, -2)
	equal(f, "payload", string(m.Payload), string(payload(0)))
	equal(f, "errors", len(m.Errors), 1)
	equalTime(f, "finished at", m.FinishedAt, f.clock.Now())
}

func getMissing(f *fixture) {
	f.gone(missing)
	f.gone(0)
	f.gone(-1)
	_, err := f.s.Archive().Get(f.ctx, f.enqueue1(f.queue("q")))
	f.is(err, store.ErrNotFound)
}

func headersRoundTrip(f *fixture) {
	q := f.queue("q")
	all := []map[string]string{
		nil,
		{},
		{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"ключ": "значение 🎉", `quote"\`: "line\nbreak\ttab", "empty": ""},
	}
	ids := f.enqueue(q, len(all), func(i int, m *store.NewMessage) { m.Headers = all[i] })
	c := f.consumer(q)
	for i, l := range f.take(c, len(all)) {
		if !maps.Equal(l.Headers, all[i]) || !maps.Equal(f.get(ids[i]).Headers, all[i]) {
			f.Fatalf("headers are %v and %v, want %v", l.Headers, f.get(ids[i]).Headers, all[i])
		}
		f.settle(c, []store.Outcome{outcome(l, store.OutcomeDone), {Lease: l.Lease, Kind: store.OutcomeSnooze, Delay: lease}}[i%2])
		if got := f.get(ids[i]); !maps.Equal(got.Headers, all[i]) {
			f.Fatalf("headers of a %s message are %v, want %v", got.State, got.Headers, all[i])
		}
	}
}

// pages reads a list page by page.
func (f *fixture) pages(limit int, list func(store.Page) ([]store.Message, error)) []int64 {
	f.Helper()
	var ids []int64
	page := store.Page{Limit: limit}
	for {
		got, err := list(page)
		f.ok(err)
		if len(got) > limit {
			f.Fatalf("a page of %d holds %d", limit, len(got))
		}
		ids = append(ids, messageIDs(got)...)
		if len(got) < limit {
			return ids
		}
		page.After = ids[len(ids)-1]
	}
}

func messageListPaged(f *fixture) {
	q := f.queue("q")
	f.queue("empty")
	// States lie mixed along the ids, wherever a backend keeps them.
	ids := f.enqueue(q, 30, func(i int, m *store.NewMessage) { m.Delay = time.Duration(i%3/2) * lease; m.Priority = -i })
	f.take(f.consumer(q), 8)
	for _, limit := range []int{1, 7, 30, 100} {
		got := f.pages(limit, func(p store.Page) ([]store.Message, error) {
			return f.s.Messages().List(f.ctx, store.MessageFilter{Queue: q, Page: p})
		})
		equalIDs(f, "messages", got, ids)
	}
	got, err := f.s.Messages().List(f.ctx, store.MessageFilter{Queue: q, Page: store.Page{After: ids[29]}})
	f.ok(err)
	equal(f, "messages after the last", len(got), 0)
	got, err = f.s.Messages().List(f.ctx, store.MessageFilter{Queue: "empty"})
	f.ok(err)
	equal(f, "messages of an empty queue", len(got), 0)
}

func messageListFiltered(f *fixture) {
	a, b := f.queue("a"), f.queue("b")
	want := map[store.State][]int64{}
	want[store.Delayed] = f.enqueue(a, 5, withDelay(lease))
	want[store.Leased] = f.enqueue(a, 4)
	f.take(f.consumer(a), 4)
	want[store.Ready] = f.enqueue(a, 6)
	inB := f.enqueue(b, 3)
	for state, ids := range want {
		filter := store.MessageFilter{Queue: a, State: state}
		equalIDs(f, string(state)+" messages", f.pages(2, func(p store.Page) ([]store.Message, error) {
			filter.Page = p
			list, err := f.s.Messages().List(f.ctx, filter)
			for _, m := range list {
				equal(f, "state", m.State, state)
			}
			return list, err
		}), ids)
		n, err := f.s.Messages().Count(f.ctx, filter)
		f.ok(err)
		equal(f, "count of "+string(state), n, int64(len(ids)))
	}
	ready := f.pages(4, func(p store.Page) ([]store.Message, error) {
		return f.s.Messages().List(f.ctx, store.MessageFilter{State: store.Ready, Page: p})
	})
	equalIDs(f, "ready messages of every queue", ready, append(slices.Clone(want[store.Ready]), inB...))
	_, err := f.s.Messages().Count(f.ctx, store.MessageFilter{Queue: "nowhere"})
	f.unknownQueue(err, "nowhere")
}

func messageListDefault(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, store.DefaultLimit+5)
	got, err := f.s.Messages().List(f.ctx, store.MessageFilter{})
	f.ok(err)
	equal(f, "messages in a page of the default size", len(got), store.DefaultLimit)
}

func countIgnoresPage(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 5)
	n, err := f.s.Messages().Count(f.ctx, store.MessageFilter{Queue: q, Page: store.Page{Limit: 2, After: ids[3]}})
	f.ok(err)
	equal(f, "count", n, 5)
}

func messageDelete(f *fixture) {
	q := f.queue("q")
	ids := f.enqueue(q, 3)
	later := f.enqueue1(q, withDelay(lease))
	c := f.consumer(q)
	got := f.take(c, 2)
	f.done(c, got[0])
	f.is(f.s.Messages().Delete(f.ctx, ids[0]), store.ErrTerminal)
	f.is(f.s.Messages().Delete(f.ctx, ids[1]), store.ErrLeased)
	f.ok(f.s.Messages().Delete(f.ctx, ids[2]))
	f.ok(f.s.Messages().Delete(f.ctx, later))
	f.is(f.s.Messages().Delete(f.ctx, ids[2]), store.ErrNotFound)
	f.is(f.s.Messages().Delete(f.ctx, missing), store.ErrNotFound)
	f.gone(later)
	f.takeNone(c)
	f.done(c, got[1])
	equal(f, "messages in all", len(f.ledger()), 2)
}

func delayedMessage(f *fixture) {
	q := f.queue("q")
	a, c := f.admin(), f.consumer(q)
	id := f.enqueue1(q, withDelay(lease))
	f.takeNone(c)
	f.clock.Advance(lease - time.Millisecond)
	_, _, err := a.Promote(f.ctx, 10)
	f.ok(err)
	f.takeNone(c)
	f.clock.Advance(time.Millisecond)
	_, _, err = a.Promote(f.ctx, 10)
	f.ok(err)
	l := f.take1(c)
	equal(f, "message", l.ID, id)
	equal(f, "attempt", l.Attempt, 1)
}

func priorityBounds(f *fixture) {
	q := f.queue("q")
	low := f.enqueue1(q, withPriority(store.MaxPriority))
	high := f.enqueue1(q, withPriority(store.MinPriority))
	equalIDs(f, "messages by priority", leasedIDs(f.take(f.consumer(q), 2)), []int64{high, low})
}

// occupiedQueues may name a queue whose messages are all leased, never one
// without messages, and always one with a ready message.
func occupiedQueues(f *fixture) {
	empty, ready, leased, later := f.queue("empty"), f.queue("ready"), f.queue("leased"), f.queue("later")
	f.enqueue(ready, 2)
	f.enqueue(leased, 1)
	f.enqueue(later, 1, withDelay(lease))
	f.enqueue(f.queue("unasked"), 1)
	f.take(f.consumer(leased), 1)
	c := f.consumer(ready)
	f.take(c, 1)
	got, err := f.s.Messages().Occupied(f.ctx, empty, ready, leased, later, "missing")
	f.ok(err)
	got = slices.DeleteFunc(got, func(name string) bool { return name == leased })
	equal(f, "occupied queues", strings.Join(got, ","), ready)
	f.done(c, f.take(c, 1)[0])
	if got, err = f.s.Messages().Occupied(f.ctx, ready); err != nil || len(got) > 1 {
		f.Fatalf("occupied is %v, %v", got, err)
	}
	got, err = f.s.Messages().Occupied(f.ctx)
	if err != nil || len(got) != 0 {
		f.Fatalf("without names %v are occupied, %v", got, err)
	}
}
