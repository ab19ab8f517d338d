package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// signalled is one run of two daemons that receives numbered signals.
type signalled struct {
	id   int64
	seen []atomic.Int64 // how often each signal was received
	left atomic.Int64
}

// receive takes what there is for a leased run and lets it wait, or ends it
// when it has everything.
func (r *signalled) receive(ctx context.Context, s *Store, c store.Consumer, l store.LeasedMessage) error {
	states, err := s.Workflows().Load(ctx, l.ID)
	if err != nil {
		return err
	}
	state := states[0]
	var outcomes []store.Outcome
	for _, sig := range state.Signals {
		outcomes = append(outcomes, store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v1",
			Steps: []store.StepResult{{StepKey: store.StepKey{Name: "receive", Occurrence: int(sig.ID)}, Kind: store.StepSignal,
				Topic: sig.Topic, Signal: sig.ID, Output: sig.Payload}}})
	}
	last := store.Outcome{Lease: l.Lease, Kind: store.OutcomeWait, Wait: &store.Wait{Kind: store.WaitSignal, Delay: -1, News: state.News}}
	if len(state.Steps)+len(state.Signals) == len(r.seen) {
		last = store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone}
	}
	got, err := c.Settle(ctx, append(outcomes, last))
	if err != nil {
		return err
	}
	for i, sig := range state.Signals {
		if got[i].Err != nil {
			return fmt.Errorf("take signal %d: %w", sig.ID, got[i].Err)
		}
		var n int
		if _, err := fmt.Sscan(string(sig.Payload), &n); err != nil {
			return err
		}
		r.seen[n].Add(1)
		r.left.Add(-1)
	}
	return got[len(got)-1].Err
}

// Signals come while a run is leased, begins to wait, waits and is woken, on
// two daemons: each is received once, and none is lost.
func TestNoSignalIsLost(t *testing.T) {
	t.Parallel()
	const runs, senders, each = 4, 4, 25
	s, cfg := flow(t, "q")
	stores := []*Store{s, openStore(t, cfg)}
	byID := map[int64]*signalled{}
	var all []*signalled
	for range runs {
		r := &signalled{id: startRun(t, s, "q"), seen: make([]atomic.Int64, senders*each)}
		r.left.Store(senders * each)
		byID[r.id] = r
		all = append(all, r)
	}
	var left atomic.Int64
	left.Store(runs)
	var work sync.WaitGroup
	for _, s := range stores {
		c := newConsumer(t, s, "q")
		work.Go(func() {
			for left.Load() > 0 {
				got, err := c.Dequeue(t.Context(), 2, time.Hour)
				for i := 0; err == nil && i < len(got); i++ {
					r := byID[got[i].ID]
					if err = r.receive(t.Context(), s, c, got[i]); r.left.Load() == 0 {
						left.Add(-1)
					}
				}
				if err != nil {
					t.Error(err)
					left.Store(0)
				}
			}
		})
	}
	for k := range senders {
		work.Go(func() {
			for i := range each {
				for _, r := range all {
					sig := store.NewSignal{Run: r.id, Topic: "n", Payload: fmt.Append(nil, k*each+i)}
					if _, created, err := stores[(k+i)%2].Workflows().Send(t.Context(), sig); err != nil || !created {
						t.Errorf("send: created %t, %v", created, err)
						left.Store(0)
						return
					}
				}
			}
		})
	}
	work.Wait()
	for _, r := range all {
		for n := range r.seen {
			if got := r.seen[n].Load(); got != 1 {
				t.Errorf("run %d received signal %d %d times", r.id, n, got)
			}
		}
	}
}

// settleAnyhow leases some runs and settles them as it comes. Those that were
// taken from it meanwhile are nobody's fault.
func settleAnyhow(t *testing.T, r *rand.Rand, s *Store, c store.Consumer, some func(*rand.Rand) int64, note func(int64)) error {
	got, err := c.Dequeue(t.Context(), 4, time.Hour)
	if err != nil || len(got) == 0 {
		return err
	}
	ids := make([]int64, len(got))
	for i := range got {
		ids[i] = got[i].ID
	}
	states, err := s.Workflows().Load(t.Context(), ids...)
	if err != nil {
		return err
	}
	var outcomes []store.Outcome
	for i, l := range got {
		n := len(states[i].Steps)
		name := func(kind string) store.StepKey { return store.StepKey{Name: kind, Occurrence: n} }
		o := store.Outcome{Lease: l.Lease, Kind: store.OutcomeWait, Version: "v1",
			Wait: &store.Wait{Kind: store.WaitSleep, Delay: time.Duration(r.IntN(3)) * time.Millisecond, News: states[i].News}}
		switch r.IntN(8) {
		case 0:
			o.Kind, o.Wait = store.OutcomeDone, nil
		case 1:
			o.Kind, o.Wait = store.OutcomeRelease, nil
		case 2:
			o.Wait.Kind, o.Wait.Delay = store.WaitChild, -1
			o.Steps = []store.StepResult{{StepKey: name("child"), Kind: store.StepChild, State: store.StepWaiting, Delay: -1,
				Child: &store.NewRun{Workflow: []string{"q", "other"}[r.IntN(2)]}}}
		case 3:
			o.Steps = []store.StepResult{{StepKey: name("send"), Kind: store.StepSend, Send: &store.NewSignal{Run: some(r), Topic: "n"}}}
		case 4:
			o.Kind, o.Wait, o.Delay = store.OutcomeSnooze, nil, time.Millisecond
		case 5:
			o.Kind, o.Wait = store.OutcomeDelete, nil
		case 6:
			o.Kind, o.Wait, o.Error = store.OutcomeDiscard, nil, "no luck"
		}
		outcomes = append(outcomes, store.Outcome{Lease: l.Lease, Kind: store.OutcomeStep, Version: "v1",
			Steps: []store.StepResult{{StepKey: name("body")}}}, o)
	}
	settled, err := c.Settle(t.Context(), outcomes)
	for _, res := range settled {
		if !errors.Is(res.Err, store.ErrLeaseLost) && !errors.Is(res.Err, store.ErrNotFound) {
			err = errors.Join(err, res.Err)
		}
	}
	children, lerr := s.Workflows().List(t.Context(), store.RunFilter{Page: store.Page{After: got[len(got)-1].ID, Limit: 5}})
	for _, child := range children {
		note(child.ID)
	}
	return errors.Join(err, lerr)
}
