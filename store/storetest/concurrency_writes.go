package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pgqrs/pgqrsd/store"
)

// everyWriteAtOnce does at the same time all that a fleet does to one queue, in
// different orders: nothing may deadlock, fail or be lost.
func everyWriteAtOnce(f *fixture) {
	const claims, each, rounds = 6, 10, 8
	q, other := f.queue("q", attempts(1000)), f.queue("other")
	c, twin := f.consumer(q), f.on(f.second())
	a := twin.admin()
	f.enqueue(q, claims*each)
	var all []store.LeasedMessage
	for range claims {
		all = append(all, f.take(c, each)...)
	}
	forward := leases(all)
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	progress := map[store.Lease]store.Progress{}
	for _, l := range forward {
		progress[l] = store.Progress{Percent: 50}
	}
	every := func(errs []error, err error) error { return errors.Join(append(errs, err)...) }
	writers := map[string]func(round int) error{
		"extend":          func(int) error { return every(c.Extend(f.ctx, lease, forward...)) },
		"extend backward": func(int) error { return every(c.Extend(f.ctx, lease, backward...)) },
		"started":         func(int) error { return every(c.Started(f.ctx, backward...)) },
		"progress":        func(int) error { return c.Progress(f.ctx, progress) },
		"heartbeat": func(int) error {
			_, err := twin.s.Workers().Heartbeat(f.ctx, c.ID(), a.ID())
			return err
		},
		"enqueue": func(int) error {
			_, err := twin.s.Messages().Insert(f.ctx, append(messages(other, 3), messages(q, 3, withDelay(lease))...))
			return err
		},
		"policy": func(n int) error {
			_, err := f.s.Queues().Ensure(f.ctx, q, attempts(1000+n))
			return err
		},
		"maintenance": func(int) error {
			_, err := a.GiveBack(f.ctx)
			_, _, err2 := a.Promote(f.ctx, 10)
			_, err3 := a.Reclaim(f.ctx, silence)
			_, err4 := a.PurgeExpired(f.ctx, 10)
			return errors.Join(err, err2, err3, err4)
		},
		"metrics": func(int) error {
			_, err := a.QueueMetrics(f.ctx)
			_, err2 := a.SystemStats(f.ctx)
			return errors.Join(err, err2)
		},
	}
	var wg sync.WaitGroup
	failures := make(chan error, len(writers))
	for name, write := range writers {
		wg.Go(func() {
			for n := range rounds {
				if err := write(n); err != nil {
					failures <- fmt.Errorf("%s: %w", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		f.Fatal(err)
	}
	f.done(c, all...)
	m := f.metrics(a, q)
	equal(f, "metrics", m, store.QueueMetrics{Queue: q, Done: claims * each, Delayed: 3 * rounds})
}
