package main

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func TestWorkers(t *testing.T) {
	onBackends(t, func(c *cli) {
		c.ok("queue", "create", "q")
		c.stdin = "1\n2\n"
		c.ok("message", "enqueue", "q", "--ndjson", "-")
		if got := c.array("worker", "list"); len(got) != 0 {
			c.Errorf("the command line leaves workers: %v", got)
		}
		consumer, err := c.openStore().Consumer(c.Context(), "q", store.WorkerOptions{Name: "somewhere.example.com/0", Slot: "s"})
		c.must(err)
		_, err = consumer.Dequeue(c.Context(), 10, time.Hour)
		c.must(err)
		id := strconv.FormatInt(consumer.ID(), 10)

		list := c.array("worker", "list", "q", "--kind", "consumer", "--state", "ready")
		if len(list) != 1 || list[0]["name"] != "somewhere.example.com/0" || list[0]["leased"] != 2.0 {
			c.Errorf("worker list prints %v", list)
		}
		c.fits(c.ok("worker", "list"))
		if got := c.object("worker", "get", id); got["queue"] != "q" || got["kind"] != "consumer" {
			c.Errorf("worker get prints %v", got)
		}
		if got := c.array("worker", "messages", id); len(got) != 2 || got[0]["state"] != "leased" || got[0]["worker"] != float64(consumer.ID()) {
			c.Errorf("worker messages prints %v", got)
		}
		c.fits(c.ok("worker", "messages", id))
		if got := c.object("worker", "stats", "q"); got["ready"] != 1.0 || got["leased"] != 2.0 {
			c.Errorf("worker stats prints %v", got)
		}
		if got := c.array("worker", "stats"); len(got) != 1 {
			c.Errorf("worker stats of all prints %v", got)
		}
		c.fits(c.ok("worker", "stats"))

		c.fails(exitError, []string{"worker " + id, "ready", "stopped", "suspend it first"}, "worker", "shutdown", id)
		if got := c.object("worker", "suspend", id); got["state"] != "suspended" {
			c.Errorf("worker suspend prints %v", got)
		}
		c.fails(exitError, []string{"worker " + id, "suspended"}, "worker", "suspend", id)
		c.fails(exitError, []string{"still holds 2 messages"}, "worker", "shutdown", id)
		if r := c.run("worker", "resume", id); r.status != 0 || r.stdout != "" || r.stderr != "worker "+id+" is ready\n" {
			c.Errorf("worker resume gives %+v", r)
		}
		if got := c.object("worker", "heartbeat", id); got["state"] != "ready" {
			c.Errorf("worker heartbeat prints %v", got)
		}
		if got := c.object("worker", "release", id); got["worker"] != float64(consumer.ID()) || got["count"] != 2.0 {
			c.Errorf("worker release prints %v", got)
		}
		c.ok("worker", "suspend", id)
		c.fails(exitError, []string{id}, "worker", "delete", id)
		c.ok("worker", "shutdown", id)
		c.fails(exitError, []string{"stopped", "stays stopped"}, "worker", "resume", id)
		c.fails(exitError, []string{"stopped"}, "worker", "heartbeat", id)
		if got := c.object("worker", "purge", "--older-than", "1h"); got["count"] != 0.0 {
			c.Errorf("worker purge of old ones prints %v", got)
		}
		if got := c.object("worker", "delete", id); got["deleted"] != true {
			c.Errorf("worker delete prints %v", got)
		}
		for _, verb := range []string{"get", "suspend", "heartbeat", "delete", "release", "messages"} {
			c.fails(exitError, []string{id, "not found"}, "worker", verb, id)
		}
		c.fails(exitError, []string{`queue "p" does not exist`}, "worker", "list", "p")
		c.fails(exitError, []string{`queue "p" does not exist`}, "worker", "stats", "p")
	})
}

func TestWorkerHealthAndReclaim(t *testing.T) {
	onBackends(t, func(c *cli) {
		c.ok("queue", "create", "q")
		if got := c.object("worker", "health"); got["healthy"] != 0.0 || got["stale"] != 0.0 {
			c.Errorf("without workers the health is %v", got)
		}
		if got := c.object("stats"); got["workers"].(map[string]any)["ready"] != 0.0 || got["queues"] != 1.0 || got["schema_version"].(float64) < 1 {
			c.Errorf("stats prints %v", got)
		}
		consumer, err := c.openStore().Consumer(c.Context(), "q", store.WorkerOptions{Name: "h/0"})
		c.must(err)
		if got := c.object("worker", "health"); got["healthy"] != 1.0 || len(got["stale_workers"].([]any)) != 0 {
			c.Errorf("with a worker the health is %v", got)
		}
		c.waitUntilStale(consumer)
		// A nanosecond is too long for any heartbeat, also the command's own;
		// a millisecond is too long for the consumer's.
		got := c.object("worker", "health", "--max-age", "1ms")
		if stale := got["stale_workers"].([]any); len(stale) == 0 || stale[0].(map[string]any)["name"] != "h/0" {
			c.Errorf("with a stale worker the health is %v", got)
		}
		c.fits(c.ok("worker", "health", "--max-age", "1ms"))
		if got := c.object("worker", "reclaim"); got["workers"] != 0.0 {
			c.Errorf("worker reclaim prints %v", got)
		}
		says := []string{"twice heartbeat_interval (10s)", "--force"}
		c.fails(exitUsage, append(says, "--max-age 1ms"), "worker", "reclaim", "--max-age", "1ms")
		c.fails(exitUsage, append(says, "--max-age 0s"), "worker", "reclaim", "--max-age", "0s")
		if got := c.object("worker", "reclaim", "--max-age", "10s"); got["workers"] != 0.0 {
			c.Errorf("worker reclaim --max-age 10s prints %v", got)
		}
		c.waitUntilStale(consumer)
		if got := c.object("worker", "reclaim", "--max-age", "1ms", "--force"); got["workers"].(float64) < 1 {
			c.Errorf("worker reclaim --force prints %v", got)
		}
		if text := c.ok("stats"); !strings.Contains(text, "workers ready:") {
			c.Errorf("stats prints\n%s", text)
		}
	})
}

// waitUntilStale waits until a worker's heartbeat is a few milliseconds old.
func (c *cli) waitUntilStale(w store.Worker) {
	c.Helper()
	deadline := time.After(time.Minute)
	for {
		healthy, err := w.IsHealthy(c.Context(), 2*time.Millisecond)
		c.must(err)
		if !healthy {
			return
		}
		select {
		case <-deadline:
			c.Fatal("the worker stays healthy without a heartbeat")
		case <-time.After(time.Millisecond):
		}
	}
}

// What a transaction keeps does not hide what went back beside it.
func TestReleaseAndReclaimSayWhatWentBack(t *testing.T) {
	c, s := newPostgresFlow(t)
	run, err := strconv.ParseInt(startFlow(c), 10, 64)
	c.must(err)
	startFlow(c)
	consumer, err := s.Consumer(t.Context(), "flow", store.WorkerOptions{Name: "w"})
	c.must(err)
	leased, err := consumer.Dequeue(t.Context(), 2, time.Hour)
	c.must(err)
	if len(leased) != 2 || leased[0].ID != run {
		t.Fatalf("%d runs are leased", len(leased))
	}
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	c.must(err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	_, err = conn.Exec(t.Context(), `begin`)
	c.must(err)
	_, err = conn.Exec(t.Context(), `select `+pgx.Identifier{c.global[3]}.Sanitize()+`.complete_step($1, $2, $3, 'pay', 0, 0)`,
		run, consumer.ID(), leased[0].Claim)
	c.must(err)

	id := strconv.FormatInt(consumer.ID(), 10)
	for _, step := range []struct {
		out  string
		args []string
	}{
		{`{"worker":` + id + `,"count":1}`, []string{"worker", "release", id}},
		{`{"workers":0,"ready":0,"dead":0}`, []string{"worker", "reclaim", "--max-age", "0s", "--force"}},
	} {
		r := c.run(append([]string{"-o", "json"}, step.args...)...)
		if r.status != exitError || strings.Join(strings.Fields(r.stdout), "") != step.out {
			t.Errorf("%v of what is kept in part gives %+v, want %s", step.args, r, step.out)
		}
		c.contains(r.stderr, []string{"an open transaction", "pg_stat_activity"})
	}
	_, err = conn.Exec(t.Context(), `rollback`)
	c.must(err)
	if got := c.object("worker", "reclaim", "--max-age", "0s", "--force"); got["workers"] != 1.0 || got["ready"] != 1.0 {
		t.Errorf("the reclaim after it prints %v", got)
	}
}
