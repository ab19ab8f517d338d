package store

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// refused checks that err is ErrInvalid and says the detail; none is no error.
func refused(t *testing.T, err error, detail string) {
	t.Helper()
	switch {
	case detail == "" && err != nil:
		t.Fatalf("refused: %v", err)
	case detail != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), detail)):
		t.Fatalf("error is %v; want ErrInvalid with %q in it", err, detail)
	}
}

func TestValidateNew(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(m *NewMessage)
		detail string // "" is valid
	}{
		{"plain", func(*NewMessage) {}, ""},
		{"lowest priority", func(m *NewMessage) { m.Priority = MaxPriority }, ""},
		{"highest priority", func(m *NewMessage) { m.Priority = MinPriority }, ""},
		{"delay", func(m *NewMessage) { m.Delay = time.Hour }, ""},
		{"headers", func(m *NewMessage) { m.Headers = map[string]string{"k": "", "ключ": "значение\n"} }, ""},
		{"no queue", func(m *NewMessage) { m.Queue = "" }, "queue name is empty"},
		{"bad queue", func(m *NewMessage) { m.Queue = "a b" }, `"a b"`},
		{"no payload", func(m *NewMessage) { m.Payload = nil }, "empty"},
		{"bad payload", func(m *NewMessage) { m.Payload = []byte("{") }, "rule json"},
		{"priority too low", func(m *NewMessage) { m.Priority = MaxPriority + 1 }, "priority 1001 is outside -1000 to 1000"},
		{"priority too high", func(m *NewMessage) { m.Priority = MinPriority - 1 }, "priority -1001"},
		{"negative delay", func(m *NewMessage) { m.Delay = -time.Second }, "delay -1s is negative"},
		{"header without a key", func(m *NewMessage) { m.Headers = map[string]string{"": "v"} }, `header ""`},
		{"header key with NUL", func(m *NewMessage) { m.Headers = map[string]string{"a\x00": "v"} }, `header "a\x00"`},
		{"header value with NUL", func(m *NewMessage) { m.Headers = map[string]string{"k": "\x00"} }, `header "k"`},
		{"header value not UTF-8", func(m *NewMessage) { m.Headers = map[string]string{"k": "\xff"} }, `header "k"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMessage{Queue: "q", Payload: json.RawMessage(`1`)}
			tt.edit(&m)
			refused(t, ValidateNew(nil, m), tt.detail)
		})
	}
	strict := &Validator{RequiredKeys: []string{"id"}}
	refused(t, ValidateNew(strict, NewMessage{Queue: "q", Payload: json.RawMessage(`{}`)}), "required_key")
}

func TestValidatePolicy(t *testing.T) {
	for _, tt := range []struct {
		policy QueuePolicy
		detail string
	}{
		{QueuePolicy{}, ""},
		{QueuePolicy{Kind: WorkflowQueue, MaxAttempts: 1, Retention: -1}, ""},
		{QueuePolicy{Kind: "heap"}, `kind "heap" is neither job nor workflow`},
		{QueuePolicy{MaxAttempts: -1}, "max attempts -1"},
	} {
		refused(t, ValidatePolicy(tt.policy), tt.detail)
	}
	want := QueuePolicy{Kind: JobQueue, MaxAttempts: DefaultMaxAttempts, Retention: DefaultRetention}
	if got := (QueuePolicy{}).WithDefaults(); got != want {
		t.Errorf("defaults are %+v, want %+v", got, want)
	}
	set := QueuePolicy{Kind: WorkflowQueue, MaxAttempts: 2, Retention: -1}
	if got := set.WithDefaults(); got != set {
		t.Errorf("defaults changed %+v to %+v", set, got)
	}
}

func TestValidateOutcome(t *testing.T) {
	good := NewMessage{Queue: "q", Payload: json.RawMessage(`1`)}
	for _, tt := range []struct {
		name    string
		outcome Outcome
		detail  string
	}{
		{"done", Outcome{Kind: OutcomeDone, Output: json.RawMessage(`{}`)}, ""},
		{"done without output", Outcome{Kind: OutcomeDone}, ""},
		{"retry", Outcome{Kind: OutcomeRetry, Error: "any \x00 text", Delay: time.Hour}, ""},
		{"snooze", Outcome{Kind: OutcomeSnooze, Delay: time.Hour}, ""},
		{"discard", Outcome{Kind: OutcomeDiscard}, ""},
		{"release", Outcome{Kind: OutcomeRelease}, ""},
		{"delete", Outcome{Kind: OutcomeDelete}, ""},
		{"with follow-ups and steps", Outcome{Kind: OutcomeDone, Enqueue: []NewMessage{good},
			Steps: []StepResult{{StepKey: StepKey{Name: "s"}}, {StepKey: StepKey{Name: "s", Occurrence: 1}, Error: "no"}}}, ""},
		{"no kind", Outcome{}, `outcome kind ""`},
		{"unknown kind", Outcome{Kind: "vanish"}, `outcome kind "vanish"`},
		{"bad output", Outcome{Kind: OutcomeDone, Output: json.RawMessage(`"\u0000"`)}, "output breaks rule no_nul"},
		{"negative delay", Outcome{Kind: OutcomeRetry, Delay: -1}, "negative"},
		{"largest output", Outcome{Kind: OutcomeDone, Output: json.RawMessage(`"` + strings.Repeat("x", MaxOutputBytes-2) + `"`)}, ""},
		{"output too large", Outcome{Kind: OutcomeDone, Output: json.RawMessage(`"` + strings.Repeat("x", MaxOutputBytes-1) + `"`)},
			"output breaks rule max_bytes"},
		{"large follow-up", Outcome{Kind: OutcomeDone, Enqueue: []NewMessage{
			{Queue: "q", Payload: json.RawMessage(`"` + strings.Repeat("x", 2*DefaultMaxPayloadBytes) + `"`)}}}, ""},
		{"bad follow-up", Outcome{Kind: OutcomeDone, Enqueue: []NewMessage{good, {Queue: "q"}}}, "follow-up message 2: "},
		{"bad step name", Outcome{Kind: OutcomeDone, Steps: []StepResult{{}}}, "step name is empty"},
		{"bad step output", Outcome{Kind: OutcomeDone,
			Steps: []StepResult{{StepKey: StepKey{Name: "s", Occurrence: 2}, Output: json.RawMessage(`{`)}}}, "step s#2: output: "},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, ValidateOutcome(tt.outcome), tt.detail) })
	}
}

func TestValidateStepKey(t *testing.T) {
	for _, tt := range []struct {
		key    StepKey
		detail string
	}{
		{StepKey{Name: "fetch"}, ""},
		{StepKey{Name: strings.Repeat("é", MaxStepName/2), Occurrence: 1 << 20}, ""},
		{StepKey{}, "empty"},
		{StepKey{Name: strings.Repeat("a", MaxStepName+1)}, "257 bytes long, the limit is 256"},
		{StepKey{Name: "a\x00"}, "NUL"},
		{StepKey{Name: "\xff"}, "UTF-8"},
		{StepKey{Name: "a", Occurrence: -1}, "occurrence -1"},
	} {
		refused(t, ValidateStepKey(tt.key), tt.detail)
	}
}

func TestValidateInfo(t *testing.T) {
	for info, detail := range map[string]string{
		``:               "",
		`{}`:             "",
		" \n{\"a\": 1} ": "",
		`[]`:             "not a JSON object",
		`"x"`:            "not a JSON object",
		` 1`:             "not a JSON object",
		`{`:              "rule json",
		`  `:             "rule json",
		`{"a":"\u0000"}`: "rule no_nul",
	} {
		refused(t, ValidateInfo(json.RawMessage(info)), detail)
	}
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"plain":               "plain",
		"ünïcödé 😀 \uFFFD\n":  "ünïcödé 😀 \uFFFD\n",
		"a\x00b":              "a\uFFFDb",
		"\x00\x00":            "\uFFFD\uFFFD",
		"a\xffb":              "a\uFFFDb",
		"\xff\x00":            "\uFFFD\uFFFD",
		"cut \xc3":            "cut \uFFFD",
		"half \xed\xa0\x80 !": "half \uFFFD !",
	} {
		if got := CleanText(in); got != want {
			t.Errorf("CleanText(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestCleanError(t *testing.T) {
	for _, in := range []string{
		"short", "a\x00b", strings.Repeat("x", MaxErrorBytes), strings.Repeat("x", MaxErrorBytes+1),
		strings.Repeat("é", MaxErrorBytes), strings.Repeat("x", MaxErrorBytes-1) + "é",
		strings.Repeat("\x00", MaxErrorBytes), strings.Repeat("a\xff", MaxErrorBytes), strings.Repeat("😀", MaxErrorBytes),
	} {
		got := CleanError(in)
		if !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("CleanError of %d bytes is not storable: %q...", len(in), got[:20])
		}
		if len(got) > MaxErrorBytes {
			t.Errorf("CleanError of %d bytes is %d bytes long, the limit is %d", len(in), len(got), MaxErrorBytes)
		}
		if cut := strings.HasSuffix(got, "(cut)"); cut != (len(CleanText(in)) > MaxErrorBytes) {
			t.Errorf("CleanError of %d bytes ends in %q", len(in), got[max(0, len(got)-10):])
		}
		if CleanError(got) != got {
			t.Errorf("CleanError of %d bytes changes its own result", len(in))
		}
		if strings.HasPrefix(in, "éé") && strings.Contains(got, "\uFFFD") {
			t.Error("CleanError cut a character in two")
		}
	}
}

func FuzzCleanError(f *testing.F) {
	f.Add("a\x00b\xff")
	f.Add(strings.Repeat("é", MaxErrorBytes))
	f.Fuzz(func(t *testing.T, in string) {
		got := CleanError(in)
		if !utf8.ValidString(got) || strings.Contains(got, "\x00") || len(got) > MaxErrorBytes || CleanError(got) != got {
			t.Fatalf("CleanError(%q) is %q", in, got)
		}
	})
}
