package store

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Limits of what names the things of a run, in bytes.
const (
	// MaxTopic is the longest topic of a signal, and the longest name of an event:
	// they name steps, beside which branches have room.
	MaxTopic = 200
	// MaxSignalKey is the longest key of a signal.
	MaxSignalKey = 512
	// MaxRunKey is the longest key of a run.
	MaxRunKey = 1024
	// MaxVersion is the longest version of a handler.
	MaxVersion = 256
	// MaxWaitFor is the longest Wait.For.
	MaxWaitFor = 512
)

// How many signals that no step has taken one run may have, and how many bytes
// their payloads: all of them travel with the run each time it is leased, and its
// steps and its input want room beside them. A few more may come to be there when
// several are sent at the same moment.
const (
	MaxSignals     = 10_000
	MaxSignalBytes = 8 << 20
)

var (
	waitKinds = []WaitKind{"", WaitSleep, WaitSignal, WaitChild, WaitRetry, WaitVersion, WaitStart}
	stepKinds = []StepKind{"", StepBody, StepSleep, StepSignal, StepSend, StepChild, StepEvent}
	results   = []StepState{"", StepWaiting, StepSucceeded, StepFailed}
)

// ValidateTopic accepts a signal's topic or an event's name: 1 to MaxTopic
// bytes of UTF-8 without NUL and "/". A step that receives is called as the topic,
// and what stands before a slash there is a branch.
func ValidateTopic(topic string) error {
	if topic == "" {
		return Invalidf("the topic is empty")
	}
	if strings.Contains(topic, "/") {
		return Invalidf("topic %.40q holds a \"/\", which stands between branches and steps", topic)
	}
	return validateText("topic", topic, MaxTopic)
}

// ValidateSignal checks a signal that is sent from outside. An empty payload
// is null and is in order.
func ValidateSignal(s NewSignal) error { return validateSignal(DefaultValidator, s) }

func validateSignal(v *Validator, s NewSignal) error {
	if err := ValidateTopic(s.Topic); err != nil {
		return err
	}
	if err := validateText("key", s.Key, MaxSignalKey); err != nil {
		return err
	}
	if len(s.Payload) == 0 {
		return nil
	}
	return v.Validate(s.Payload)
}

// ValidateRun checks a run before it is started: as ValidateNew its message,
// and its key. An empty input is null and is in order.
func ValidateRun(r NewRun) error { return validateRun(DefaultValidator, r) }

func validateRun(v *Validator, r NewRun) error {
	if err := ValidateWorkflowName(r.Workflow); err != nil {
		return err
	}
	msg := r.Message()
	if err := ValidateNew(v, msg); err != nil {
		return err
	}
	return validateText("key", r.Key, MaxRunKey)
}

// Message is the message that a new run is.
func (r NewRun) Message() NewMessage {
	m := NewMessage{Queue: r.Workflow, Payload: r.Input, Delay: r.Delay, Headers: r.Headers}
	if len(m.Payload) == 0 {
		m.Payload = []byte("null")
	}
	return m
}

// validateRunOutcome checks what an outcome says of a run.
func validateRunOutcome(o Outcome) error {
	if err := validateText("version", o.Version, MaxVersion); err != nil {
		return err
	}
	if err := validateWait(o); err != nil {
		return err
	}
	if len(o.Failed) > 0 && o.Kind != OutcomeDiscard {
		return Invalidf("outcome %s says which steps have ended the run; only discard may", o.Kind)
	}
	for _, p := range o.Failed {
		if err := ValidatePlace(p); err != nil {
			return err
		}
	}
	for _, s := range o.Steps {
		if err := ValidateStepKey(s.StepKey); err != nil {
			return err
		}
		if err := validateStep(s); err != nil {
			return fmt.Errorf("step %s: %w", s.Text(), err)
		}
	}
	return nil
}

// ValidatePlace accepts a place that a step may have.
func ValidatePlace(p Place) error {
	if outside(p.Position) {
		return Invalidf("position %d is negative or too large", p.Position)
	}
	return validateText("branch", p.Branch, MaxStepName)
}

func validateWait(o Outcome) error {
	switch {
	case o.Kind == OutcomeWait && o.Wait == nil:
		return Invalidf("outcome wait does not say what for")
	case o.Kind != OutcomeWait && o.Wait != nil:
		return Invalidf("outcome %s says what the run waits for; only wait may", o.Kind)
	case o.Wait == nil:
		return nil
	case !slices.Contains(waitKinds, o.Wait.Kind):
		return Invalidf("wait kind %q is unknown", o.Wait.Kind)
	}
	return validateText("what the run waits for", o.Wait.For, MaxWaitFor)
}

func validateStep(s StepResult) error {
	switch {
	case !slices.Contains(stepKinds, s.Kind):
		return Invalidf("kind %q is unknown", s.Kind)
	case !slices.Contains(results, s.State):
		return Invalidf("state %q is none that a result has", s.State)
	case s.State == StepWaiting && (s.Kind == StepSend || s.Kind == StepEvent):
		return Invalidf("a step of kind %s never waits", s.Kind)
	case outside(s.Position) || outside(s.Tries):
		return Invalidf("position %d or tries %d is negative or too large", s.Position, s.Tries)
	case s.Took < 0:
		return Invalidf("it took %s, which is negative", s.Took)
	}
	if err := ValidateOutput(s.Output); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return validateParts(s)
}

func outside(n int) bool { return n < 0 || n > math.MaxInt32 }

// validateParts checks what only some kinds of steps have.
func validateParts(s StepResult) error {
	if s.Topic != "" || s.Kind == StepEvent {
		if err := ValidateTopic(s.Topic); err != nil {
			return err
		}
	}
	switch {
	case s.Signal != 0 && (s.Kind != StepSignal || s.Ends() != StepSucceeded):
		return Invalidf("only a succeeded step of kind %s takes a signal", StepSignal)
	case s.Child != nil && (s.Kind != StepChild || s.State != StepWaiting):
		return Invalidf("only a waiting step of kind %s starts a run", StepChild)
	case s.Send != nil && s.Kind != StepSend:
		return Invalidf("only a step of kind %s sends", StepSend)
	case s.Child != nil:
		return validateRun(storable, *s.Child)
	case s.Send != nil:
		return validateSignal(storable, *s.Send)
	}
	return nil
}

// Ends is the state that is recorded: State, or its default.
func (r StepResult) Ends() StepState {
	switch {
	case r.State != "":
		return r.State
	case r.Error != "":
		return StepFailed
	}
	return StepSucceeded
}

func validateText(what, text string, limit int) error {
	if len(text) > limit {
		return Invalidf("%s is %d bytes long, the limit is %d", what, len(text), limit)
	}
	if CleanText(text) != text {
		return Invalidf("%s %q is not UTF-8 without NUL", what, text)
	}
	return nil
}
