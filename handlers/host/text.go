package host

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// maxText is how much is kept of one text that a handler sends, in bytes.
const maxText = 64 << 10

// cleanText makes text storable everywhere: valid UTF-8 without NUL.
func cleanText(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cutText is cleanText of at most n bytes, and says when it cut.
func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n] + " ... (cut)"
	}
	return cleanText(s)
}

func cleanMap(m map[string]string) map[string]string {
	clean := true
	for k, v := range m {
		if cleanText(k) != k || cleanText(v) != v {
			clean = false
			break
		}
	}
	if clean {
		return m
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[cleanText(k)] = cleanText(v)
	}
	return out
}

// cleanResult brings a handler's result of a queue of that kind to what the
// protocol promises to the daemon: a known outcome, storable text, no negative
// delay, steps and their places only of workflows.
func cleanResult(r *handlerpb.Result, kind handlerpb.Description_Kind) {
	switch r.Outcome {
	case handlerpb.Outcome_OUTCOME_DONE, handlerpb.Outcome_OUTCOME_RETRY, handlerpb.Outcome_OUTCOME_DISCARD,
		handlerpb.Outcome_OUTCOME_RELEASE:
	case handlerpb.Outcome_OUTCOME_SNOOZE:
		if r.DelayMs == nil {
			r.Outcome = handlerpb.Outcome_OUTCOME_RETRY
			r.Error = "the handler snoozed the job without saying for how long"
		}
	case handlerpb.Outcome_OUTCOME_WAIT, handlerpb.Outcome_OUTCOME_CANCEL:
		cleanHalt(r, kind)
	default:
		if r.Error == "" {
			r.Error = fmt.Sprintf("the handler sent no outcome that pgqrsd knows (%d)", r.Outcome)
		}
		r.Outcome = handlerpb.Outcome_OUTCOME_RETRY
	}
	if r.DelayMs != nil && *r.DelayMs < 0 {
		r.DelayMs = new(int64)
	}
	if r.Error != "" {
		r.Error = cutText(r.Error, maxText)
	}
	for _, e := range r.Enqueue {
		cleanEnqueue(e)
	}
	if len(r.Steps) > 0 {
		cleanResultSteps(r, kind)
	}
	if r.Outcome != handlerpb.Outcome_OUTCOME_DISCARD || kind != handlerpb.Description_KIND_WORKFLOW {
		r.Failed = nil
	}
	for _, p := range r.Failed {
		p.Branch = cleanText(p.Branch)
	}
}

// cleanHalt checks a result with which a run stops before its end.
func cleanHalt(r *handlerpb.Result, kind handlerpb.Description_Kind) {
	switch w := r.Wait; {
	case kind != handlerpb.Description_KIND_WORKFLOW:
		r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_RETRY, "the handler answered a job with an outcome that only runs of workflows have"
	case r.Outcome == handlerpb.Outcome_OUTCOME_CANCEL:
	case w == nil || w.Kind == WaitVersion: // that one is the host's
		r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_RETRY, "the handler let the run wait without saying for what"
	default:
		w.Kind, w.For = cleanText(w.Kind), cleanText(w.For)
	}
}

// cleanResultSteps checks the steps of a result. What cannot be recorded now
// could not be after another attempt.
func cleanResultSteps(r *handlerpb.Result, kind handlerpb.Description_Kind) {
	_, why := cleanSteps(r.Steps)
	if kind != handlerpb.Description_KIND_WORKFLOW {
		why = "the handler answered a job with steps, which only runs of workflows have"
	}
	if why != "" {
		r.Outcome, r.Error = handlerpb.Outcome_OUTCOME_DISCARD, why
		r.Output, r.Enqueue, r.Steps, r.Wait, r.Failed = nil, nil, nil, nil, nil
	}
}

func cleanEnqueue(e *handlerpb.Enqueue) {
	e.Queue = cleanText(e.Queue)
	e.Headers = cleanMap(e.Headers)
	e.DelayMs = max(e.DelayMs, 0)
}

// cleanJob keeps a job's texts from breaking the stream for all the others:
// protobuf refuses to send a frame with text that is not UTF-8.
func cleanJob(j *handlerpb.Job) {
	if len(j.Headers) > 0 {
		j.Headers = cleanMap(j.Headers)
	}
	for _, s := range j.Steps {
		s.Name, s.Error = cleanText(s.Name), cleanText(s.Error)
	}
	j.Version = cleanText(j.Version)
}

// validQueueName keeps the rule that the store has for names of queues.
func validQueueName(name string) error {
	const limit = 128
	if name == "" {
		return fmt.Errorf("it describes a queue without a name")
	}
	if len(name) > limit {
		return fmt.Errorf("its queue name %q... is %d bytes long, the limit is %d", cleanText(name[:32]), len(name), limit)
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case i > 0 && (c == '-' || c == '.' || c == ':'):
		default:
			return fmt.Errorf("its queue name %q may hold only letters, digits and _-.: and must start with a letter, a digit or _", name)
		}
	}
	return nil
}
