package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// answers makes a request, checks its status and reads the answer into v.
func (f *fixture) answers(code int, method, path, body string, v any) {
	f.Helper()
	got, _, answer := f.call(method, path, body)
	if got != code {
		f.Fatalf("%s %s %s: answered %d %s, want %d", method, path, body, got, answer, code)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(answer), v); err != nil {
			f.Fatalf("%s %s: the answer is not JSON: %q", method, path, answer)
		}
	}
}

// refuses makes a request that must fail by a rule.
func (f *fixture) refuses(code int, rule, method, path, body string) {
	f.Helper()
	var failed failure
	f.answers(code, method, path, body, &failed)
	if failed.Rule != rule || failed.Error == "" {
		f.Errorf("%s %s %s: failed with %+v, want rule %q", method, path, body, failed, rule)
	}
}

// runUnserved is a daemon beside a workflow that no handler serves.
func runUnserved(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := run(t, cfg)
	if _, err := f.store.Queues().Insert(t.Context(), "unserved", store.QueuePolicy{Kind: store.WorkflowQueue}); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHTTPRuns(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := runUnserved(t, testConfig(t, s))
		const start = "/api/v1/workflows/unserved/runs"
		var one, again made
		f.answers(http.StatusCreated, "POST", start, `{"input": {"n":  1.50}, "key": "k", "headers": {"traceparent": "00-a"}}`, &one)
		f.answers(http.StatusOK, "POST", start, `{"input": {"n":  1.50}, "key": "k"}`, &again)
		if !one.Created || again.Created || again.ID != one.ID {
			t.Errorf("starting twice is answered %+v and %+v", one, again)
		}
		f.refuses(http.StatusConflict, "key_conflict", "POST", start, `{"input": 2, "key": "k"}`)
		path := fmt.Sprintf("/api/v1/runs/%d", one.ID)
		var detail view.RunDetail
		f.answers(http.StatusOK, "GET", path, "", &detail)
		if detail.Status != store.RunQueued || string(detail.Input) != `{"n":1.50}` || detail.Headers["traceparent"] != "00-a" || detail.Steps == nil {
			t.Errorf("the run is %+v", detail)
		}
		var sent, twice made
		f.answers(http.StatusCreated, "POST", path+"/signals", `{"topic": "go", "payload": [1], "key": "s"}`, &sent)
		f.answers(http.StatusOK, "POST", path+"/signals", `{"topic": "go", "payload": [1], "key": "s"}`, &twice)
		if !sent.Created || twice.Created || twice.ID != sent.ID {
			t.Errorf("sending twice is answered %+v and %+v", sent, twice)
		}
		var result view.RunResult
		f.answers(http.StatusAccepted, "GET", path+"/result?wait=30ms", "", &result)
		if result.Status != store.RunQueued {
			t.Errorf("before its end the result is %+v", result)
		}
		f.answers(http.StatusOK, "POST", path+"/cancel", `{"descend": true}`, &result)
		if result.Status != store.RunCancelled {
			t.Errorf("cancelling is answered %+v", result)
		}
		f.answers(http.StatusOK, "GET", path+"/result", "", &result)
		if result.Status != store.RunCancelled {
			t.Errorf("the result of a cancelled run is %+v", result)
		}
		f.refuses(http.StatusConflict, "terminal", "POST", path+"/signals", `{"topic": "go"}`)
		f.refuses(http.StatusNotFound, "no_event", "GET", path+"/events/none?wait=30s", "")
	})
}

func TestHTTPRunsRefusals(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := runUnserved(t, testConfig(t, s))
		const start = "/api/v1/workflows/unserved/runs"
		for body, rule := range map[string]string{
			``: "json", `[]`: "type", `{"imput": 1}`: "unknown_field", `{} {}`: "json",
			`{"delay": "soon"}`: "delay", `{"input": "\u0000"}`: "no_nul", `{"key": 1}`: "type",
		} {
			f.refuses(http.StatusBadRequest, rule, "POST", start, body)
		}
		f.refuses(http.StatusNotFound, "unknown_queue", "POST", "/api/v1/workflows/unservd/runs", `{}`)
		f.refuses(http.StatusBadRequest, "workflow_name", "POST", "/api/v1/workflows/a%20b/runs", `{}`)
		f.refuses(http.StatusBadRequest, "invalid", "POST", "/api/v1/workflows/work/runs", `{}`) // a queue of jobs
		f.refuses(http.StatusRequestEntityTooLarge, "max_bytes", "POST", start, `{"input": "`+strings.Repeat("x", 1<<20)+`"}`)
		for _, path := range []string{"/api/v1/runs/99999", "/api/v1/runs/99999/result", "/api/v1/runs/99999/events/x?wait=30s"} {
			f.answers(http.StatusNotFound, "GET", path, "", nil)
		}
		f.refuses(http.StatusBadRequest, "id", "GET", "/api/v1/runs/x", "")
		f.answers(http.StatusNotFound, "POST", "/api/v1/runs/99999/cancel", "", nil)
		f.answers(http.StatusNotFound, "POST", "/api/v1/runs/99999/signals", `{"topic": "t"}`, nil)
		f.refuses(http.StatusBadRequest, "topic", "POST", "/api/v1/runs/99999/signals", `{}`)
		f.refuses(http.StatusBadRequest, "wait", "GET", "/api/v1/runs/1/result?wait=long", "")
		if n, err := s.Workflows().Count(t.Context(), store.RunFilter{}); err != nil || n != 0 {
			t.Errorf("%d runs were started, %v", n, err)
		}
	})
}

// A request that waits for a run does not hold up the daemon's stop.
func TestHTTPWaitEndsWithTheDaemon(t *testing.T) {
	f := runUnserved(t, testConfig(t, openSQLite(t)))
	id, _, err := f.store.CreateWorkflow(t.Context(), store.NewRun{Workflow: "unserved", Input: []byte("1"), Delay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/api/v1/runs/%d/result", id)
	written := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(written) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.d.HTTPAddr()+path+"?wait=50s", nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan int, 1)
	go func() {
		defer close(answered)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("the request was cut off: %v", err)
			return
		}
		_ = res.Body.Close()
		answered <- res.StatusCode
	}()
	<-written
	// Connections are accepted in turn: when a later one is answered, so is this one.
	f.answers(http.StatusAccepted, "GET", path+"?wait=50ms", "", nil)
	f.stop()
	if err := f.end(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if code := <-answered; code != http.StatusAccepted {
		t.Errorf("answered %d, want 202", code)
	}
}

func TestHTTPRunsRateLimit(t *testing.T) {
	cfg := testConfig(t, openSQLite(t))
	cfg.HTTPRate, cfg.HTTPBurst = 0.001, 1
	f := runUnserved(t, cfg)
	f.answers(http.StatusCreated, "POST", "/api/v1/workflows/unserved/runs", `{}`, nil)
	code, header, _ := f.call("POST", "/api/v1/workflows/unserved/runs", `{}`)
	if code != http.StatusTooManyRequests || header.Get("Retry-After") == "" {
		t.Errorf("answered %d, Retry-After %q", code, header.Get("Retry-After"))
	}
}
