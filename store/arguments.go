package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ValidateNew checks a message before it is stored: queue name, payload,
// priority, delay and headers. Both backends call it for every message.
func ValidateNew(v *Validator, m NewMessage) error {
	if err := ValidateQueueName(m.Queue); err != nil {
		return err
	}
	if v == nil {
		v = DefaultValidator
	}
	if err := v.Validate(m.Payload); err != nil {
		return err
	}
	if m.Priority < MinPriority || m.Priority > MaxPriority {
		return Invalidf("priority %d is outside %d to %d", m.Priority, MinPriority, MaxPriority)
	}
	if m.Delay < 0 {
		return Invalidf("delay %s is negative", m.Delay)
	}
	for k, val := range m.Headers {
		if k == "" || CleanText(k) != k || CleanText(val) != val {
			return Invalidf("header %q: keys must not be empty, and keys and values must be UTF-8 without NUL", k)
		}
	}
	return nil
}

// ValidatePolicy checks a queue's policy; zero fields are their defaults.
func ValidatePolicy(p QueuePolicy) error {
	if p.Kind != "" && p.Kind != JobQueue && p.Kind != WorkflowQueue {
		return Invalidf("queue kind %q is neither %s nor %s", p.Kind, JobQueue, WorkflowQueue)
	}
	if p.MaxAttempts < 0 {
		return Invalidf("max attempts %d is negative", p.MaxAttempts)
	}
	return nil
}

// ValidateOutcome checks what can be checked of an outcome without asking the
// database: its kind, output, delay, follow-up messages, steps and wait. A backend's
// Settle calls it for each item, and its error is that item's alone. Error
// texts need no check: they are stored as CleanError makes them.
func ValidateOutcome(o Outcome) error {
	switch o.Kind {
	case OutcomeDone, OutcomeRetry, OutcomeSnooze, OutcomeDiscard, OutcomeRelease, OutcomeDelete,
		OutcomeStep, OutcomeWait, OutcomeCancel:
	default:
		return Invalidf("outcome kind %q is unknown", o.Kind)
	}
	if err := ValidateOutput(o.Output); err != nil {
		return err
	}
	if o.Delay < 0 {
		return Invalidf("delay %s is negative", o.Delay)
	}
	for i, m := range o.Enqueue {
		if err := ValidateNew(storable, m); err != nil {
			return fmt.Errorf("follow-up message %d: %w", i+1, err)
		}
	}
	return validateRunOutcome(o)
}

// MaxOutputBytes is the largest output of a job or a step.
const MaxOutputBytes = 16 << 20

// storable is what a backend keeps of what handlers return, whatever smaller
// limits a producer sets for its payloads: the work has been done already.
var storable = &Validator{MaxBytes: MaxOutputBytes, MaxDepth: 500}

// ValidateOutput checks an output: nothing, or JSON of at most MaxOutputBytes
// that every backend can keep.
func ValidateOutput(output json.RawMessage) error {
	if len(output) == 0 {
		return nil
	}
	err := storable.Validate(output)
	var bad *PayloadError
	if errors.As(err, &bad) {
		bad.What = "output"
	}
	return err
}

// MaxStepName is the longest name of a step, in bytes.
const MaxStepName = 256

// ValidateStepKey accepts names of 1 to MaxStepName bytes of UTF-8 without NUL
// and occurrences from 0. The name of a step in a branch of its run begins with
// the branch's: "branch/name".
func ValidateStepKey(k StepKey) error {
	switch {
	case k.Name == "":
		return Invalidf("step name is empty")
	case len(k.Name) > MaxStepName:
		return Invalidf("step name is %d bytes long, the limit is %d", len(k.Name), MaxStepName)
	case CleanText(k.Name) != k.Name:
		return Invalidf("step name %q is not UTF-8 without NUL", k.Name)
	case outside(k.Occurrence):
		return Invalidf("step %s: occurrence %d is negative or too large", k.Name, k.Occurrence)
	}
	return nil
}

// ValidateInfo checks what a worker publishes about itself: nothing, or a JSON object.
func ValidateInfo(info json.RawMessage) error {
	if len(info) == 0 {
		return nil
	}
	if err := DefaultValidator.Validate(info); err != nil {
		return fmt.Errorf("worker info: %w", err)
	}
	if info[firstByte(info)] != '{' {
		return Invalidf("worker info is not a JSON object")
	}
	return nil
}

// CleanText makes text storable on every backend: valid UTF-8 without NUL.
func CleanText(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cutMark ends an error text that was too long.
const cutMark = " ... (cut)"

// CleanError is CleanText, cut to MaxErrorBytes between two characters.
func CleanError(s string) string {
	s = CleanText(s)
	if len(s) <= MaxErrorBytes {
		return s
	}
	end := MaxErrorBytes - len(cutMark)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}
