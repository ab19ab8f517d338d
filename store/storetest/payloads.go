package storetest

import (
	"fmt"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

func payloadCases() []testCase {
	return []testCase{
		{"ByteForByte", payloadByteForByte},
		{"LargestAndDeepest", payloadLargest},
		{"WhatHandlersReturnMayBeLarger", payloadLargeOutput},
		{"Refused", payloadRefused},
		{"RefusedInABatch", payloadRefusedInBatch},
		{"OwnValidator", payloadOwnValidator},
	}
}

// oddPayloads are valid, and easily changed by a database that understands JSON.
var oddPayloads = []string{
	`null`, `true`, `0`, `""`, `[]`, `{}`, `-0`, `-0.0`,
	` { "b" : 1 , "a" : [ 2 , 3 ] } `,
	"\n\t{\"k\":\r\n1}\n",
	`{"a":1,"a":2,"A":3}`,
	`{"z":1,"y":2,"x":3,"aa":4,"b":5}`,
	`123456789012345678901234567890`,
	`0.1000000000000000055511151231257827021181583404541015625`,
	`[1.0,1.00,1e2,1E+2,100,1e-300,1.7976931348623157e308,5e-324]`,
	`"\u0041\/\b\f\n\r\t\"\\"`,
	`"\ud83d\ude00 😀 \u2028 ` + "\u2028 \u00a0 \ufeff \uffff \U0010ffff" + `"`,
	`"\u0001\u001f\u007f"`,
	`{"":"","key with \"quotes\"":null,"\u0061":"escaped key"}`,
	`"'; drop table messages; --"`,
	`"<script>&amp;</script>"`,
	`"$1 ? :name %s {} {{schema}}"`,
	`9223372036854775808`,
}

func payloadByteForByte(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	ids := f.enqueue(q, len(oddPayloads), func(i int, m *store.NewMessage) { m.Payload = []byte(oddPayloads[i]) })
	delayed := f.enqueue(q, len(oddPayloads), withDelay(lease), func(i int, m *store.NewMessage) { m.Payload = []byte(oddPayloads[i]) })
	c := f.consumer(q)
	got := f.take(c, len(oddPayloads))
	outcomes := make([]store.Outcome, len(got))
	for i, l := range got {
		want := oddPayloads[i]
		equal(f, "leased payload", string(l.Payload), want)
		equal(f, "payload", string(f.get(ids[i]).Payload), want)
		equal(f, "delayed payload", string(f.get(delayed[i]).Payload), want)
		outcomes[i] = store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone, Output: []byte(want),
			Enqueue: []store.NewMessage{{Queue: other, Payload: []byte(want)}}}
	}
	for _, s := range f.settle(c, outcomes...) {
		f.ok(s.Err)
	}
	follow := f.take(f.consumer(other), len(oddPayloads))
	for i, want := range oddPayloads {
		m := f.get(ids[i])
		equal(f, "archived payload", string(m.Payload), want)
		equal(f, "output", string(m.Output), want)
		equal(f, "follow-up's payload", string(follow[i].Payload), want)
	}
	// Through a delay and back to the hot table.
	f.clock.Advance(lease)
	_, _, err := f.admin().Promote(f.ctx, 1000)
	f.ok(err)
	for i, l := range f.take(c, len(oddPayloads)) {
		equal(f, "promoted payload", string(l.Payload), oddPayloads[i])
	}
}

func payloadLargest(f *fixture) {
	q := f.queue("q")
	for _, p := range []string{
		`"` + strings.Repeat("x", store.DefaultMaxPayloadBytes-2) + `"`,
		strings.Repeat("[", store.DefaultMaxDepth) + strings.Repeat("]", store.DefaultMaxDepth),
	} {
		id := f.enqueue1(q, func(_ int, m *store.NewMessage) { m.Payload = []byte(p) })
		if got := string(f.get(id).Payload); got != p {
			f.Fatalf("a payload of %d bytes came back changed", len(p))
		}
		c := f.consumer(q)
		l := f.take1(c)
		f.settleAs(c, store.Done, store.Outcome{Lease: l.Lease, Kind: store.OutcomeDone, Output: []byte(p)})
		if got := string(f.get(id).Output); got != p {
			f.Fatalf("an output of %d bytes came back changed", len(p))
		}
	}
}

// payloadLargeOutput: the work has been done already, so that its output and
// follow-up messages are kept beyond what a producer may enqueue.
func payloadLargeOutput(f *fixture) {
	q := f.queue("q")
	c := f.consumer(q)
	follow := `"` + strings.Repeat("y", 2*store.DefaultMaxPayloadBytes) + `"`
	for _, output := range []string{
		`"` + strings.Repeat("x", store.MaxOutputBytes-2) + `"`,
		strings.Repeat(`{"a":[`, 250) + strings.Repeat(`]}`, 250),
	} {
		id := f.enqueue1(q)
		o := outcome(f.take1(c), store.OutcomeDone)
		o.Output = []byte(output)
		o.Enqueue = []store.NewMessage{{Queue: q, Payload: []byte(follow)}}
		f.settleAs(c, store.Done, o)
		if got := string(f.get(id).Output); got != output {
			f.Fatalf("an output of %d bytes came back changed", len(output))
		}
		l := f.take1(c)
		if string(l.Payload) != follow {
			f.Fatalf("a follow-up of %d bytes came back changed", len(follow))
		}
		f.done(c, l)
	}
}

// badPayloads are what no backend keeps, with the rule each breaks.
var badPayloads = []struct{ payload, rule string }{
	{``, store.RuleJSON},
	{`   `, store.RuleJSON},
	{`hello`, store.RuleJSON},
	{`{"a":}`, store.RuleJSON},
	{`{} {}`, store.RuleJSON},
	{`[1,]`, store.RuleJSON},
	{`'a'`, store.RuleJSON},
	{`NaN`, store.RuleJSON},
	{`01`, store.RuleJSON},
	{"\"a\x00b\"", store.RuleJSON},
	{"\"a\nb\"", store.RuleJSON},
	{"\"\xff\"", store.RuleJSON},
	{"\"\xed\xa0\x80\"", store.RuleJSON},
	{"\ufeff{}", store.RuleJSON},
	{`"\x41"`, store.RuleJSON},
	{`"\u00"`, store.RuleJSON},
	{`"` + strings.Repeat("x", store.DefaultMaxPayloadBytes-1) + `"`, store.RuleMaxBytes},
	{strings.Repeat(" ", store.DefaultMaxPayloadBytes+1), store.RuleMaxBytes},
	{strings.Repeat("[", store.DefaultMaxDepth+1) + strings.Repeat("]", store.DefaultMaxDepth+1), store.RuleMaxDepth},
	{strings.Repeat(`{"a":`, 500000), store.RuleMaxBytes},
	{strings.Repeat(`[`, 500000), store.RuleMaxDepth},
	{`"a\u0000b"`, store.RuleNUL},
	{`{"\u0000":1}`, store.RuleNUL},
	{`"\ud800"`, store.RuleSurrogate},
	{`"\udc00"`, store.RuleSurrogate},
	{`"\ud800\u0041"`, store.RuleSurrogate},
	{`"\ude00\ud83d"`, store.RuleSurrogate},
	{`{"\uD83D":1}`, store.RuleSurrogate},
	{`1e400000`, store.RuleNumberRange},
	{`-1e309`, store.RuleNumberRange},
	{`[1,{"a":1e999999999999}]`, store.RuleNumberRange},
	{`1e-400000`, store.RuleNumberRange},
	{strings.Repeat("9", 400), store.RuleNumberRange},
}

func payloadRefused(f *fixture) {
	q := f.queue("q", store.QueuePolicy{Kind: store.WorkflowQueue})
	p := f.producer()
	for i, bad := range badPayloads {
		msg := store.NewMessage{Queue: q, Payload: []byte(bad.payload)}
		for name, put := range map[string]func() error{
			"insert":  func() error { _, err := f.s.Messages().Insert(f.ctx, []store.NewMessage{msg}); return err },
			"enqueue": func() error { _, err := p.Enqueue(f.ctx, msg); return err },
			"workflow": func() error {
				_, _, err := f.s.CreateWorkflow(f.ctx, store.NewRun{Workflow: q, Input: msg.Payload})
				return err
			},
		} {
			if name == "workflow" && len(msg.Payload) == 0 {
				continue // no input is for a backend to take as null or to refuse
			}
			err := put()
			what := fmt.Sprintf("rule that payload %d breaks at %s", i, name)
			equal(f, what, as[*store.PayloadError](f, err).Rule, bad.rule)
			f.is(err, store.ErrInvalid)
		}
	}
	equal(f, "messages stored", len(f.ledger()), 0)
}

func payloadRefusedInBatch(f *fixture) {
	q := f.queue("q")
	p := f.producer()
	for i, bad := range badPayloads {
		msgs := messages(q, 5)
		msgs[i%5].Payload = []byte(bad.payload)
		_, err := p.EnqueueBatch(f.ctx, msgs)
		equal(f, "index of the bad one", as[*store.BatchError](f, err).Index, i%5)
		equal(f, "rule", as[*store.PayloadError](f, err).Rule, bad.rule)
	}
	equal(f, "messages stored", len(f.ledger()), 0)
}

func payloadOwnValidator(f *fixture) {
	q := f.queue("q")
	p := f.producer(store.ProducerOptions{
		WorkerOptions: store.WorkerOptions{Name: "strict"},
		Validator: &store.Validator{MaxBytes: 40, MaxDepth: 2, MaxString: 8,
			ForbiddenKeys: []string{"password"}, RequiredKeys: []string{"id"}},
	})
	for payload, rule := range map[string]string{
		`{"id":1,"pad":[1,2,3,4,5,6,7,8,9,10,11,12]}`: store.RuleMaxBytes,
		`{"id":[[1]]}`:                  store.RuleMaxDepth,
		`{"id":"123456789"}`:            store.RuleMaxString,
		`{"id":1,"a":{"password":"x"}}`: store.RuleForbiddenKey,
		`{"a":{"id":1}}`:                store.RuleRequiredKey,
		`[1]`:                           store.RuleRequiredKey,
	} {
		_, err := p.Enqueue(f.ctx, store.NewMessage{Queue: q, Payload: []byte(payload)})
		equal(f, "rule that "+payload+" breaks", as[*store.PayloadError](f, err).Rule, rule)
	}
	_, err := p.Enqueue(f.ctx, store.NewMessage{Queue: q, Payload: []byte(`{"id":"12345678"}`)})
	f.ok(err)
	equal(f, "messages stored", len(f.ledger()), 1)
}
