package integration

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

func itoa(n int) string { return strconv.Itoa(n) }

// badPayloads are refused at enqueue by the name of the rule, on both backends
// alike, from the command line and over HTTP.
var badPayloads = map[string]struct{ payload, rule string }{
	"not JSON":        {`{"a":`, "json"},
	"bare word":       {`hello`, "json"},
	"too deep":        {strings.Repeat("[", 500) + strings.Repeat("]", 500), "max_depth"},
	"NUL":             {`{"a":"\u0000"}`, "no_nul"},
	"lone surrogate":  {`{"a":"\ud800"}`, "surrogate"},
	"number too big":  {`{"a":1e400000}`, "number_range"},
	"too large":       {`"` + strings.Repeat("x", 1<<20) + `"`, "max_bytes"},
	"trailing garble": {`{} {}`, "json"},
}

func TestBadPayloads(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{})
		for name, bad := range badPayloads {
			_, stderr, code := w.cliInput(bad.payload, "message", "enqueue", "work", "--payload", "-")
			if code != 1 || !strings.Contains(stderr, bad.rule) {
				t.Errorf("%s: exit %d, %.300q; want 1 and rule %s named", name, code, stderr, bad.rule)
			}
			resp, err := http.Post(d.url("/api/v1/queues/work/messages"), "application/json", strings.NewReader(`{"messages":[{"payload":`+bad.payload+`}]}`))
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			must(t, err)
			must(t, resp.Body.Close())
			want := http.StatusBadRequest
			if bad.rule == "max_bytes" {
				want = http.StatusRequestEntityTooLarge
			}
			if resp.StatusCode != want {
				t.Errorf("%s over HTTP: %d %.300q, want %d", name, resp.StatusCode, body, want)
			}
			if bad.rule != "json" && !strings.Contains(string(body), bad.rule) {
				t.Errorf("%s over HTTP: %.300q does not name rule %s", name, body, bad.rule)
			}
		}
		if n := w.unfinished("work") + int64(len(w.archived("work"))); n != 0 {
			t.Errorf("%d messages were stored", n)
		}
		_, stderr, code := w.cli("message", "enqueue", "wrok", "--payload", "{}")
		if code != 1 || !strings.Contains(stderr, "did you mean work") {
			t.Errorf("a mistyped queue: exit %d, %q; want the near name", code, stderr)
		}
		d.stop()
	})
}

// What a handler sends that cannot be kept costs that item alone.
func TestBadResults(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "max_attempts = 1"})
		good := w.enqueue(many(50)...)
		bad := map[string]int64{}
		for name, payload := range map[string]string{
			"undecodable":     `{"n":"not a number"}`,
			"output not JSON": `{"raw":"{\"a\":"}`,
			"output with NUL": `{"raw":"\"\\u0000\""}`,
			"panic":           `{"panic":"so much for that"}`,
			"unknown queue":   `{"follow":"no-such-queue"}`,
			"discarded":       `{"discard":"never again"}`,
		} {
			ids, err := w.store.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "work", Payload: []byte(payload)}})
			must(t, err)
			bad[name] = ids[0]
		}
		long := w.enqueue(map[string]any{"print": 10_000_000}, map[string]any{"n": 1})
		w.settle()
		d.stop()
		archive := w.archived("work")
		for name, id := range bad {
			m := archive[id]
			if m.State != store.Dead || len(m.Errors) == 0 || m.Errors[len(m.Errors)-1].Error == "" {
				t.Errorf("%s: message is %s with errors %v, want dead with its error", name, m.State, m.Errors)
			}
			t.Logf("%s: %.200v", name, m.Errors)
		}
		for _, id := range append(good, long...) {
			if archive[id].State != store.Done {
				t.Errorf("message %d is %s, want done: %v", id, archive[id].State, archive[id].Errors)
			}
		}
	})
}

// Follow-up work is committed with the job that asked for it.
func TestFollowUps(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{})
		jobs := many(100)
		for _, j := range jobs {
			j["follow"] = "work"
		}
		w.enqueue(jobs...)
		w.settle()
		d.stop()
		if n := len(w.archived("work")); n != 200 {
			t.Errorf("%d messages archived, want 100 and their 100 follow-ups", n)
		}
	})
}

// The configuration and the DSN are refused with the key, the file, and
// without the password.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"unknown key":      {"[daemon]\ndrain_timeuot = \"3s\"\n", "drain_timeuot"},
		"wrong type":       {"[daemon]\ndrain_timeout = true\n", "drain_timeout"},
		"not a duration":   {"[daemon]\ndrain_timeout = \"fast\"\n", "drain_timeout"},
		"impossible value": {"[queues.work]\nconcurrency = -4\n", "concurrency"},
		"broken TOML":      {"[daemon\n", "bad.toml:1"},
	} {
		path := filepath.Join(w.dir, "bad.toml")
		must(t, os.WriteFile(path, []byte(c.text), 0o600))
		_, stderr, code := w.cli("--config", path, "config", "check")
		if code != 2 || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, "bad.toml") {
			t.Errorf("%s: exit %d, %q; want 2, %q and the file named", name, code, stderr, c.want)
		}
	}
}

func TestBadDSN(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	const secret = "hunter2-wrong"
	dsn := w.dsn
	for name, c := range map[string]struct {
		dsn  string
		code int
		want string
	}{
		"wrong password": {withPassword(t, dsn, secret), 3, "password"},
		"nobody there":   {"postgres://u:" + secret + "@127.0.0.1:1/db", 3, "127.0.0.1"},
		"unknown scheme": {"mysql://u:" + secret + "@h/db", 2, "postgres"},
		"no file":        {"sqlite:" + filepath.Join(w.dir, "none.db"), 1, "none.db"},
	} {
		w.dsn = c.dsn
		stdout, stderr, code := w.cli("queue", "list")
		if code != c.code || !strings.Contains(stderr, c.want) || strings.Contains(stderr+stdout, secret) {
			t.Errorf("%s: exit %d, %q; want %d, %q, and no password", name, code, stderr, c.code, c.want)
		}
	}
	w.dsn, w.schema = dsn, "never_installed"
	_, stderr, code := w.cli("run")
	if code != 1 || !strings.Contains(stderr, "pgqrsd install") {
		t.Errorf("run on a database that is not installed: exit %d, %q; want 1 and the command that installs", code, stderr)
	}
}
