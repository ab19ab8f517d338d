package storetest

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// ok ends the case unless err is nil.
func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("unexpected error: %v", err)
	}
}

// allOK ends the case unless a batch method succeeded for every item.
func (f *fixture) allOK(errs []error, err error) {
	f.Helper()
	f.ok(err)
	for i, e := range errs {
		if e != nil {
			f.Fatalf("item %d: unexpected error: %v", i, e)
		}
	}
}

// is checks an error against a sentinel.
func (f *fixture) is(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error is %v, want one that is %q", err, want)
	}
}

// eachIs checks one item's error for each of want; nil wants success.
func (f *fixture) eachIs(errs []error, err error, want ...error) {
	f.Helper()
	f.ok(err)
	if len(errs) != len(want) {
		f.Fatalf("%d results for %d items: %v", len(errs), len(want), errs)
	}
	for i := range want {
		if !errors.Is(errs[i], want[i]) {
			f.Fatalf("item %d: error is %v, want %v", i, errs[i], want[i])
		}
	}
}

// as checks that err is an E and returns it.
func as[E error](f *fixture, err error) E {
	f.Helper()
	e, found := errors.AsType[E](err)
	if !found {
		f.Fatalf("error is %v (%T), want a %v", err, err, reflect.TypeFor[E]())
	}
	return e
}

// unknownQueue checks for *store.UnknownQueueError of that name.
func (f *fixture) unknownQueue(err error, name string) {
	f.Helper()
	if e := as[*store.UnknownQueueError](f, err); e.Queue != name {
		f.Fatalf("error names queue %q, want %q", e.Queue, name)
	}
	f.is(err, store.ErrNotFound)
}

// transition checks for *store.TransitionError of that content.
func (f *fixture) transition(err error, id int64, from, to store.WorkerState) {
	f.Helper()
	want := store.TransitionError{Worker: id, From: from, To: to}
	if e := as[*store.TransitionError](f, err); *e != want {
		f.Fatalf("error is %+v, want %+v", *e, want)
	}
}

// notReady checks for *store.NotReadyError of that content.
func (f *fixture) notReady(err error, id int64, state store.WorkerState) {
	f.Helper()
	want := store.NotReadyError{Worker: id, State: state}
	if e := as[*store.NotReadyError](f, err); *e != want {
		f.Fatalf("error is %+v, want %+v", *e, want)
	}
}

// equal checks a value by name.
func equal[T comparable](f *fixture, what string, got, want T) {
	f.Helper()
	if got != want {
		f.Fatalf("%s is %v, want %v", what, got, want)
	}
}

// equalTime checks a time by name, to the microsecond that every backend keeps.
func equalTime(f *fixture, what string, got, want time.Time) {
	f.Helper()
	if !got.Truncate(time.Microsecond).Equal(want.Truncate(time.Microsecond)) {
		f.Fatalf("%s is %v, want %v", what, got, want)
	}
}

// equalIDs checks ids and their order.
func equalIDs(f *fixture, what string, got, want []int64) {
	f.Helper()
	if !slices.Equal(got, want) {
		f.Fatalf("%s are %v, want %v", what, got, want)
	}
}

// sameJSON compares JSON that a backend may write in its own way.
func sameJSON(f *fixture, what string, got json.RawMessage, want string) {
	f.Helper()
	var g, w any
	f.ok(json.Unmarshal(got, &g))
	f.ok(json.Unmarshal([]byte(want), &w))
	if !reflect.DeepEqual(g, w) {
		f.Fatalf("%s is %s, want %s", what, got, want)
	}
}

// get returns a message wherever it is.
func (f *fixture) get(id int64) store.Message {
	f.Helper()
	m, err := f.s.Messages().Get(f.ctx, id)
	f.ok(err)
	if m.ID != id {
		f.Fatalf("get of message %d returned message %d", id, m.ID)
	}
	return m
}

// state checks where a message is and how many of its attempts have failed.
func (f *fixture) state(id int64, want store.State, failed int) store.Message {
	f.Helper()
	m := f.get(id)
	if m.State != want || m.Attempts != failed {
		f.Fatalf("message %d is %s with %d failed attempts, want %s with %d", id, m.State, m.Attempts, want, failed)
	}
	return m
}

// gone checks that a message is nowhere.
func (f *fixture) gone(id int64) {
	f.Helper()
	_, err := f.s.Messages().Get(f.ctx, id)
	f.is(err, store.ErrNotFound)
}

// settle settles and checks only that the call as a whole went well.
func (f *fixture) settle(c store.Consumer, outcomes ...store.Outcome) []store.Settled {
	f.Helper()
	got, err := c.Settle(f.ctx, outcomes)
	f.ok(err)
	if len(got) != len(outcomes) {
		f.Fatalf("settle of %d outcomes returned %d results", len(outcomes), len(got))
	}
	return got
}

// settleAs settles one outcome and checks the state it leads to.
func (f *fixture) settleAs(c store.Consumer, want store.State, o store.Outcome) {
	f.Helper()
	if got := f.settle(c, o)[0]; got.Err != nil || got.State != want {
		f.Fatalf("settle of message %d as %s: state %q, error %v; want state %q", o.ID, o.Kind, got.State, got.Err, want)
	}
}

// settleIs settles one outcome and checks its error and that it has no state.
func (f *fixture) settleIs(c store.Consumer, want error, o store.Outcome) {
	f.Helper()
	if got := f.settle(c, o)[0]; !errors.Is(got.Err, want) || got.State != "" {
		f.Fatalf("settle of message %d as %s: state %q, error %v; want error %q", o.ID, o.Kind, got.State, got.Err, want)
	}
}

// done settles messages as done, which must succeed.
func (f *fixture) done(c store.Consumer, leased ...store.LeasedMessage) {
	f.Helper()
	errs, err := c.Archive(f.ctx, leases(leased)...)
	f.allOK(errs, err)
}

func outcome(l store.LeasedMessage, kind store.OutcomeKind) store.Outcome {
	o := store.Outcome{Lease: l.Lease, Kind: kind}
	if kind == store.OutcomeRetry || kind == store.OutcomeDiscard {
		o.Error = "it failed"
	}
	return o
}

// metrics returns the exact counts of one queue.
func (f *fixture) metrics(a store.Admin, queue string) store.QueueMetrics {
	f.Helper()
	got, err := a.QueueMetrics(f.ctx, queue)
	f.ok(err)
	if len(got) != 1 || got[0].Queue != queue {
		f.Fatalf("metrics of queue %s are %+v", queue, got)
	}
	return got[0]
}
