package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// openStore opens the command line's database beside it, for what only a
// daemon does.
func (c *cli) openStore() store.Store {
	c.Helper()
	cfg := anystore.Config{DSN: c.global[1]}
	if len(c.global) > 3 {
		cfg.Schema = c.global[3]
	}
	s, err := anystore.OpenConfig(c.Context(), cfg)
	c.must(err)
	c.Cleanup(func() {
		if err := s.Close(); err != nil {
			c.Error(err)
		}
	})
	return s
}

func (c *cli) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// onBackends runs a test on SQLite and on PostgreSQL.
func onBackends(t *testing.T, test func(c *cli)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(newCLI(t)) })
	t.Run("postgres", func(t *testing.T) {
		c := newPostgresCLI(t)
		c.ok("install")
		test(c)
	})
}

func TestQueues(t *testing.T) {
	onBackends(t, func(c *cli) {
		if got := c.array("queue", "list"); len(got) != 0 {
			c.Errorf("a new database has queues: %v", got)
		}
		if r := c.run("queue", "list"); r.stdout != "" || r.stderr != "no queues\n" {
			c.Errorf("an empty table prints %q and %q", r.stdout, r.stderr)
		}
		if r := c.run("queue", "create", "emails"); r.status != 0 || r.stdout != "" || r.stderr != "queue emails created\n" {
			c.Errorf("queue create gives %+v", r)
		}
		q := c.object("queue", "create", "reports", "--max-attempts", "2", "--retention", "0s")
		if q["name"] != "reports" || q["max_attempts"] != 2.0 || q["retention_seconds"].(float64) >= 0 {
			c.Errorf("created %v", q)
		}
		c.fails(exitError, []string{"emails", "already exists"}, "queue", "create", "emails")
		c.fails(exitError, []string{`"a b"`}, "queue", "create", "a b")
		c.fails(exitError, []string{`queue "emials" does not exist; did you mean emails?`}, "queue", "get", "emials")
		if got := c.object("queue", "get", "emails"); got["name"] != "emails" || got["created_at"] == nil {
			c.Errorf("queue get prints %v", got)
		}
		table := c.ok("queue", "list")
		c.fits(table)
		if !strings.Contains(table, "reports") || !strings.Contains(table, "for ever") || !strings.HasPrefix(strings.TrimSpace(table), "ID") {
			c.Errorf("queue list prints\n%s", table)
		}
		page := c.array("queue", "list", "--limit", "1")
		if len(page) != 1 {
			c.Fatalf("--limit 1 gives %v", page)
		}
		next := c.array("queue", "list", "--after", fmt.Sprint(page[0]["id"]))
		if len(next) != 1 || next[0]["name"] == page[0]["name"] {
			c.Errorf("--after the first gives %v", next)
		}
		if r := c.run("queue", "list", "--limit", "1"); !strings.Contains(r.stderr, "--after "+fmt.Sprint(page[0]["id"])) {
			c.Errorf("a cut list does not say so: %q", r.stderr)
		}
	})
}

func TestQueuePurgeAndDelete(t *testing.T) {
	c := newCLI(t)
	c.ok("queue", "create", "q")
	c.ok("message", "enqueue", "q", "--payload", "1")
	c.ok("message", "enqueue", "q", "--payload", "2", "--delay", "1h")
	c.fails(exitError, []string{"not empty"}, "queue", "delete", "q")
	m := c.object("queue", "metrics", "q")
	if m["queue"] != "q" || m["ready"] != 1.0 || m["delayed"] != 1.0 || m["leased"] != 0.0 {
		c.Errorf("metrics are %v", m)
	}
	if all := c.array("queue", "metrics"); len(all) != 1 || !reflect.DeepEqual(all[0]["ready"], m["ready"]) {
		c.Errorf("metrics of all are %v", all)
	}
	c.fits(c.ok("queue", "metrics"))
	if got := c.object("queue", "purge", "q"); !reflect.DeepEqual(got, map[string]any{"queue": "q", "count": 2.0}) {
		c.Errorf("queue purge prints %v", got)
	}
	c.ok("message", "enqueue", "q", "--payload", "1")
	if got := c.object("queue", "delete", "q", "--force"); got["deleted"] != true {
		c.Errorf("queue delete prints %v", got)
	}
	c.fails(exitError, []string{`queue "q" does not exist`}, "queue", "get", "q")
	c.fails(exitError, []string{`queue "q" does not exist`}, "queue", "metrics", "q")
}

func TestMessages(t *testing.T) {
	onBackends(t, func(c *cli) {
		c.ok("queue", "create", "orders")
		if got := c.array("message", "list", "orders"); len(got) != 0 {
			c.Errorf("message list prints %v", got)
		}
		ids := c.ids("message", "enqueue", "orders", "--payload", `{"a": [1, "<b>"]}`, "--header", "k=v=w", "--priority", "-5")
		if len(ids) != 1 {
			c.Fatalf("ids are %v", ids)
		}
		id := strconv.FormatInt(ids[0], 10)
		m := c.object("message", "get", id)
		if m["id"] != float64(ids[0]) || m["state"] != "ready" || m["priority"] != -5.0 ||
			!reflect.DeepEqual(m["headers"], map[string]any{"k": "v=w"}) || !reflect.DeepEqual(m["payload"], map[string]any{"a": []any{1.0, "<b>"}}) {
			c.Errorf("message get prints %v", m)
		}
		if text := c.ok("message", "get", id); !strings.Contains(text, `{"a": [1, "<b>"]}`) || !strings.Contains(text, "header k:") {
			c.Errorf("message get prints\n%s", text)
		}
		c.ok("message", "enqueue", "orders", "--payload", `"later"`, "--delay", "1d")
		delayed := c.array("message", "list", "orders", "--state", "delayed")
		if len(delayed) != 1 || delayed[0]["payload"] != "later" || delayed[0]["available_at"] == nil {
			c.Errorf("delayed are %v", delayed)
		}
		table := c.ok("message", "list", "orders")
		c.fits(table)
		if !strings.Contains(table, "due in 23h") || !strings.Contains(table, id) {
			c.Errorf("message list prints\n%s", table)
		}
		if r := c.run("message", "delete", id); r.status != 0 || r.stderr != "message "+id+" deleted\n" {
			c.Errorf("message delete gives %+v", r)
		}
		c.fails(exitError, []string{id, "not found"}, "message", "get", id)
		c.fails(exitError, []string{id, "not found"}, "message", "delete", id)
		c.fails(exitError, []string{`queue "orderz" does not exist; did you mean orders?`}, "message", "list", "orderz")
		c.fails(exitError, []string{`queue "orderz" does not exist; did you mean orders?`}, "message", "enqueue", "orderz", "--payload", "1")
	})
}

func TestEnqueueSources(t *testing.T) {
	c := newCLI(t)
	c.ok("queue", "create", "q")
	file := filepath.Join(t.TempDir(), "payload.json")
	c.must(os.WriteFile(file, []byte(`{"from": "file"}`), 0o600))
	c.stdin = ` {"from": "stdin"}` + "\n"
	c.ok("message", "enqueue", "q", "--payload", "@"+file)
	c.ok("message", "enqueue", "q", "--payload", "-")
	c.fails(exitError, []string{"/nope", "no such file"}, "message", "enqueue", "q", "--payload", "@/nope")
	c.fails(exitError, []string{"/nope", "no such file"}, "message", "enqueue", "q", "--ndjson", "/nope")
	var from []string
	for _, m := range c.array("message", "list", "q") {
		from = append(from, m["payload"].(map[string]any)["from"].(string))
	}
	if !reflect.DeepEqual(from, []string{"file", "stdin"}) {
		t.Errorf("enqueued from %q", from)
	}
}

func TestEnqueueIsValidatedByTheConfiguration(t *testing.T) {
	c := newCLI(t)
	c.ok("queue", "create", "q")
	for payload, rule := range map[string]string{
		`{bad`: "json", ``: "json", `"\u0000"`: "no_nul", `"\ud800"`: "surrogate", `1e400`: "number_range", `{"a":1`: "json",
	} {
		c.fails(exitError, []string{"rule " + rule}, "message", "enqueue", "q", "--payload", payload)
	}
	c.environ = []string{"PGQRS_PAYLOAD_REQUIRED_KEYS=tenant", "PGQRS_PAYLOAD_MAX_BYTES=50"}
	c.fails(exitError, []string{"required_key", "tenant"}, "message", "enqueue", "q", "--payload", `{"a": 1}`)
	c.fails(exitError, []string{"max_bytes"}, "message", "enqueue", "q", "--payload", `{"tenant": "`+strings.Repeat("x", 50)+`"}`)
	c.ok("message", "enqueue", "q", "--payload", `{"tenant": 1}`)
	if got := c.array("worker", "list"); len(got) != 0 {
		t.Errorf("refused enqueues left workers: %v", got)
	}
}

func TestEnqueueLines(t *testing.T) {
	c := newCLI(t)
	c.ok("queue", "create", "q")
	var lines strings.Builder
	const n = 2*batchMessages + 7
	for i := range n {
		fmt.Fprintf(&lines, "{\"n\": %d}\r\n\n", i) // blank lines are nothing
	}
	c.stdin = strings.TrimSuffix(lines.String(), "\r\n\n") // no end of the last line
	if ids := c.ids("message", "enqueue", "q", "--ndjson", "-"); len(ids) != n || ids[0] >= ids[n-1] {
		t.Errorf("%d ids, want %d", len(ids), n)
	}
	list := c.array("message", "list", "q", "--limit", "100000")
	if len(list) != n || list[n-1]["payload"].(map[string]any)["n"] != float64(n-1) {
		t.Errorf("%d messages, want %d", len(list), n)
	}
	if c.stdin = "\n\n"; c.ok("message", "enqueue", "q", "--ndjson", "-", "-o", "json") != "[]\n" {
		t.Error("a file without messages does not print an empty array")
	}
	c.stdin = "1\n2\n"
	if out := c.ok("message", "enqueue", "q", "--ndjson", "-"); strings.Count(out, "\n") != 2 {
		t.Errorf("the ids of two messages are printed as %q", out)
	}
}

func TestBadLineIsNamed(t *testing.T) {
	c := newCLI(t)
	c.ok("queue", "create", "q")
	bad := batchMessages + 10
	c.stdin = strings.Repeat("{}\n", bad-2) + "\n{oops\n{}\n"
	r := c.run("-o", "json", "message", "enqueue", "q", "--ndjson", "-")
	want := fmt.Sprintf("standard input, line %d: payload breaks rule json", bad)
	if r.status != exitError || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, fmt.Sprintf("%d messages were enqueued before", batchMessages)) {
		t.Errorf("status %d, want 1 and %q:\n%s", r.status, want, r.stderr)
	}
	if !strings.HasSuffix(r.stdout, "\n]\n") || strings.Count(r.stdout, ",")+1 != batchMessages {
		t.Errorf("the ids of the first batch are not printed whole: %d bytes", len(r.stdout))
	}
	if got := c.object("queue", "metrics", "q"); got["ready"] != float64(batchMessages) {
		t.Errorf("%v messages are ready, want the first batch", got["ready"])
	}
	c.environ = []string{"PGQRS_PAYLOAD_MAX_BYTES=100"}
	c.stdin = "{}\n" + `"` + strings.Repeat("x", 1<<20) + `"` + "\n"
	c.fails(exitError, []string{"line 2: payload breaks rule max_bytes", "(0 messages were enqueued before)"}, "message", "enqueue", "q", "--ndjson", "-")
}

func TestArchiveAndDeadLetters(t *testing.T) {
	onBackends(t, func(c *cli) {
		c.ok("queue", "create", "q")
		c.stdin = "1\n2\n3\n4\n"
		c.ok("message", "enqueue", "q", "--ndjson", "-")
		dead := c.settleAll("q")
		if got := c.object("archive", "count", "q"); !reflect.DeepEqual(got, map[string]any{"queue": "q", "count": 4.0}) {
			c.Errorf("archive count prints %v", got)
		}
		if out := c.ok("archive", "count", "q", "--state", "dead"); out != "2\n" {
			c.Errorf("archive count --state dead prints %q", out)
		}
		done := c.array("archive", "list", "q", "--state", "done")
		if len(done) != 2 || done[0]["output"] == nil || done[0]["finished_at"] == nil {
			c.Errorf("archive list prints %v", done)
		}
		c.fits(c.ok("archive", "list", "q"))
		letters := c.array("dlq", "list")
		if len(letters) != 2 || len(letters[0]["errors"].([]any)) != 1 {
			c.Errorf("dlq list prints %v", letters)
		}
		table := c.ok("dlq", "list", "q")
		c.fits(table)
		if !strings.Contains(table, "it is broken") {
			c.Errorf("dlq list does not show the error:\n%s", table)
		}
		if got := c.ids("dlq", "replay", dead[0]); len(got) != 1 || strconv.FormatInt(got[0], 10) != dead[0] {
			c.Errorf("dlq replay prints %v", got)
		}
		r := c.run("dlq", "replay", dead[1], fmt.Sprint(done[0]["id"]), "99999")
		if r.status != exitError || r.stdout != dead[1]+"\n" || !strings.Contains(r.stderr, fmt.Sprintf("replay %v:", done[0]["id"])) ||
			!strings.Contains(r.stderr, "replay 99999:") {
			c.Errorf("a replay of one dead and two others gives %+v", r)
		}
		c.fails(exitError, []string{fmt.Sprintf("replay %v: message %v of queue q is done, not a dead letter", done[0]["id"], done[0]["id"])},
			"dlq", "replay", fmt.Sprint(done[0]["id"]))
		c.fails(exitError, []string{"is ready, not a dead letter"}, "dlq", "replay", dead[0])
		c.fails(exitError, []string{"replay 99999: not found"}, "dlq", "replay", "99999")
		c.settleAll("q") // both die again
		if got := c.object("dlq", "replay", "--queue", "q"); got["count"] != 2.0 {
			c.Errorf("dlq replay --queue prints %v", got)
		}
		c.settleAll("q")
		if got := c.object("archive", "purge", "q", "--older-than", "1h"); got["count"] != 0.0 {
			c.Errorf("archive purge of old ones prints %v", got)
		}
		if got := c.object("archive", "purge", "q"); got["count"] != 2.0 {
			c.Errorf("archive purge prints %v, want the two that are done", got)
		}
		if got := c.object("dlq", "purge", "q"); got["count"] != 2.0 {
			c.Errorf("dlq purge prints %v", got)
		}
		if got := c.array("dlq", "list", "q"); len(got) != 0 {
			c.Errorf("dlq list after the purge prints %v", got)
		}
	})
}

// settleAll finishes what is ready: even payloads are done, odd ones discarded.
// It returns the ids of the latter.
func (c *cli) settleAll(queue string) []string {
	c.Helper()
	consumer, err := c.openStore().Consumer(c.Context(), queue, store.WorkerOptions{})
	c.must(err)
	messages, err := consumer.Dequeue(c.Context(), 100, 60e9)
	c.must(err)
	var outcomes []store.Outcome
	var dead []string
	for _, m := range messages {
		o := store.Outcome{Lease: m.Lease, Kind: store.OutcomeDone, Output: []byte(`{"ok": true}`)}
		if n, err := strconv.Atoi(string(m.Payload)); err == nil && n%2 == 1 {
			o = store.Outcome{Lease: m.Lease, Kind: store.OutcomeDiscard, Error: "it is broken\n" + strings.Repeat("stack ", 50)}
			dead = append(dead, strconv.FormatInt(m.ID, 10))
		}
		outcomes = append(outcomes, o)
	}
	settled, err := consumer.Settle(c.Context(), outcomes)
	c.must(err)
	for _, s := range settled {
		c.must(s.Err)
	}
	c.must(consumer.Close(c.Context()))
	return dead
}
