package view_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func encode(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := view.Encode(&b, v, ""); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMessageLeavesOutWhatHasNoValue(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.FixedZone("", 3600))
	got := encode(t, view.OfMessage(store.Message{
		ID: 7, Queue: "q", State: store.Ready, Payload: json.RawMessage(`{"a":"<&>"}`), EnqueuedAt: at,
	}))
	want := `{"id":7,"queue":"q","state":"ready","priority":0,"attempts":0,"payload":{"a":"<&>"},"errors":[],"enqueued_at":"2026-01-02T02:04:05.6Z"}` + "\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestArchivedMessage(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got := encode(t, view.OfMessage(store.Message{
		ID: 7, Queue: "q", State: store.Dead, Attempts: 1, Payload: json.RawMessage(`1`), EnqueuedAt: at, FinishedAt: at,
		Errors: []store.AttemptError{{Attempt: 1, At: at, Error: "boom", Worker: 3}}, Output: json.RawMessage(`[]`), Worker: 3,
	}))
	want := `{"id":7,"queue":"q","state":"dead","priority":0,"attempts":1,"payload":1,` +
		`"errors":[{"attempt":1,"at":"2026-01-02T03:04:05Z","error":"boom","worker":3}],"enqueued_at":"2026-01-02T03:04:05Z",` +
		`"worker":3,"output":[],"finished_at":"2026-01-02T03:04:05Z"}` + "\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestARowThatIsNotJSONStillPrints(t *testing.T) {
	for payload, want := range map[string]string{"{oops": `"{oops"`, "": "null", "\"\xff\"": `"\"\ufffd\""`} {
		var m struct{ Payload json.RawMessage }
		if err := json.Unmarshal([]byte(encode(t, view.OfMessage(store.Message{Payload: json.RawMessage(payload)}))), &m); err != nil {
			t.Fatal(err)
		}
		if string(m.Payload) != want {
			t.Errorf("payload %q shows as %s, want %s", payload, m.Payload, want)
		}
	}
}

func TestEmptyListIsAnArray(t *testing.T) {
	if got := encode(t, view.Each(nil, view.OfWorker)); got != "[]\n" {
		t.Errorf("got %q", got)
	}
}

// Nothing waits in a run that has ended.
func TestOpenStepsOfARunThatHasEnded(t *testing.T) {
	due := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for status, want := range map[store.RunStatus]store.StepState{
		store.RunWaiting: store.StepWaiting, store.RunCancelled: view.StepCancelled, store.RunFailed: view.StepUnfinished,
		store.RunSucceeded: view.StepUnfinished, store.RunCancelling: store.StepWaiting,
	} {
		steps := []store.StepRecord{{State: store.StepWaiting, DueAt: due}, {State: store.StepFailed}}
		got := view.OfRunDetail(store.Run{Status: status}, steps).Steps
		if got[0].State != want || got[0].DueAt.IsZero() != status.Terminal() || got[1].State != store.StepFailed {
			t.Errorf("the steps of a run that is %s are %+v, want %s", status, got, want)
		}
	}
}

func TestReasonOfACancelledRunIsTheCancellation(t *testing.T) {
	run := store.Run{Status: store.RunCancelled, Message: store.Message{Errors: []store.AttemptError{{Error: "no route"}}}}
	if got := view.OfResult(run).Error; got != "the run was cancelled" {
		t.Errorf("the reason is %q", got)
	}
	run.Status = store.RunFailed
	if got := view.OfResult(run).Error; got != "no route" {
		t.Errorf("the reason of a failed run is %q", got)
	}
}
