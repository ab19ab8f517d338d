package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// call makes a request and returns its status, headers and body.
func (f *fixture) call(method, path, body string) (int, http.Header, string) {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, "http://"+f.d.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

// posts enqueues on the queue "work" and checks the answer.
func (f *fixture) posts(body string, code int, rule string) {
	f.Helper()
	got, _, answer := f.call("POST", "/api/v1/queues/work/messages", body)
	var failed failure
	if err := json.Unmarshal([]byte(answer), &failed); err != nil {
		f.Fatalf("the answer is not JSON: %q", answer)
	}
	if got != code || failed.Rule != rule || (code != http.StatusCreated) != (failed.Error != "") {
		f.Errorf("%.80s: answered %d %s, want %d with rule %q", body, got, answer, code, rule)
	}
}

func TestHTTPEnqueues(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		code, _, body := f.call("POST", "/api/v1/queues/work/messages",
			`{"messages":[{"payload":{"out": {"n":  1.50}},"headers":{"traceparent":"00-a"},"priority":-3},{"payload":{},"delay":"1h"}]}`)
		var made struct{ IDs []int64 }
		if err := json.Unmarshal([]byte(body), &made); err != nil || code != http.StatusCreated || len(made.IDs) != 2 {
			t.Fatalf("answered %d %s", code, body)
		}
		f.becomes(made.IDs[0], store.Done)
		code, _, body = f.call("GET", fmt.Sprintf("/api/v1/messages/%d", made.IDs[0]), "")
		var m view.Message
		if err := json.Unmarshal([]byte(body), &m); err != nil || code != http.StatusOK {
			t.Fatalf("answered %d %s", code, body)
		}
		if m.State != store.Done || m.Priority != -3 || m.Headers["traceparent"] != "00-a" || !strings.Contains(string(m.Output), "1.50") {
			t.Errorf("the message is %s", body)
		}
		// The bytes of the payload are the caller's.
		if got := string(f.get(made.IDs[0]).Payload); got != `{"out": {"n":  1.50}}` {
			t.Errorf("the payload is stored as %s", got)
		}
		if m := f.get(made.IDs[1]); m.State != store.Delayed {
			t.Errorf("the delayed message is %s", m.State)
		}
	})
}

func TestHTTPRefusals(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		for body, want := range map[string]struct {
			code int
			rule string
		}{
			``:                                    {400, "json"},
			`{"messages":`:                        {400, "json"},
			`{"messages":[{"payload":1}]} {}`:     {400, "json"},
			`[]`:                                  {400, "type"},
			`{}`:                                  {400, "messages"},
			`{"messages":[]}`:                     {400, "messages"},
			`{"mesages":[]}`:                      {400, "unknown_field"},
			`{"messages":[{"paylod":1}]}`:         {400, "unknown_field"},
			`{"messages":[{}]}`:                   {400, "payload"},
			`{"messages":[{"payload":"\u0000"}]}`: {400, "no_nul"},
			`{"messages":[{"payload":"\ud800"}]}`: {400, "surrogate"},
			`{"messages":[{"payload":1e400000}]}`: {400, "number_range"},
			`{"messages":[{"payload":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}]}`:     {400, "max_depth"},
			`{"messages":[{"payload":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}]}`: {400, "max_depth"},
			"{\"messages\":[{\"payload\":\"\xff\"}]}":                                                    {400, "json"},
			`{"messages":[{"payload":1,"delay":"soon"}]}`:                                                {400, "delay"},
			`{"messages":[{"payload":1,"delay":"-1s"}]}`:                                                 {400, "delay"},
			`{"messages":[{"payload":1,"delay":30}]}`:                                                    {400, "type"},
			`{"messages":[{"payload":1,"priority":5000}]}`:                                               {400, "priority"},
			`{"messages":[{"payload":"` + strings.Repeat("x", 1<<20) + `"}]}`:                            {413, "max_bytes"},
			`{"messages":[{"payload":"` + strings.Repeat("x", maxRequestBytes) + `"}]}`:                  {413, "max_request_bytes"},
			`{"messages":[` + strings.Repeat(`{"payload":1},`, maxRequestMessages) + `{"payload":1}]}`:   {413, "max_messages"},
		} {
			f.posts(body, want.code, want.rule)
		}
		if n := f.count(store.Ready) + f.count(store.Done); n != 0 {
			t.Errorf("%d messages were stored", n)
		}

		code, _, body := f.call("POST", "/api/v1/queues/works/messages", `{"messages":[{"payload":1}]}`)
		if code != http.StatusNotFound || !strings.Contains(body, `"near":["work"]`) {
			t.Errorf("an unknown queue is answered %d %s", code, body)
		}
		if code, _, body = f.call("POST", "/api/v1/queues/a%20b/messages", `{"messages":[{"payload":1}]}`); code != http.StatusBadRequest {
			t.Errorf("a bad queue name is answered %d %s", code, body)
		}
		if code, _, body = f.call("POST", "/api/v1/queues/work/messages", `{"messages":[{"payload":1},{"payload":"\u0000"}]}`); code != http.StatusBadRequest || !strings.Contains(body, `"index":1`) {
			t.Errorf("a bad second message is answered %d %s", code, body)
		}
		for path, want := range map[string]int{
			"/api/v1/messages/999999": http.StatusNotFound, "/api/v1/messages/x": http.StatusBadRequest,
			"/healthz": http.StatusOK, "/readyz": http.StatusOK, "/metrics": http.StatusOK,
		} {
			if code, _, body := f.call("GET", path, ""); code != want {
				t.Errorf("GET %s is answered %d %s, want %d", path, code, body, want)
			}
		}
	})
}

// What the API has no path or no method for is answered as every other error.
func TestHTTPUnknownPathsAreAnsweredInJSON(t *testing.T) {
	f := run(t, testConfig(t, openSQLite(t)))
	for _, path := range []string{"/nothing", "/", "/api/v1/runs/1/nothing", "/api/v1/runs"} {
		f.refuses(http.StatusNotFound, "unknown_path", "GET", path, "")
	}
	f.refuses(http.StatusMethodNotAllowed, "method", "GET", "/api/v1/queues/work/messages", "")
	f.refuses(http.StatusMethodNotAllowed, "method", "DELETE", "/api/v1/runs/1", "")
	_, header, body := f.call("PUT", "/api/v1/workflows/w/runs", "{}")
	if allow := header.Get("Allow"); !strings.Contains(allow, "GET") || !strings.Contains(allow, "POST") ||
		header.Get("Content-Type") != "application/json" || !strings.Contains(body, "not PUT") {
		t.Errorf("a method that is not served is answered %v %s", header, body)
	}
}

// A web page may make its visitor's browser send requests to a loopback address.
func TestHTTPRefusesOtherOrigins(t *testing.T) {
	f := run(t, testConfig(t, openSQLite(t)))
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.d.HTTPAddr()+"/api/v1/queues/work/messages",
			strings.NewReader(`{"messages":[{"payload":{}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(name, value)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var failed failure
		if err := json.NewDecoder(res.Body).Decode(&failed); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusForbidden || failed.Rule != "cross_origin" {
			t.Errorf("with %s: %s it is answered %d %+v", name, value, res.StatusCode, failed)
		}
	}
}

func TestHTTPBoundsTheBytesOfAllRequests(t *testing.T) {
	f := run(t, testConfig(t, openSQLite(t)))
	if !f.d.bodies.TryAcquire(maxBodies - 10) {
		t.Fatal("bytes are taken while nobody asks")
	}
	code, header, body := f.call("POST", "/api/v1/queues/work/messages", `{"messages":[{"payload":{}}]}`)
	if code != http.StatusServiceUnavailable || header.Get("Retry-After") != "1" || !strings.Contains(body, ruleBusy) {
		t.Errorf("answered %d %s, Retry-After %q", code, body, header.Get("Retry-After"))
	}
	f.d.bodies.Release(maxBodies - 10)
	f.posts(`{"messages":[{"payload":{}}]}`, http.StatusCreated, "")
}

func TestHTTPRateLimit(t *testing.T) {
	cfg := testConfig(t, openSQLite(t))
	cfg.HTTPRate, cfg.HTTPBurst = 0.001, 2
	f := run(t, cfg)
	f.posts(`{"messages":[{"payload":{}},{"payload":{}}]}`, http.StatusCreated, "")
	code, header, body := f.call("POST", "/api/v1/queues/work/messages", `{"messages":[{"payload":{}}]}`)
	if code != http.StatusTooManyRequests || header.Get("Retry-After") == "" {
		t.Errorf("answered %d %s, Retry-After %q", code, body, header.Get("Retry-After"))
	}
	if wait, err := time.ParseDuration(header.Get("Retry-After") + "s"); err != nil || wait < time.Minute {
		t.Errorf("Retry-After is %q", header.Get("Retry-After"))
	}
	f.posts(`{"messages":[{"payload":{}},{"payload":{}},{"payload":{}}]}`, http.StatusBadRequest, "invalid")
}

func TestHTTPWhileTheDatabaseIsAway(t *testing.T) {
	server := pgtest.Start(t)
	f := run(t, testConfig(t, openPostgres(t, server.DSN(), "pgqrs")))
	server.StopImmediate()
	f.posts(`{"messages":[{"payload":{}}]}`, http.StatusServiceUnavailable, "database_unavailable")
	code, _, body := f.call("GET", "/readyz", "")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "database unavailable") {
		t.Errorf("readyz answers %d %s", code, body)
	}
	_, _, got := f.call("GET", "/api/v1/messages/1", "")
	for _, answer := range []string{body, got} {
		if strings.Contains(answer, "127.0.0.1") || strings.Contains(answer, "pgqrs@") {
			t.Errorf("the answer tells where the database is: %s", answer)
		}
	}
	if code, _, body := f.call("GET", "/healthz", ""); code != http.StatusOK {
		t.Errorf("healthz answers %d %s", code, body)
	}
	server.Start()
	f.eventually("it is ready again", func() bool {
		code, _, _ := f.call("GET", "/readyz", "")
		return code == http.StatusOK
	})
	f.eventually("it takes messages again", func() bool {
		code, _, _ := f.call("POST", "/api/v1/queues/work/messages", `{"messages":[{"payload":{}}]}`)
		return code == http.StatusCreated
	})
	f.counts(1, store.Done)
}
