package integration

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// An operator on another machine suspends, resumes and shuts down one consumer.
func TestSuspendResumeShutdown(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{})
		first := w.enqueue(many(5)...)
		w.settle()
		id := strconv.FormatInt(w.consumer().ID, 10)

		w.transitionFails(id, "shutdown", "ready", "stopped")
		w.cliOK(nil, "worker", "suspend", id)
		w.transitionFails(id, "suspend", "suspended", "suspended")
		held := w.enqueue(many(5)...)
		// What was enqueued after the suspension stays: the daemon has looked at
		// the queue since, for it says that the consumer is suspended.
		w.eventually("the daemon to notice the suspension", func() bool {
			return strings.Contains(d.logs.String(), "suspended")
		})
		if n := w.unfinished("work"); n != int64(len(held)) {
			t.Fatalf("%d messages unfinished under a suspended consumer, want %d", n, len(held))
		}

		w.cliOK(nil, "worker", "resume", id)
		w.settle()

		w.cliOK(nil, "worker", "suspend", id)
		w.cliOK(nil, "worker", "shutdown", id)
		w.transitionFails(id, "resume", "stopped", "ready")
		late := w.enqueue(many(2)...)
		w.eventually("the daemon to notice the shutdown", func() bool {
			return strings.Contains(d.logs.String(), "not served any more")
		})
		if n := w.unfinished("work"); n != int64(len(late)) {
			t.Fatalf("%d messages unfinished under a stopped consumer, want %d", n, len(late))
		}
		d.stop()

		d = w.start("b", settings{})
		w.settle()
		d.stop()
		w.ledger(slices.Concat(first, held, late), nil)
	})
}

func (w *world) transitionFails(id, verb, from, to string) {
	w.t.Helper()
	_, stderr, code := w.cli("worker", verb, id)
	if code != 1 || !strings.Contains(stderr, from) || !strings.Contains(stderr, to) {
		w.t.Errorf("worker %s from %s: exit %d, %q; want 1 and both states named", verb, from, code, stderr)
	}
}

// The HTTP API enqueues through the Producer, and refuses while it is suspended.
func TestHTTPAndSuspendedProducer(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{})
		post := func() int {
			resp, err := http.Post(d.url("/api/v1/queues/work/messages"), "application/json", strings.NewReader(`{"messages":[{"payload":{"n":1}}]}`))
			must(t, err)
			must(t, resp.Body.Close())
			return resp.StatusCode
		}
		if code := post(); code != http.StatusCreated {
			t.Fatalf("enqueue answers %d, want 201", code)
		}
		producers, err := w.store.Workers().List(t.Context(), store.WorkerFilter{Kind: store.KindProducer, State: store.WorkerReady})
		must(t, err)
		if len(producers) != 1 {
			t.Fatalf("producers: %+v, want one", producers)
		}
		id := strconv.FormatInt(producers[0].ID, 10)
		w.cliOK(nil, "worker", "suspend", id)
		if code := post(); code != http.StatusServiceUnavailable {
			t.Errorf("enqueue through a suspended producer answers %d, want 503", code)
		}
		w.cliOK(nil, "worker", "resume", id)
		if code := post(); code != http.StatusCreated {
			t.Errorf("enqueue through a resumed producer answers %d, want 201", code)
		}
		w.settle()
		d.stop()
		if n := len(w.archived("work")); n != 2 {
			t.Errorf("%d messages archived, want 2", n)
		}
	})
}

// SIGTSTP quiets the daemon: it leases nothing more and lives on.
func TestQuiet(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "concurrency = 2"})
		running := w.enqueue(gated(1, "go")...)
		w.started(running...)
		d.signal(syscall.SIGTSTP)
		w.eventually("the daemon to say that it is quiet", func() bool {
			return strings.Contains(strings.Join(d.notify.all(), "\n"), "quiet")
		})
		later := w.enqueue(many(3)...)
		w.openGate("go")
		w.eventually("the running job to be done", func() bool { return len(w.archived("work")) == 1 })
		if n := w.unfinished("work"); n != 3 {
			t.Errorf("%d messages unfinished under a quiet daemon, want 3", n)
		}
		if code := d.get("/healthz"); code != 200 {
			t.Errorf("healthz answers %d, want 200", code)
		}
		d.stop()
		d = w.start("b", settings{})
		w.settle()
		d.stop()
		w.ledger(append(running, later...), nil)
	})
}

// SIGHUP rereads the configuration; a broken one is refused and changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		d := w.start("a", settings{queue: "max_attempts = 7", handler: "TOKEN = \"one\""})
		ids := w.enqueue(map[string]any{"env": "TOKEN"})
		w.settle()

		w.config("a", settings{queue: "max_attempts = \"lots\""})
		d.signal(syscall.SIGHUP)
		w.eventually("the daemon to refuse the broken file", func() bool {
			return strings.Contains(d.logs.String(), "max_attempts")
		})

		w.config("a", settings{queue: "max_attempts = 3", handler: "TOKEN = \"two\""})
		d.signal(syscall.SIGHUP)
		w.eventually("the queue's policy to change", func() bool {
			q, err := w.store.Queues().Get(t.Context(), "work")
			must(t, err)
			return q.MaxAttempts == 3
		})
		var outputs []string
		w.eventually("the handler to run with its new environment", func() bool {
			ids = append(ids, w.enqueue(map[string]any{"env": "TOKEN"})...)
			w.settle()
			outputs = append(outputs, string(w.archived("work")[ids[len(ids)-1]].Output))
			return outputs[len(outputs)-1] == `"two"`
		})
		if first := string(w.archived("work")[ids[0]].Output); first != `"one"` {
			t.Errorf("the first job's output is %s, want \"one\"", first)
		}
		d.stop()
		w.ledger(ids, nil)
	})
}
