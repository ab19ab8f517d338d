package storetest

import (
	"encoding/json"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// Rule 3: settling is one transaction: message, archive row, follow-up messages
// and steps together; one bad item never holds up the others.
func settleCases() []testCase {
	cases := []testCase{
		{"FollowUpsCommitWithTheItem", followUps},
		{"FollowUpsOfEveryOutcome", followUpsOfEveryOutcome},
		{"FollowUpToItsOwnQueue", followUpToOwnQueue},
		{"StepsCommitWithTheItem", stepsWithItem},
		{"SettlingTheSameAgain", settleAgain},
		{"EmptyBatch", settleNothing},
		{"ErrorTextIsCleaned", errorTextIsCleaned},
		{"ManyBadAmongMany", manyBadAmongMany},
	}
	bad := []struct {
		name string
		item func(l store.LeasedMessage) store.Outcome
		want func(f *fixture, err error)
	}{
		{"OutputIsNotJSON", badOutput(`{"half":`), wantRule(store.RuleJSON)},
		{"OutputHasNUL", badOutput(`"\u0000"`), wantRule(store.RuleNUL)},
		{"OutputHasHalfASurrogate", badOutput(`"\ud800"`), wantRule(store.RuleSurrogate)},
		{"OutputHasHugeNumber", badOutput(`1e400000`), wantRule(store.RuleNumberRange)},
		{"OutputIsTooLarge", badOutput(`"` + strings.Repeat("x", store.MaxOutputBytes) + `"`), wantRule(store.RuleMaxBytes)},
		{"UnknownFollowUpQueue", badFollowUp(store.NewMessage{Queue: "nowhere", Payload: payload(1)}),
			func(f *fixture, err error) { f.unknownQueue(err, "nowhere") }},
		{"BadFollowUpPayload", badFollowUp(store.NewMessage{Queue: "other", Payload: json.RawMessage(`nope`)}), wantRule(store.RuleJSON)},
		{"BadFollowUpPriority", badFollowUp(store.NewMessage{Queue: "other", Payload: payload(1), Priority: store.MaxPriority + 1}), wantInvalid},
		{"BadStepOutput", func(l store.LeasedMessage) store.Outcome {
			o := outcome(l, store.OutcomeDone)
			o.Steps = []store.StepResult{
				{StepKey: store.StepKey{Name: "good"}, Output: payload(1)},
				{StepKey: store.StepKey{Name: "bad"}, Output: json.RawMessage(`nope`)},
			}
			return o
		}, wantRule(store.RuleJSON)},
		{"UnknownKind", func(l store.LeasedMessage) store.Outcome {
			return store.Outcome{Lease: l.Lease, Kind: "vanish"}
		}, wantInvalid},
		{"NegativeDelay", func(l store.LeasedMessage) store.Outcome {
			return store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Delay: -1}
		}, wantInvalid},
	}
	for _, b := range bad {
		cases = append(cases, testCase{"BadItem_" + b.name, func(f *fixture) { f.badItem(b.item, b.want) }})
	}
	return cases
}

func badOutput(output string) func(store.LeasedMessage) store.Outcome {
	return func(l store.LeasedMessage) store.Outcome {
		o := outcome(l, store.OutcomeDone)
		o.Output = json.RawMessage(output)
		return o
	}
}

func badFollowUp(m store.NewMessage) func(store.LeasedMessage) store.Outcome {
	return func(l store.LeasedMessage) store.Outcome {
		o := outcome(l, store.OutcomeDone)
		o.Enqueue = []store.NewMessage{{Queue: "other", Payload: payload(7)}, m}
		return o
	}
}

func wantRule(rule string) func(*fixture, error) {
	return func(f *fixture, err error) {
		f.Helper()
		equal(f, "rule", as[*store.PayloadError](f, err).Rule, rule)
		f.is(err, store.ErrInvalid)
	}
}

func wantInvalid(f *fixture, err error) {
	f.Helper()
	f.is(err, store.ErrInvalid)
}

// badItem settles a bad item between two good ones. The good ones are settled
// with all they carry; nothing of the bad one is, and its lease is still held.
func (f *fixture) badItem(item func(store.LeasedMessage) store.Outcome, want func(*fixture, error)) {
	q, other := f.queue("q"), f.queue("other")
	ids := f.enqueue(q, 3)
	c := f.consumer(q)
	got := f.take(c, 3)
	first, last := outcome(got[0], store.OutcomeDone), outcome(got[2], store.OutcomeRetry)
	first.Enqueue, last.Enqueue = messages(other, 1), messages(other, 2)

	settled := f.settle(c, first, item(got[1]), last)
	if settled[0].Err != nil || settled[0].State != store.Done || settled[2].Err != nil || settled[2].State != store.Ready {
		f.Fatalf("a bad item held up the others: %+v", settled)
	}
	want(f, settled[1].Err)
	equal(f, "state of the bad item", settled[1].State, "")
	f.state(ids[0], store.Done, 0)
	f.state(ids[1], store.Leased, 0)
	f.state(ids[2], store.Ready, 1)
	n, err := f.s.Messages().Count(f.ctx, store.MessageFilter{Queue: other})
	f.ok(err)
	equal(f, "follow-up messages", n, 3)

	// The bad item can be mended and settled.
	f.settleAs(c, store.Dead, outcome(got[1], store.OutcomeDiscard))
}

func followUps(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	id := f.enqueue1(q)
	c := f.consumer(q)
	o := outcome(f.take1(c), store.OutcomeDone)
	o.Enqueue = []store.NewMessage{
		{Queue: other, Payload: json.RawMessage(` {"b":1, "a":2} `), Priority: 3, Headers: map[string]string{"k": "v"}},
		{Queue: other, Payload: payload(2), Delay: lease},
	}
	f.settleAs(c, store.Done, o)
	f.state(id, store.Done, 0)
	list, err := f.s.Messages().List(f.ctx, store.MessageFilter{Queue: other})
	f.ok(err)
	equal(f, "follow-up messages", len(list), 2)
	equal(f, "payload", string(list[0].Payload), ` {"b":1, "a":2} `)
	equal(f, "priority", list[0].Priority, 3)
	equal(f, "header", list[0].Headers["k"], "v")
	equal(f, "state", list[0].State, store.Ready)
	equal(f, "state", list[1].State, store.Delayed)
	equalTime(f, "available at", list[1].AvailableAt, f.clock.Now().Add(lease))
	f.take(f.consumer(other), 1)
}

func followUpsOfEveryOutcome(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	kinds := []store.OutcomeKind{
		store.OutcomeDone, store.OutcomeRetry, store.OutcomeSnooze,
		store.OutcomeDiscard, store.OutcomeRelease, store.OutcomeDelete,
	}
	f.enqueue(q, len(kinds))
	c := f.consumer(q)
	var outcomes []store.Outcome
	for i, l := range f.take(c, len(kinds)) {
		o := outcome(l, kinds[i])
		o.Enqueue = messages(other, 1)
		outcomes = append(outcomes, o)
	}
	for i, s := range f.settle(c, outcomes...) {
		if s.Err != nil {
			f.Fatalf("settle as %s: %v", kinds[i], s.Err)
		}
	}
	f.take(f.consumer(other), len(kinds))
}

func followUpToOwnQueue(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 1)
	c := f.consumer(q)
	for range 5 {
		o := outcome(f.take1(c), store.OutcomeDone)
		o.Enqueue = messages(q, 1)
		f.settleAs(c, store.Done, o)
	}
	m := f.metrics(f.admin(), q)
	equal(f, "done", m.Done, 5)
	equal(f, "ready", m.Ready, 1)
}

func stepsWithItem(f *fixture) {
	q := f.queue("flow", store.QueuePolicy{Kind: store.WorkflowQueue})
	id := f.enqueue1(q)
	c := f.consumer(q)
	l := f.take1(c)
	o := outcome(l, store.OutcomeSnooze)
	o.Steps = []store.StepResult{
		{StepKey: store.StepKey{Name: "fetch"}, Output: json.RawMessage(`{"n": 1}`)},
		{StepKey: store.StepKey{Name: "fetch", Occurrence: 1}, Error: "no route"},
	}
	f.settleAs(c, store.Ready, o)
	steps, err := f.s.Workflows().Steps(f.ctx, id)
	f.ok(err)
	equal(f, "steps", len(steps), 2)
	equal(f, "state", steps[0].State, store.StepSucceeded)
	equal(f, "output", string(steps[0].Output), `{"n": 1}`)
	equal(f, "state", steps[1].State, store.StepFailed)
	equal(f, "occurrence", steps[1].Occurrence, 1)
	equal(f, "error", steps[1].Error, "no route")

	// Of a lost lease nothing is recorded.
	o.Steps = []store.StepResult{{StepKey: store.StepKey{Name: "late"}}}
	f.settleIs(c, store.ErrLeaseLost, o)
	// Nor of a refused item.
	o = outcome(f.take1(c), store.OutcomeDone)
	o.Steps = []store.StepResult{{StepKey: store.StepKey{Name: "refused"}}}
	o.Enqueue = messages("nowhere", 1)
	f.unknownQueue(f.settle(c, o)[0].Err, "nowhere")
	steps, err = f.s.Workflows().Steps(f.ctx, id)
	f.ok(err)
	equal(f, "steps", len(steps), 2)
}

func settleAgain(f *fixture) {
	q, other := f.queue("q"), f.queue("other")
	f.enqueue(q, 3)
	c := f.consumer(q)
	got := f.take(c, 3)
	o := outcome(got[0], store.OutcomeDone)
	o.Enqueue = messages(other, 1)
	f.settle(c, o, outcome(got[1], store.OutcomeRetry))
	again := f.settle(c, o, outcome(got[1], store.OutcomeRetry), outcome(got[2], store.OutcomeDone))
	f.is(again[0].Err, store.ErrLeaseLost)
	f.is(again[1].Err, store.ErrLeaseLost)
	f.ok(again[2].Err)
	f.state(got[1].ID, store.Ready, 1)
	f.take(f.consumer(other), 1)
	f.takeNone(f.consumer(other))
}

func settleNothing(f *fixture) {
	c := f.consumer(f.queue("q"))
	f.settle(c)
	for name, write := range map[string]func() ([]error, error){
		"started": func() ([]error, error) { return c.Started(f.ctx) },
		"extend":  func() ([]error, error) { return c.Extend(f.ctx, lease) },
		"archive": func() ([]error, error) { return c.Archive(f.ctx) },
		"delete":  func() ([]error, error) { return c.Delete(f.ctx) },
		"release": func() ([]error, error) { return c.Release(f.ctx) },
	} {
		errs, err := write()
		f.ok(err)
		equal(f, "results of an empty "+name, len(errs), 0)
	}
	f.ok(c.Progress(f.ctx, nil))
}

func errorTextIsCleaned(f *fixture) {
	q := f.queue("q")
	texts := []string{"a\x00b", "half \xff\xfe", strings.Repeat("é", store.MaxErrorBytes), ""}
	f.enqueue(q, len(texts))
	c := f.consumer(q)
	var outcomes []store.Outcome
	got := f.take(c, len(texts))
	for i, l := range got {
		outcomes = append(outcomes, store.Outcome{Lease: l.Lease, Kind: store.OutcomeRetry, Error: texts[i]})
	}
	for i, s := range f.settle(c, outcomes...) {
		f.ok(s.Err)
		equal(f, "state", s.State, store.Ready)
		m := f.state(got[i].ID, store.Ready, 1)
		equal(f, "errors", len(m.Errors), 1)
		equal(f, "error text", m.Errors[0].Error, store.CleanError(texts[i]))
	}
}

func manyBadAmongMany(f *fixture) {
	q := f.queue("q")
	f.enqueue(q, 300)
	c := f.consumer(q)
	got := f.take(c, 300)
	f.done(c, got[:50]...) // whose leases are lost from now on
	outcomes := make([]store.Outcome, len(got))
	for i, l := range got {
		outcomes[i] = outcome(l, store.OutcomeDone)
		if i%3 == 0 {
			outcomes[i].Output = json.RawMessage(`{`)
		}
	}
	var done, refused, lost int
	for i, s := range f.settle(c, outcomes...) {
		switch {
		case i%3 == 0 && s.Err != nil: // refused, or lost before it was looked at
			refused++
		case i < 50:
			f.is(s.Err, store.ErrLeaseLost)
			lost++
		default:
			f.ok(s.Err)
			done++
		}
	}
	equal(f, "refused", refused, 100)
	equal(f, "lost", lost, 33)
	equal(f, "done", done, 167)
	m := f.metrics(f.admin(), q)
	equal(f, "archived", m.Done, 217)
	equal(f, "leased", m.Leased, 83)
}
