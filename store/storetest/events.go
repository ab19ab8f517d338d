package storetest

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func publishing(name, event, value string) store.StepResult {
	return store.StepResult{StepKey: key(name), Kind: store.StepEvent, Topic: event, Output: []byte(value)}
}

func events(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, publishing("one", "stage", `"paid"`), publishing("two", "amount", `12`))
	at := f.clock.Advance(time.Minute)
	f.record(c, l, publishing("three", "stage", `"sent"`))
	f.done(c, l)
	got, err := f.s.Workflows().Events(f.ctx, l.ID)
	f.ok(err)
	equal(f, "events", len(got), 2)
	equal(f, "first", got[0].Name+" "+string(got[0].Value), `amount 12`)
	equal(f, "second", got[1].Name+" "+string(got[1].Value), `stage "sent"`)
	equalTime(f, "set at", got[1].SetAt, at)
	equal(f, "kind", f.steps(l.ID)[0].Kind, store.StepEvent)
	f.settleIs(c, store.ErrInvalid, stepping(l, publishing("four", "", `1`)))
}

// eventsOnce: an old step recorded again publishes nothing.
func eventsOnce(f *fixture) {
	c, l := f.leasedRun()
	f.record(c, l, publishing("one", "stage", `1`))
	f.record(c, l, publishing("two", "stage", `2`))
	f.record(c, l, publishing("one", "stage", `1`))
	got, err := f.s.Workflows().Events(f.ctx, l.ID)
	f.ok(err)
	equal(f, "events", len(got), 1)
	equal(f, "value", string(got[0].Value), `2`)
}
