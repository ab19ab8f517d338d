package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 4: a message is always somewhere: delayed, ready, leased or archived.
// Never where nothing can lease it.
func ledgerCases() []testCase {
	cases := []testCase{
		{"EveryPlace", everyPlace},
		{"EnqueueRacesDeleteQueue", enqueueRacesDelete},
		{"FollowUpRacesDeleteQueue", followUpRacesDelete},
		{"ReplayRacesDeleteQueue", replayRacesDelete},
		{"DequeueRacesDeleteQueue", dequeueRacesDelete},
	}
	for i := range modelRuns {
		cases = append(cases, modelCase(i))
	}
	return cases
}

// places reads where every message is, and checks that none is in two places.
func (f *fixture) places() map[int64]store.Message {
	f.Helper()
	all := map[int64]store.Message{}
	read := func(what string, archived bool, list func(store.MessageFilter) ([]store.Message, error)) {
		filter := store.MessageFilter{Page: store.Page{Limit: 500}}
		for {
			page, err := list(filter)
			f.ok(err)
			for _, m := range page {
				if m.ID <= filter.After {
					f.Fatalf("%s lists message %d after %d", what, m.ID, filter.After)
				}
				filter.After = m.ID
				if twin, found := all[m.ID]; found {
					f.Fatalf("message %d is in two places: %s and %s", m.ID, twin.State, m.State)
				}
				if m.State.Archived() != archived {
					f.Fatalf("%s lists message %d, which is %s", what, m.ID, m.State)
				}
				all[m.ID] = m
			}
			if len(page) < filter.Limit {
				return
			}
		}
	}
	read("messages", false, func(filter store.MessageFilter) ([]store.Message, error) {
		return f.s.Messages().List(f.ctx, filter)
	})
	read("archive", true, func(filter store.MessageFilter) ([]store.Message, error) {
		return f.s.Archive().List(f.ctx, filter)
	})
	return all
}

// ledger is places, and checks that every count agrees with the lists.
func (f *fixture) ledger() map[int64]store.Message {
	f.Helper()
	all := f.places()
	counts := map[store.State]int64{}
	for _, m := range all {
		counts[m.State]++
	}
	for _, state := range []store.State{store.Delayed, store.Ready, store.Leased} {
		n, err := f.s.Messages().Count(f.ctx, store.MessageFilter{State: state})
		f.ok(err)
		equal(f, "count of "+string(state), n, counts[state])
	}
	for _, state := range []store.State{store.Done, store.Dead, store.Cancelled} {
		n, err := f.s.Archive().Count(f.ctx, store.MessageFilter{State: state})
		f.ok(err)
		equal(f, "count of "+string(state), n, counts[state])
	}
	return all
}

// everyPlace puts messages in every state there is and finds each once.
func everyPlace(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	ids := f.enqueue(q, 6)
	got := f.take(c, 6)
	f.settle(c,
		outcome(got[0], store.OutcomeDone), outcome(got[1], store.OutcomeDiscard),
		outcome(got[2], store.OutcomeRelease),
		store.Outcome{Lease: got[3].Lease, Kind: store.OutcomeSnooze, Delay: lease},
		outcome(got[4], store.OutcomeDelete))
	cancelled := f.enqueue1(q)
	errs, err := f.s.Archive().Insert(f.ctx, "not wanted", cancelled)
	f.allOK(errs, err)

	want := map[int64]store.State{
		ids[0]: store.Done, ids[1]: store.Dead, ids[2]: store.Ready,
		ids[3]: store.Delayed, ids[5]: store.Leased, cancelled: store.Cancelled,
	}
	have := map[int64]store.State{}
	for id, m := range f.ledger() {
		have[id] = m.State
	}
	if !maps.Equal(have, want) {
		f.Fatalf("messages are %v, want %v", have, want)
	}
	f.gone(ids[4])
}

// raceDelete runs act in several goroutines while the queue is deleted with
// force. act returns ErrNotFound when the queue is gone. Then nothing of the
// queue may be left.
func (f *fixture) raceDelete(queue string, act func(worker int) error) {
	f.Helper()
	begun := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	failures := make(chan error, 3)
	for w := range 3 {
		wg.Go(func() {
			for f.ctx.Err() == nil {
				err := act(w)
				once.Do(func() { close(begun) })
				if err != nil {
					if !errors.Is(err, store.ErrNotFound) {
						failures <- err
					}
					return
				}
			}
		})
	}
	<-begun
	for {
		// Leased messages are in the way until their worker gives them up.
		err := f.s.Queues().Delete(f.ctx, queue, true)
		if err == nil {
			break
		}
		f.is(err, store.ErrLeased)
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		f.Fatalf("while the queue was deleted: %v", err)
	}
	for id, m := range f.ledger() {
		if m.Queue == queue {
			f.Fatalf("message %d is %s on queue %s, which was deleted", id, m.State, queue)
		}
	}
	f.queue(queue)
	f.takeNone(f.consumer(queue))
}

func enqueueRacesDelete(f *fixture) {
	for round := range 5 {
		q := f.queue("q" + strings.Repeat("x", round))
		f.raceDelete(q, func(w int) error {
			delay := withDelay(lease)
			if w == 0 {
				delay = withDelay(0)
			}
			_, err := f.s.Messages().Insert(f.ctx, messages(q, 3, delay))
			return err
		})
	}
}

func followUpRacesDelete(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	c := f.consumer(q)
	f.raceDelete(other, func(int) error {
		if _, err := f.s.Messages().Insert(f.ctx, messages(q, 1)); err != nil {
			return err
		}
		got, err := c.Dequeue(f.ctx, 1, lease)
		if err != nil || len(got) == 0 {
			return err
		}
		o := outcome(got[0], store.OutcomeDone)
		o.Enqueue = messages(other, 1)
		settled, err := c.Settle(f.ctx, []store.Outcome{o})
		if err != nil {
			return err
		}
		return settled[0].Err
	})
}

func replayRacesDelete(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	ids := f.enqueue(q, 60)
	var outcomes []store.Outcome
	for _, l := range f.take(c, 60) {
		outcomes = append(outcomes, outcome(l, store.OutcomeDiscard))
	}
	f.settle(c, outcomes...)
	var mu sync.Mutex
	f.raceDelete(q, func(int) error {
		mu.Lock()
		if len(ids) == 0 {
			mu.Unlock()
			return store.ErrNotFound
		}
		id := ids[0]
		ids = ids[1:]
		mu.Unlock()
		errs, err := f.s.Archive().Replay(f.ctx, id)
		if err != nil {
			return err
		}
		return errs[0]
	})
}

func dequeueRacesDelete(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 60)
	consumers := []store.Consumer{f.consumer(q), f.consumer(q), f.consumer(q)}
	var rounds [3]int
	f.raceDelete(q, func(w int) error {
		c := consumers[w]
		if rounds[w]++; rounds[w] > 30 {
			return store.ErrNotFound // let the deletion have its turn
		}
		got, err := c.Dequeue(f.ctx, 2, lease)
		if err != nil {
			return err
		}
		errs, err := c.Release(f.ctx, leases(got)...)
		if err != nil {
			return err
		}
		// A queue with leased messages cannot be deleted, so no lease is lost.
		if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
			return fmt.Errorf("a lease was lost to the deletion: %w", errs[i])
		}
		return nil
	})
}
