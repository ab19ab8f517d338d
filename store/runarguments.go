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
		return fmt.Errorf("topic is empty: %w", ErrInvalid)
	}
	if strings.Contains(topic, "/") {
		return fmt.Errorf("topic %.40q holds a \"/\", which stands between branches and steps: %w", topic, ErrInvalid)
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
	for _, s := range o.Steps {
		if err := ValidateStepKey(s.StepKey); err != nil {
			return err
		}
		if err := validateStep(s); err != nil {
			return fmt.Errorf("step %s[%d]: %w", s.Name, s.Occurrence, err)
		}
	}
	return nil
}

func validateWait(o Outcome) error {
	switch {
	case o.Kind == OutcomeWait && o.Wait == nil:
		return fmt.Errorf("outcome wait does not say what for: %w", ErrInvalid)
	case o.Kind != OutcomeWait && o.Wait != nil:
		return fmt.Errorf("outcome %s says what the run waits for; only wait may: %w", o.Kind, ErrInvalid)
	case o.Wait == nil:
		return nil
	case !slices.Contains(waitKinds, o.Wait.Kind):
		return fmt.Errorf("wait kind %q is unknown: %w", o.Wait.Kind, ErrInvalid)
	}
	return validateText("what the run waits for", o.Wait.For, MaxWaitFor)
}

func validateStep(s StepResult) error {
	switch {
	case !slices.Contains(stepKinds, s.Kind):
		return fmt.Errorf("kind %q is unknown: %w", s.Kind, ErrInvalid)
	case !slices.Contains(results, s.State):
		return fmt.Errorf("state %q is none that a result has: %w", s.State, ErrInvalid)
	case s.State == StepWaiting && (s.Kind == StepSend || s.Kind == StepEvent):
		return fmt.Errorf("a step of kind %s never waits: %w", s.Kind, ErrInvalid)
	case outside(s.Position) || outside(s.Tries):
		return fmt.Errorf("position %d or tries %d is negative or too large: %w", s.Position, s.Tries, ErrInvalid)
	case s.Took < 0:
		return fmt.Errorf("it took %s, which is negative: %w", s.Took, ErrInvalid)
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
		return fmt.Errorf("only a succeeded step of kind %s takes a signal: %w", StepSignal, ErrInvalid)
	case s.Child != nil && (s.Kind != StepChild || s.State != StepWaiting):
		return fmt.Errorf("only a waiting step of kind %s starts a run: %w", StepChild, ErrInvalid)
	case s.Send != nil && s.Kind != StepSend:
		return fmt.Errorf("only a step of kind %s sends: %w", StepSend, ErrInvalid)
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
		return fmt.Errorf("%s is %d bytes long, the limit is %d: %w", what, len(text), limit, ErrInvalid)
	}
	if CleanText(text) != text {
		return fmt.Errorf("%s %q is not UTF-8 without NUL: %w", what, text, ErrInvalid)
	}
	return nil
}
