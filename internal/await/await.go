// Package await waits for what becomes of a run: its end, its events. The store
// tells nobody of these, so it asks again and again, ever more rarely.
package await

import (
	"context"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// How long between two questions: at first, and at most. One question is a look
// at a primary key.
const (
	first = 10 * time.Millisecond
	most  = 500 * time.Millisecond
)

// End waits until a run has ended, or patience has. It asks at least once, with
// ctx, and returns the run as it was seen last: whether it has ended stands in
// Run.Status. The error is the store's.
func End(ctx, patience context.Context, runs store.Workflows, id int64) (store.Run, error) {
	var run store.Run
	err := poll(patience, func() (bool, error) {
		var err error
		run, err = runs.Get(ctx, id)
		return run.Status.Terminal(), err
	})
	return run, err
}

// Event waits until a run has set an event, or has ended, or patience has. It
// asks at least once, with ctx. found is false if the run had not set it by then.
func Event(ctx, patience context.Context, runs store.Workflows, id int64, name string) (event store.Event, found bool, err error) {
	err = poll(patience, func() (bool, error) {
		// The run first: an event that is set before its end is then seen.
		run, err := runs.Get(ctx, id)
		if err != nil {
			return false, err
		}
		events, err := runs.Events(ctx, id)
		if err != nil {
			return false, err
		}
		for _, e := range events {
			if e.Name == name {
				event, found = e, true
			}
		}
		return found || run.Status.Terminal(), nil
	})
	return event, found, err
}

// poll asks until done, an error, or the end of patience.
func poll(patience context.Context, ask func() (done bool, err error)) error {
	for every := first; ; every = min(every*3/2, most) {
		if done, err := ask(); done || err != nil {
			return err
		}
		select {
		case <-time.After(every):
		case <-patience.Done():
			return nil
		}
	}
}
