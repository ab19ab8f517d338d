package store

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
		is   error // nil is none
	}{
		{&TransitionError{Worker: 7, From: WorkerReady, To: WorkerStopped},
			"worker 7 is ready and cannot become stopped; suspend it first", nil},
		{&TransitionError{Worker: 7, From: WorkerStopped, To: WorkerReady},
			"worker 7 is stopped and cannot become ready; a stopped worker stays stopped", nil},
		{&TransitionError{Worker: 7, From: WorkerSuspended, To: WorkerSuspended},
			"worker 7 is suspended and cannot become suspended", nil},
		{&NotReadyError{Worker: 7, State: WorkerSuspended}, "worker 7 is suspended; resume it first", nil},
		{&NotReadyError{Worker: 7, State: WorkerStopped}, "worker 7 is stopped", nil},
		{&HoldsMessagesError{Worker: 7, Messages: 3},
			"worker 7 still holds 3 messages; wait until they are settled, or release them", nil},
		{&UnknownQueueError{Queue: "censu", Near: []string{"census", "censor"}},
			`queue "censu" does not exist; did you mean census, censor?`, ErrNotFound},
		{&UnknownQueueError{Queue: "mail"},
			"queue \"mail\" does not exist; create it with `pgqrsd queue create mail`", ErrNotFound},
		{&UnknownQueueError{Queue: "order", Kind: WorkflowQueue},
			"workflow \"order\" does not exist; the daemon creates it when a handler serves it, or `pgqrsd queue create order --kind workflow` does", ErrNotFound},
		{&UnknownQueueError{Queue: "ordr", Kind: WorkflowQueue, Near: []string{"order"}},
			`workflow "ordr" does not exist; did you mean order?`, ErrNotFound},
		{&NotRunError{ID: 7}, "message 7 is a job, not a run; see `pgqrsd message get 7`", ErrNotFound},
		{Invalidf("delay %d is negative", -1), "delay -1 is negative", ErrInvalid},
		{NoStep(StepKey{Name: "a", Occurrence: 2}, nil), "it has no step a#2; nothing is recorded of it", ErrInvalid},
		{&PayloadError{Rule: RuleMaxBytes, Detail: "2 bytes, the limit is 1"},
			"payload breaks rule max_bytes: 2 bytes, the limit is 1", ErrInvalid},
		{&BatchError{Index: 4, Err: ErrInvalid}, "message 5 of the batch: invalid", ErrInvalid},
		{&RateLimitError{RetryAfter: 1234567 * time.Microsecond}, "rate limit exceeded; try again in 1.235s", nil},
		{&RateLimitError{RetryAfter: 100 * time.Microsecond}, "rate limit exceeded; try again in 1ms", nil},
		{&SchemaVersionError{Schema: "pgqrs", Have: 1, Want: 2},
			"schema pgqrs is at version 1, this binary needs 2; run `pgqrsd install`", ErrSchemaVersion},
		{&SchemaVersionError{Schema: "pgqrs", Have: 3, Want: 2},
			"schema pgqrs is at version 3, newer than this binary's 2; upgrade pgqrsd", ErrSchemaVersion},
		{&StepError{StepKey: StepKey{Name: "fetch", Occurrence: 2}, Reason: "no route"}, "step fetch#2 failed: no route", nil},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%T says\n  %s, want\n  %s", tt.err, got, tt.want)
		}
		// Wrapped, as they arrive.
		wrapped := fmt.Errorf("enqueue: %w", tt.err)
		if tt.is != nil && !errors.Is(wrapped, tt.is) {
			t.Errorf("%T is not %q", tt.err, tt.is)
		}
		for _, other := range []error{ErrNotFound, ErrInvalid, ErrSchemaVersion, ErrLeaseLost, ErrUnavailable} {
			if other != tt.is && errors.Is(wrapped, other) { //nolint:errorlint // sentinels, not errors that arrived
				t.Errorf("%T is %q", tt.err, other)
			}
		}
	}
}

// A bad message of a batch is found through the batch's error.
func TestBatchErrorUnwraps(t *testing.T) {
	err := fmt.Errorf("enqueue batch: %w", &BatchError{Index: 2, Err: fmt.Errorf("payload: %w", &PayloadError{Rule: RuleJSON})})
	if e, found := errors.AsType[*BatchError](err); !found || e.Index != 2 {
		t.Errorf("index is not found in %v", err)
	}
	if e, found := errors.AsType[*PayloadError](err); !found || e.Rule != RuleJSON {
		t.Errorf("rule is not found in %v", err)
	}
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("%v is not ErrInvalid", err)
	}
}

func TestArchived(t *testing.T) {
	for state, want := range map[State]bool{
		Delayed: false, Ready: false, Leased: false, Done: true, Dead: true, Cancelled: true, "": false,
	} {
		if got := state.Archived(); got != want {
			t.Errorf("%q archived: %t, want %t", state, got, want)
		}
	}
}

func TestLimitOrDefault(t *testing.T) {
	for limit, want := range map[int]int{0: DefaultLimit, -5: DefaultLimit, 1: 1, 5000: 5000} {
		if got := (Page{Limit: limit}).LimitOrDefault(); got != want {
			t.Errorf("limit %d is %d, want %d", limit, got, want)
		}
	}
}
