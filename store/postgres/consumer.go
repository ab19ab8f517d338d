package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pgqrs/pgqrsd/store"
)

// consumer leases messages of one queue.
type consumer struct {
	worker
	queue    string
	holdings *holdings

	// turn is held by the Dequeue under way. It guards what follows.
	turn   sync.Mutex
	claim  int64           // the last claim number used
	lowest map[int64]int64 // below it a worker has no claim
	scan   scan

	prober prober
}

var _ store.Consumer = (*consumer)(nil)

// Consumer registers a consumer of the queue.
func (s *Store) Consumer(ctx context.Context, queue string, opts store.WorkerOptions) (store.Consumer, error) {
	op := fmt.Sprintf("register a consumer of queue %q", queue)
	w, err := s.register(ctx, op, store.KindConsumer, queue, opts)
	if err != nil {
		return nil, err
	}
	c := &consumer{worker: w, queue: queue, holdings: newHoldings(), lowest: map[int64]int64{}}
	s.holding.Store(w.id, c.holdings)
	return c, nil
}

func (c *consumer) Queue() string { return c.queue }

func (c *consumer) Close(ctx context.Context) error {
	c.s.holding.Delete(c.id)
	return c.worker.Close(ctx)
}

// holdings is what a consumer has leased and not yet settled, by claim. It says
// when a claim has nothing left, so that its row can go with the settle of its
// last message. Safe for concurrent use.
type holdings struct {
	// returned says that messages became ready again, below the scan's marks.
	returned atomic.Bool

	mu sync.Mutex
	// claims are the messages of each, and what is recorded of them as runs.
	claims map[int64]map[int64]noted
	// drained are claims that hold nothing but may have a row: those whose last
	// messages were settled by concurrent calls, none of which knew that it was
	// the last, and those whose answer was lost. The next call drops them.
	drained []int64
	// held are the leases whose settlement waits for a row that somebody keeps.
	held map[store.Lease]struct{}
}

// noted is what is known to be recorded of a message as a run.
type noted uint8

const (
	notedNothing noted = iota
	notedRow           // a step, and when the run began; no version
	notedVersion       // the version that began it as well
)

func newHoldings() *holdings {
	return &holdings{claims: map[int64]map[int64]noted{}, held: map[store.Lease]struct{}{}}
}

func (h *holdings) add(claim int64, got []store.LeasedMessage) {
	ids := make(map[int64]noted, len(got))
	for i := range got {
		ids[got[i].ID] = notedNothing
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claims[claim] = ids
}

// record notes that something is recorded of a lease as a run. It stays as long
// as it is held.
func (h *holdings) record(l store.Lease, what noted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := h.claims[l.Claim]
	if known, holds := ids[l.ID]; holds && known < what {
		ids[l.ID] = what
	}
}

// recorded reports whether at least so much is recorded of a lease.
func (h *holdings) recorded(l store.Lease, least noted) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claims[l.Claim][l.ID] >= least
}

// lost notes a claim that may have a row although its answer was lost.
func (h *holdings) lost(claim int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drained = append(h.drained, claim)
}

// lowest is the lowest claim that may still have a row; next if none has.
func (h *holdings) lowest(next int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for claim := range h.claims {
		next = min(next, claim)
	}
	for _, claim := range h.drained {
		next = min(next, claim)
	}
	return next
}

// emptied returns the claims that have nothing left once these leases are
// settled, and those that had nothing left before.
func (h *holdings) emptied(leases []store.Lease) []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := map[int64]int{}
	for _, l := range leases {
		ids, known := h.claims[l.Claim]
		if !known {
			continue
		}
		if _, holds := ids[l.ID]; !holds {
			continue
		}
		if _, seen := left[l.Claim]; !seen {
			left[l.Claim] = len(ids)
		}
		left[l.Claim]--
	}
	out := append([]int64(nil), h.drained...)
	for claim, n := range left {
		if n == 0 {
			out = append(out, claim)
		}
	}
	return out
}

// settled forgets leases after the settle that dropped these claims.
func (h *holdings) settled(leases []store.Lease, dropped []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, claim := range dropped {
		delete(h.claims, claim)
	}
	h.drained = without(h.drained, dropped)
	for _, l := range leases {
		delete(h.held, l)
		ids, known := h.claims[l.Claim]
		if !known {
			continue
		}
		delete(ids, l.ID)
		if len(ids) == 0 {
			delete(h.claims, l.Claim)
			h.drained = append(h.drained, l.Claim)
		}
	}
}

// leftDrained reports whether there are claims for the next call to drop.
func (h *holdings) leftDrained() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.drained) > 0
}

// gone forgets claims whose rows are gone: they were lost, and a claim's number
// is never used again.
func (h *holdings) gone(claims []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, claim := range claims {
		delete(h.claims, claim)
	}
	h.drained = without(h.drained, claims)
	maps.DeleteFunc(h.held, func(l store.Lease, _ struct{}) bool { return slices.Contains(claims, l.Claim) })
}

// keep forgets all claims but these, after the others were dropped.
func (h *holdings) keep(claims []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := func(claim int64) bool { return !slices.Contains(claims, claim) }
	maps.DeleteFunc(h.claims, func(claim int64, _ map[int64]noted) bool { return gone(claim) })
	maps.DeleteFunc(h.held, func(l store.Lease, _ struct{}) bool { return gone(l.Claim) })
	h.drained = slices.DeleteFunc(h.drained, gone)
}

func without(list, remove []int64) []int64 {
	if len(list) == 0 {
		return list
	}
	gone := make(map[int64]struct{}, len(remove))
	for _, v := range remove {
		gone[v] = struct{}{}
	}
	kept := list[:0]
	for _, v := range list {
		if _, ok := gone[v]; !ok {
			kept = append(kept, v)
		}
	}
	return kept
}
