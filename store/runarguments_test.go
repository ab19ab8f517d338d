package store

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestValidateRunOutcome(t *testing.T) {
	wait := &Wait{Kind: WaitSleep, For: "nap", Delay: time.Hour}
	one := StepKey{Name: "one", Occurrence: 2}
	with := func(s StepResult) Outcome {
		s.StepKey = one
		return Outcome{Kind: OutcomeStep, Steps: []StepResult{s}}
	}
	large := json.RawMessage(`"` + strings.Repeat("x", 2*DefaultMaxPayloadBytes) + `"`)
	for _, tt := range []struct {
		name    string
		outcome Outcome
		detail  string
	}{
		{"nothing to record", Outcome{Kind: OutcomeStep}, ""},
		{"cancel", Outcome{Kind: OutcomeCancel, Version: "v1.2"}, ""},
		{"wait", Outcome{Kind: OutcomeWait, Wait: wait}, ""},
		{"wait without limit", Outcome{Kind: OutcomeWait, Wait: &Wait{Delay: -1, News: 7}}, ""},
		{"wait for nothing", Outcome{Kind: OutcomeWait}, "does not say what for"},
		{"done that waits", Outcome{Kind: OutcomeDone, Wait: wait}, "only wait may"},
		{"unknown wait", Outcome{Kind: OutcomeWait, Wait: &Wait{Kind: "rain"}}, `wait kind "rain"`},
		{"long wait", Outcome{Kind: OutcomeWait, Wait: &Wait{For: strings.Repeat("x", MaxWaitFor+1)}}, "513 bytes long, the limit is 512"},
		{"wait for NUL", Outcome{Kind: OutcomeWait, Wait: &Wait{For: "\x00"}}, "NUL"},
		{"long version", Outcome{Kind: OutcomeDone, Version: strings.Repeat("v", MaxVersion+1)}, "version is 257 bytes"},
		{"bad version", Outcome{Kind: OutcomeDone, Version: "\xff"}, "UTF-8"},

		{"branch", Outcome{Kind: OutcomeStep, Steps: []StepResult{{StepKey: StepKey{Name: "left/charge"}}}}, ""},
		{"unknown kind", with(StepResult{Kind: "leap"}), `step one#2: kind "leap"`},
		{"unknown state", with(StepResult{State: "lost"}), `state "lost"`},
		{"running", with(StepResult{State: StepRunning}), `state "running"`},
		{"negative position", with(StepResult{Position: -1}), "position -1"},
		{"negative tries", with(StepResult{Tries: -1}), "tries -1"},
		{"too many tries", with(StepResult{Tries: 1 << 31}), "too large"},
		{"negative time", with(StepResult{Took: -1}), "negative"},
		{"bad output", with(StepResult{Output: json.RawMessage(`{`)}), "step one#2: output: output breaks rule json"},

		{"sleep", with(StepResult{Kind: StepSleep, State: StepWaiting, Delay: -1}), ""},
		{"event", with(StepResult{Kind: StepEvent, Topic: "stage", Output: json.RawMessage(`1`)}), ""},
		{"event without a name", with(StepResult{Kind: StepEvent}), "topic is empty"},
		{"event that waits", with(StepResult{Kind: StepEvent, Topic: "stage", State: StepWaiting}), "never waits"},
		{"long topic", with(StepResult{Kind: StepSignal, Topic: strings.Repeat("t", MaxTopic+1)}), "topic is 201 bytes"},
		{"signal", with(StepResult{Kind: StepSignal, Signal: 7, Output: json.RawMessage(`1`)}), ""},
		{"signal of a body", with(StepResult{Signal: 7}), "takes a signal"},
		{"signal of a failure", with(StepResult{Kind: StepSignal, Signal: 7, Error: "timed out"}), "takes a signal"},
		{"signal while waiting", with(StepResult{Kind: StepSignal, Signal: 7, State: StepWaiting}), "takes a signal"},

		{"child", with(StepResult{Kind: StepChild, State: StepWaiting, Child: &NewRun{Workflow: "w"}}), ""},
		{"large child", with(StepResult{Kind: StepChild, State: StepWaiting, Child: &NewRun{Workflow: "w", Input: large}}), ""},
		{"child of a body", with(StepResult{State: StepWaiting, Child: &NewRun{Workflow: "w"}}), "starts a run"},
		{"child that is done", with(StepResult{Kind: StepChild, Child: &NewRun{Workflow: "w"}}), "starts a run"},
		{"child of no workflow", with(StepResult{Kind: StepChild, State: StepWaiting, Child: &NewRun{}}), "workflow name is empty"},
		{"child of bad input", with(StepResult{Kind: StepChild, State: StepWaiting, Child: &NewRun{Workflow: "w", Input: json.RawMessage(`{`)}}),
			"payload breaks rule json"},
		{"child of a bad key", with(StepResult{Kind: StepChild, State: StepWaiting, Child: &NewRun{Workflow: "w", Key: "\x00"}}), "NUL"},

		{"send", with(StepResult{Kind: StepSend, Send: &NewSignal{Run: 1, Topic: "t"}}), ""},
		{"large send", with(StepResult{Kind: StepSend, Send: &NewSignal{Run: 1, Topic: "t", Payload: large}}), ""},
		{"send of a body", with(StepResult{Send: &NewSignal{Run: 1, Topic: "t"}}), "only a step of kind send"},
		{"failed", Outcome{Kind: OutcomeDiscard, Failed: []Place{{}, {strings.Repeat("b", MaxStepName), 7}}}, ""},
		{"failed and yet done", Outcome{Kind: OutcomeDone, Failed: []Place{{}}}, "only discard may"},
		{"failed before its start", Outcome{Kind: OutcomeDiscard, Failed: []Place{{Position: -1}}}, "position -1"},
		{"failed in a branch that cannot be", Outcome{Kind: OutcomeDiscard, Failed: []Place{{Branch: "a\x00"}}}, "NUL"},

		{"send without a topic", with(StepResult{Kind: StepSend, Send: &NewSignal{Run: 1}}), "topic is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, ValidateOutcome(tt.outcome), tt.detail) })
	}
}

func TestValidateSignal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		signal NewSignal
		detail string
	}{
		{"empty payload", NewSignal{Topic: "t"}, ""},
		{"full", NewSignal{Topic: strings.Repeat("é", MaxTopic/2), Payload: json.RawMessage(`{}`), Key: strings.Repeat("k", MaxSignalKey)}, ""},
		{"no topic", NewSignal{}, "topic is empty"},
		{"long topic", NewSignal{Topic: strings.Repeat("t", MaxTopic+1)}, "limit is 200"},
		{"bad topic", NewSignal{Topic: "a\x00"}, "NUL"},
		{"long key", NewSignal{Topic: "t", Key: strings.Repeat("k", MaxSignalKey+1)}, "key is 513 bytes"},
		{"bad key", NewSignal{Topic: "t", Key: "\xff"}, "UTF-8"},
		{"bad payload", NewSignal{Topic: "t", Payload: json.RawMessage(`nope`)}, "payload breaks rule json"},
		{"large payload", NewSignal{Topic: "t", Payload: json.RawMessage(`"` + strings.Repeat("x", DefaultMaxPayloadBytes) + `"`)}, "max_bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, ValidateSignal(tt.signal), tt.detail) })
	}
}

func TestStepResultEnds(t *testing.T) {
	for _, tt := range []struct {
		result StepResult
		want   StepState
	}{
		{StepResult{}, StepSucceeded},
		{StepResult{Error: "no"}, StepFailed},
		{StepResult{Error: "no", State: StepWaiting}, StepWaiting},
		{StepResult{State: StepFailed}, StepFailed},
	} {
		if got := tt.result.Ends(); got != tt.want {
			t.Errorf("%+v ends as %s, want %s", tt.result, got, tt.want)
		}
	}
}

func TestNewRunMessage(t *testing.T) {
	if got := string((NewRun{Workflow: "w"}).Message().Payload); got != "null" {
		t.Errorf("a run without an input has the payload %q", got)
	}
	refused(t, ValidateRun(NewRun{Workflow: "w", Key: "k"}), "")
	refused(t, ValidateRun(NewRun{Workflow: "w", Delay: -1}), "negative")
}

func TestRunStatusTerminal(t *testing.T) {
	for status, want := range map[RunStatus]bool{
		RunQueued: false, RunRunning: false, RunWaiting: false, RunPaused: false, RunCancelling: false,
		RunSucceeded: true, RunFailed: true, RunCancelled: true,
	} {
		if got := status.Terminal(); got != want {
			t.Errorf("%s is terminal: %t, want %t", status, got, want)
		}
	}
}
