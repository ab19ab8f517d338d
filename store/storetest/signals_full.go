package storetest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// fill sends signals to a run until it is full, in as few as that takes.
func (f *fixture) fill(run int64) (sent int) {
	f.Helper()
	large := []byte(`"` + strings.Repeat("x", store.DefaultMaxPayloadBytes-2) + `"`)
	for range store.MaxSignalBytes / len(large) {
		f.send(run, "large", string(large), fmt.Sprint("k", sent))
		sent++
	}
	return sent
}

// signalsFull: what a run has to carry is bounded. Who sends too much is told
// so, and what was sent is received.
func signalsFull(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	n := f.fill(l.ID)
	table := f.s.Workflows()
	refused := store.NewSignal{Run: l.ID, Topic: "more", Payload: []byte(`"1"`), Key: "more"}
	news := f.load(l.ID).News
	_, created, err := table.Send(f.ctx, refused)
	f.is(err, store.ErrSignalsFull)
	equal(f, "created", created, false)
	equal(f, "news", f.load(l.ID).News, news)
	_, created, err = table.Send(f.ctx, store.NewSignal{Run: l.ID, Topic: "large", Key: "k0"}) // which is there
	f.ok(err)
	equal(f, "created", created, false)
	f.send(other, "small", `1`, "") // others have room
	signals := f.load(l.ID).Signals
	equal(f, "signals", len(signals), n)
	f.record(c, l, receiving("receive", signals[0]))
	f.send(l.ID, "more", `"1"`, "more")
	_, created, err = table.Send(f.ctx, refused)
	f.ok(err)
	equal(f, "created", created, false)
}

// signalsMany: the number is bounded as well, also of those that are sent by steps.
func signalsMany(f *fixture) {
	c, l := f.leasedRun()
	other := f.run(c.Queue(), "")
	const at = 1000
	steps := make([]store.StepResult, at)
	for i := range store.MaxSignals / at {
		for k := range steps {
			steps[k] = sending(fmt.Sprint("s", i, "/", k), other, `1`)
		}
		f.record(c, l, steps...)
	}
	_, _, err := f.s.Workflows().Send(f.ctx, store.NewSignal{Run: other, Topic: "more"})
	f.is(err, store.ErrSignalsFull)
	f.settleIs(c, store.ErrSignalsFull, stepping(l, sending("more", other, `1`)))
	f.record(c, l, steps[0], result("other", `1`)) // recorded before, and sends nothing
	signals := f.load(other).Signals
	equal(f, "signals", len(signals), store.MaxSignals)
	for i, s := range signals[1:] {
		if s.ID <= signals[i].ID {
			f.Fatalf("signal %d comes after %d", s.ID, signals[i].ID)
		}
	}
	lo := f.take1(c)
	f.record(c, lo, receiving("receive", signals[0]))
	f.record(c, l, sending("more", other, `1`))
	equal(f, "signals", len(f.load(other).Signals), store.MaxSignals)
	equal(f, "payload", bytes.Equal(f.load(other).Signals[0].Payload, []byte(`1`)), true)
}
