package storetest

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// The operations of a history that are not a consumer's.

func (h *history) opGiveBack() {
	h.did("give-back")
	now := h.now()
	want := h.m.giveBack(now, func(msg *modelMessage) bool { return h.m.ranOut(msg, now) })
	h.gaveBack(h.admin, want)
}

func (h *history) opPromote() {
	limit := 1 + h.rng.IntN(5)
	h.did("promote of %d", limit)
	moved, next, err := h.admin.Promote(h.ctx, limit)
	h.ok(err)
	now := h.now()
	waiting, due := h.m.inState("", store.Delayed), 0
	first := time.Duration(-1)
	have := h.places()
	var n int64
	for _, msg := range waiting {
		isDue := !msg.due.After(now)
		if isDue {
			due++
		}
		// Which of the due ones were moved is the store's choice.
		if have[msg.id].State == store.Ready {
			if !isDue {
				h.Fatalf("message %d was promoted %s before it was due", msg.id, msg.due.Sub(now))
			}
			msg.wait(0, now)
			n++
			continue
		}
		if left := max(0, msg.due.Sub(now)); first < 0 || left < first {
			first = left
		}
	}
	equal(h.fixture, "messages promoted", moved, int64(min(limit, due)))
	equal(h.fixture, "messages found promoted", n, moved)
	if (first < 0) != (next < 0) || (first >= 0 && next != first) {
		h.Fatalf("promote says the next is due in %s, want %s", next, first)
	}
}

func (h *history) opReplay() {
	ids := []int64{h.someID()}
	if dead := h.m.inState("", store.Dead); len(dead) > 0 {
		if id := dead[h.rng.IntN(len(dead))].id; id != ids[0] {
			ids = append(ids, id)
		}
	}
	h.did("replay of %v", ids)
	errs, err := h.s.Archive().Replay(h.ctx, ids...)
	h.ok(err)
	for i, id := range ids {
		h.eachIs(errs[i:i+1], nil, h.m.replay(id, h.now()))
	}
}

func (h *history) opCancel() {
	id := h.someID()
	h.did("cancel of %d", id)
	errs, err := h.s.Archive().Insert(h.ctx, "not wanted", id)
	h.eachIs(errs, err, h.m.take(id, store.Cancelled))
}

func (h *history) opDeadLetter() {
	id := h.someID()
	h.did("dead-lettering of %d", id)
	errs, err := h.admin.DeadLetter(h.ctx, "beyond help", id)
	h.eachIs(errs, err, h.m.take(id, store.Dead))
}

func (h *history) opDelete() {
	id := h.someID()
	h.did("delete of %d", id)
	err := h.s.Messages().Delete(h.ctx, id)
	h.eachIs([]error{err}, nil, h.m.take(id, ""))
}

func (h *history) opSuspend() {
	c := h.consumer()
	h.did("suspend of worker %d", c.ID())
	err := c.Suspend(h.ctx)
	if c.suspended {
		h.transition(err, c.ID(), store.WorkerSuspended, store.WorkerSuspended)
		return
	}
	h.ok(err)
	c.suspended = true
}

func (h *history) opResume() {
	for _, c := range h.consumers {
		if c.suspended {
			h.did("resume of worker %d", c.ID())
			h.ok(c.Resume(h.ctx))
			c.suspended = false
			return
		}
	}
}

func (h *history) opReleaseAll() {
	c := h.consumer()
	h.did("worker %d releases all", c.ID())
	n, err := c.ReleaseAll(h.ctx)
	h.ok(err)
	equal(h.fixture, "messages released", n, h.m.release(c.ID(), h.now()))
}

func (h *history) opReleaseWorker() {
	c := h.consumer()
	h.did("release of worker %d", c.ID())
	n, err := h.admin.ReleaseWorker(h.ctx, c.ID())
	h.ok(err)
	equal(h.fixture, "messages released", n, h.m.release(c.ID(), h.now()))
}

// opKill lets one consumer fall silent and replaces it once it is reclaimed.
func (h *history) opKill() {
	i := h.rng.IntN(len(h.consumers))
	victim := h.consumers[i]
	h.did("death of worker %d", victim.ID())
	now := h.clock.Advance(modelSilence)
	h.ok(h.admin.Heartbeat(h.ctx))
	for j, c := range h.consumers {
		if j != i {
			h.ok(c.Heartbeat(h.ctx))
		}
	}
	got, err := h.admin.Reclaim(h.ctx, modelSilence/2)
	h.ok(err)
	// Reclaim takes from the dead only; others' leases have run out by now too,
	// but wait for the next claim on their queue.
	want := h.m.giveBack(now, func(msg *modelMessage) bool { return msg.lease.Worker == victim.ID() })
	want.Workers = 1
	equal(h.fixture, "reclaimed", got, want)
	_, err = victim.Dequeue(h.ctx, 1, lease)
	h.notReady(err, victim.ID(), store.WorkerStopped)
	h.consumers[i] = &historyConsumer{Consumer: h.fixture.consumer(victim.Queue())}
}
