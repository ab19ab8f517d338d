package integration

import (
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// archived reads the whole archive of a queue, by id.
func (w *world) archived(queue string) map[int64]store.Message {
	w.t.Helper()
	all := make(map[int64]store.Message)
	for after := int64(0); ; {
		page, err := w.store.Archive().List(w.t.Context(), store.MessageFilter{Queue: queue, Page: store.Page{Limit: 1000, After: after}})
		must(w.t, err)
		if len(page) == 0 {
			return all
		}
		for _, m := range page {
			if _, twice := all[m.ID]; twice {
				w.t.Fatalf("message %d is listed twice in the archive", m.ID)
			}
			all[m.ID] = m
		}
		after = page[len(page)-1].ID
	}
}

// unfinished counts the messages of a queue that are not archived.
func (w *world) unfinished(queue string) int64 {
	w.t.Helper()
	n, err := w.store.Messages().Count(w.t.Context(), store.MessageFilter{Queue: queue})
	must(w.t, err)
	return n
}

// settle waits until nothing of queue work is left but the archive.
func (w *world) settle() {
	w.t.Helper()
	w.eventually("every message to be archived", func() bool { return w.unfinished("work") == 0 })
}

// expect is what the ledger should say of a message: by default done, with no
// failed attempt.
type expect struct {
	state    store.State
	attempts int
}

// ledger checks that every message that was enqueued is exactly one row in the
// archive, that there are no others, that none is left anywhere else, and that
// each has its state and failed attempts.
func (w *world) ledger(ids []int64, special map[int64]expect) {
	w.t.Helper()
	if n := w.unfinished("work"); n != 0 {
		w.t.Fatalf("%d messages are not archived:\n%s", n, w.whereabouts())
	}
	archive := w.archived("work")
	for _, id := range ids {
		m, ok := archive[id]
		if !ok {
			w.t.Errorf("message %d is lost", id)
			continue
		}
		want, ok := special[id]
		if !ok {
			want = expect{state: store.Done}
		}
		if m.State != want.state || m.Attempts != want.attempts || len(m.Errors) != want.attempts {
			w.t.Errorf("message %d: %s after %d failed attempts with errors %v, want %s after %d", id, m.State, m.Attempts, m.Errors, want.state, want.attempts)
		}
		delete(archive, id)
	}
	if len(archive) > 0 {
		w.t.Errorf("%d messages in the archive that nobody enqueued", len(archive))
	}
	w.noneLeased()
}

// noneLeased checks that no worker holds a message.
func (w *world) noneLeased() {
	w.t.Helper()
	workers, err := w.store.Workers().List(w.t.Context(), store.WorkerFilter{Page: store.Page{Limit: 1000}})
	must(w.t, err)
	for _, worker := range workers {
		if worker.Leased != 0 {
			w.t.Errorf("worker %d (%s, %s) still holds %d messages", worker.ID, worker.Name, worker.State, worker.Leased)
		}
	}
}

// started waits until the database knows that these messages have started:
// from then on, their attempt counts.
func (w *world) started(ids ...int64) {
	w.t.Helper()
	w.eventually("messages to be leased and started", func() bool {
		return !slices.ContainsFunc(ids, func(id int64) bool {
			m, err := w.store.Messages().Get(w.t.Context(), id)
			must(w.t, err)
			return m.State != store.Leased || !m.Started
		})
	})
}

// starts counts the journal's starts of each message.
func starts(events []event) map[int64]int {
	n := make(map[int64]int)
	for _, e := range events {
		if e.kind == "start" {
			n[e.id]++
		}
	}
	return n
}

// failedOnce is the expectation of done at the second attempt for each id.
func failedOnce(ids ...int64) map[int64]expect {
	m := make(map[int64]expect)
	for _, id := range ids {
		m[id] = expect{state: store.Done, attempts: 1}
	}
	return m
}

// consumer waits for a live consumer of queue work and returns its row.
func (w *world) consumer() store.WorkerRecord {
	w.t.Helper()
	var found store.WorkerRecord
	w.eventually("a ready consumer of queue work", func() bool {
		list, err := w.store.Workers().List(w.t.Context(), store.WorkerFilter{Queue: "work", Kind: store.KindConsumer, State: store.WorkerReady, Page: store.Page{Limit: 100}})
		must(w.t, err)
		if len(list) > 0 {
			found = list[len(list)-1]
		}
		return len(list) > 0
	})
	return found
}
