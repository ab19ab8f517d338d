package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// failFlow starts a run and lets it fail at its first step.
func failFlow(c *cli, s store.Store) string {
	c.Helper()
	id := startFlow(c)
	consumer, l := lease(c, s)
	if strconv.FormatInt(l.ID, 10) != id {
		c.Fatalf("run %d was leased, want %s", l.ID, id)
	}
	settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeDiscard, Error: "no route",
		Steps: []store.StepResult{{StepKey: store.StepKey{Name: "a"}, Error: "no route"}}, Failed: []store.Place{{}}})
	return id
}

// statuses checks what the runs are, in the order of their ids.
func (c *cli) statuses(want map[string]store.RunStatus) {
	c.Helper()
	got := map[string]store.RunStatus{}
	for _, run := range c.array("workflow", "list") {
		got[fmt.Sprint(run["id"])] = store.RunStatus(run["status"].(string))
	}
	if !reflect.DeepEqual(got, want) {
		c.Errorf("the runs are %v, want %v", got, want)
	}
}

func (c *cli) counted(workflow string, n float64, args ...string) {
	c.Helper()
	if got, want := c.object(args...), (map[string]any{"queue": workflow, "count": n}); !reflect.DeepEqual(got, want) {
		c.Errorf("%q prints %v, want %v", args, got, want)
	}
}

func TestSteeringOfSeveralRuns(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		s := c.openStore()
		failed, other, queued := failFlow(c, s), failFlow(c, s), startFlow(c)
		refused := "retry run " + queued + ": it is queued, and only a failed run can be retried"
		c.fails(exitUsage, []string{`"x" is not the id of a run`}, "workflow", "retry", failed, "x")
		c.statuses(map[string]store.RunStatus{failed: store.RunFailed, other: store.RunFailed, queued: store.RunQueued})
		r := c.run("workflow", "retry", failed, queued, "99999", other)
		if r.status != exitError || r.stdout != "" {
			c.Errorf("a retry of two failed runs and two others gives %+v", r)
		}
		c.contains(r.stderr, []string{"run " + failed + " carries on\n", "run " + other + " carries on\n", "pgqrsd: " + refused + "\n",
			"pgqrsd: retry run 99999: not found\n"})
		c.statuses(map[string]store.RunStatus{failed: store.RunQueued, other: store.RunQueued, queued: store.RunQueued})

		r = c.run("-o", "json", "workflow", "pause", failed, "99999", other)
		if r.status != exitError || strings.Join(strings.Fields(r.stdout), "") !=
			fmt.Sprintf(`[{"id":%s,"status":"paused"},{"id":%s,"status":"paused"}]`, failed, other) {
			c.Errorf("a pause of two runs and one that is none gives %+v", r)
		}
		if r = c.run("-o", "json", "workflow", "retry", failed, other); r.status != exitError || r.stdout != "[]\n" {
			c.Errorf("a retry of none gives %+v", r)
		}
		if got := c.array("workflow", "resume", failed, other); len(got) != 2 || got[1]["status"] != "queued" {
			c.Errorf("resumed they are %v", got)
		}
		if got := c.object("workflow", "cancel", failed); got["status"] != "cancelled" {
			c.Errorf("cancelled it is %v", got)
		}
		r = c.run("workflow", "cancel", other, queued)
		if want := fmt.Sprintf("run %s cancelled\nrun %s cancelled\n", other, queued); r.status != exitOK || r.stderr != want {
			c.Errorf("a cancellation of two gives %+v", r)
		}
	})
}

// Of a workflow's runs those that have failed are retried, and no others.
func TestRetryOfAllFailedRuns(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		s := c.openStore()
		first, second := failFlow(c, s), failFlow(c, s)
		done := startFlow(c)
		consumer, l := lease(c, s)
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeDone, Output: []byte(`1`)})
		waiting := strings.TrimSpace(c.ok("workflow", "create", "flow", "--delay", "1h"))
		cancelled := startFlow(c)
		c.ok("workflow", "cancel", cancelled)
		c.ok("queue", "create", "other", "--kind", "workflow")
		elsewhere := strings.TrimSpace(c.ok("workflow", "create", "other"))
		others, err := s.Consumer(c.Context(), "other", store.WorkerOptions{})
		c.must(err)
		leased, err := others.Dequeue(c.Context(), 1, time.Minute)
		c.must(err)
		settle(c, others, store.Outcome{Lease: leased[0].Lease, Kind: store.OutcomeDiscard, Error: "no route"})

		c.counted("flow", 2, "workflow", "retry", "--all", "flow")
		want := map[string]store.RunStatus{first: store.RunQueued, second: store.RunQueued, done: store.RunSucceeded,
			waiting: store.RunWaiting, cancelled: store.RunCancelled, elsewhere: store.RunFailed}
		c.statuses(want)
		if got := c.object("workflow", "get", first); len(got["steps"].([]any)) != 0 {
			c.Errorf("the failed step of the retried run is still there: %v", got)
		}
		if r := c.run("workflow", "retry", "--all", "flow"); r.status != exitOK || r.stderr != "0 failed runs of workflow flow retried\n" {
			c.Errorf("a retry of no failed runs gives %+v", r)
		}
		if r := c.run("workflow", "retry", "--all", "other"); r.stderr != "1 failed runs of workflow other retried\n" {
			c.Errorf("a retry of all failed runs gives %+v", r)
		}
		want[elsewhere] = store.RunQueued
		c.statuses(want)
	})
}

func TestSteeringOfAllOpenRuns(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		s := c.openStore()
		failed := failFlow(c, s)
		stopping := startFlow(c)
		lease(c, s)
		c.ok("workflow", "cancel", stopping)
		running := startFlow(c)
		lease(c, s)
		queued, paused := startFlow(c), startFlow(c)
		waiting := strings.TrimSpace(c.ok("workflow", "create", "flow", "--delay", "1h"))
		c.ok("workflow", "pause", paused)

		r := c.run("workflow", "pause", "--all", "flow")
		if want := "3 runs of workflow flow paused; those that run stop at their next step\n"; r.status != exitOK || r.stderr != want {
			c.Errorf("a pause of all runs gives %+v", r)
		}
		want := map[string]store.RunStatus{failed: store.RunFailed, stopping: store.RunCancelling, running: store.RunRunning,
			queued: store.RunPaused, paused: store.RunPaused, waiting: store.RunPaused}
		c.statuses(want)
		if got := c.object("workflow", "get", running); got["pausing"] != true {
			c.Errorf("the running run is not pausing: %v", got)
		}
		c.counted("flow", 0, "workflow", "pause", "--all", "flow")

		c.counted("flow", 4, "workflow", "resume", "--all", "flow")
		want[queued], want[paused], want[waiting] = store.RunQueued, store.RunQueued, store.RunWaiting
		c.statuses(want)
		if got := c.object("workflow", "get", running); got["pausing"] != nil {
			c.Errorf("the running run is still pausing: %v", got)
		}
		c.counted("flow", 0, "workflow", "resume", "--all", "flow")

		c.counted("flow", 4, "workflow", "cancel", "--all", "flow")
		want[running], want[queued], want[paused], want[waiting] = store.RunCancelling, store.RunCancelled, store.RunCancelled, store.RunCancelled
		c.statuses(want)
		c.counted("flow", 0, "workflow", "cancel", "--all", "flow")
	})
}

// The runs that others started are cancelled only when that was asked for, also
// those of a run that is being cancelled already.
func TestCancelAllDescends(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		c.ok("queue", "create", "part", "--kind", "workflow")
		s := c.openStore()
		child := store.StepResult{StepKey: store.StepKey{Name: "part"}, Kind: store.StepChild, State: store.StepWaiting, Delay: -1,
			Child: &store.NewRun{Workflow: "part"}}
		startFlow(c)
		consumer, l := lease(c, s)
		settle(c, consumer, store.Outcome{Lease: l, Kind: store.OutcomeStep, Steps: []store.StepResult{child}})
		c.counted("flow", 1, "workflow", "cancel", "--all", "flow")
		if got := c.array("workflow", "list", "part"); len(got) != 1 || got[0]["status"] != "queued" {
			c.Errorf("the child is %v", got)
		}
		c.counted("flow", 1, "workflow", "cancel", "--all", "flow", "--descend")
		if got := c.array("workflow", "list", "part"); len(got) != 1 || got[0]["status"] != "cancelled" {
			c.Errorf("the child is %v", got)
		}
	})
}

func TestSteeringOfAllRefuses(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		c.ok("queue", "create", "jobs")
		id := startFlow(c)
		for _, verb := range []string{"retry", "cancel", "pause", "resume"} {
			c.fails(exitError, []string{`workflow "flo" does not exist; did you mean flow?`}, "workflow", verb, "--all", "flo")
			c.fails(exitError, []string{`queue "jobs" is for jobs, not for a workflow`}, "workflow", verb, "--all", "jobs")
			c.fails(exitUsage, []string{"--all is empty; name the workflow"}, "workflow", verb, "--all", "")
			c.fails(exitUsage, []string{`it was given before, as "flow"; run the command once for each`}, "workflow", verb, "--all", "flow", "--all", "jobs")
			for _, args := range [][]string{{}, {id, "--all", "flow"}} {
				c.fails(exitUsage, []string{"pgqrsd workflow " + verb + " needs either the IDs of runs, or --all and the name of a workflow"},
					append([]string{"workflow", verb}, args...)...)
			}
		}
		c.statuses(map[string]store.RunStatus{id: store.RunQueued})
	})
}

// A run that fails again meanwhile is retried once, and those of later pages are too.
func TestRetryOfAllEnds(t *testing.T) {
	onBackends(t, func(c *cli) {
		newFlow(c)
		s := c.openStore()
		const n = steerPage + 5
		messages := make([]store.NewMessage, n)
		for i := range messages {
			messages[i] = store.NewMessage{Queue: "flow", Payload: []byte(`1`)}
		}
		_, err := s.Messages().Insert(c.Context(), messages)
		c.must(err)
		consumer, err := s.Consumer(c.Context(), "flow", store.WorkerOptions{})
		c.must(err)
		if got, err := failReady(c.Context(), consumer); err != nil || got != n {
			c.Fatalf("%d runs have failed, %v; want %d", got, err, n)
		}

		ctx, stop := context.WithCancel(c.Context())
		woken := make(chan struct{}, 1)
		listening, failing := make(chan error, 1), make(chan error, 1)
		go func() {
			listening <- s.Listen(ctx, func(string) {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		}()
		again := 0
		go func() {
			for {
				select {
				case <-woken:
				case <-ctx.Done():
					failing <- nil
					return
				}
				got, err := failReady(c.Context(), consumer)
				if again += got; err != nil {
					failing <- err
					return
				}
			}
		}()
		c.counted("flow", n, "workflow", "retry", "--all", "flow")
		stop()
		c.must(<-listening)
		c.must(<-failing)
		if again == 0 {
			c.Error("no run has failed again, so that nothing was tested")
		}
	})
}

// failReady lets all runs fail that are ready.
func failReady(ctx context.Context, consumer store.Consumer) (n int, err error) {
	for {
		leased, err := consumer.Dequeue(ctx, 1000, time.Minute)
		if err != nil || len(leased) == 0 {
			return n, err
		}
		outcomes := make([]store.Outcome, len(leased))
		for i, m := range leased {
			outcomes[i] = store.Outcome{Lease: m.Lease, Kind: store.OutcomeDiscard, Error: "no route"}
		}
		settled, err := consumer.Settle(ctx, outcomes)
		if err != nil {
			return n, err
		}
		for _, s := range settled {
			if s.Err != nil {
				return n, s.Err
			}
			n++
		}
	}
}

// kept is a transaction, as of an application, that keeps a run's row locked.
func (c *cli) kept(run string) pgx.Tx {
	c.Helper()
	conn, err := pgx.Connect(c.Context(), pgtest.DSN(c.T))
	c.must(err)
	c.Cleanup(func() { _ = conn.Close(context.WithoutCancel(c.Context())) })
	tx, err := conn.Begin(c.Context())
	c.must(err)
	tag, err := tx.Exec(c.Context(), `select from `+pgx.Identifier{c.global[3], "runs"}.Sanitize()+` where run_id = $1 for update`, run)
	c.must(err)
	if tag.RowsAffected() != 1 {
		c.Fatalf("%d rows are kept, want that of run %s", tag.RowsAffected(), run)
	}
	return tx
}

// waiter is the server process that waits for the transaction.
func (c *cli) waiter(tx pgx.Tx) (pid int) {
	c.Helper()
	for end := time.Now().Add(waitLimit); pid == 0; {
		c.must(tx.QueryRow(c.Context(), `
			select coalesce(max(l.pid), 0) from pg_locks l where pg_backend_pid() = any(pg_blocking_pids(l.pid))`).Scan(&pid))
		if time.Now().After(end) {
			c.Fatal("nobody waits for the run")
		}
	}
	return pid
}

func newPostgresFlow(t *testing.T) (*cli, store.Store) {
	t.Helper()
	c := newPostgresCLI(t)
	c.ok("install")
	newFlow(c)
	return c, c.openStore()
}

// A run that another transaction keeps does not keep a command from the others.
func TestSteeringOfAllPassesOverAKeptRun(t *testing.T) {
	c, s := newPostgresFlow(t)
	first, kept, last := failFlow(c, s), failFlow(c, s), failFlow(c, s)
	tx := c.kept(kept)
	r := c.run("-o", "json", "workflow", "retry", "--all", "flow")
	if r.status != exitError || strings.Join(strings.Fields(r.stdout), "") != `{"queue":"flow","count":2}` {
		t.Errorf("a retry of three runs, one of which is kept, gives %+v", r)
	}
	c.contains(r.stderr, []string{"pgqrsd: retry run " + kept + ": ", "kept locked by another transaction",
		"pgqrsd: 1 failed runs of workflow flow were not retried\n"}, "run "+first, "run "+last)
	c.statuses(map[string]store.RunStatus{first: store.RunQueued, kept: store.RunFailed, last: store.RunQueued})
	r = c.run("workflow", "retry", kept, "99999")
	if r.status != exitError {
		t.Errorf("a retry of a run that is kept gives %+v", r)
	}
	c.contains(r.stderr, []string{"retry run " + kept + ": ", "kept locked by another transaction", "retry run 99999: not found"})
	c.must(tx.Rollback(t.Context()))
	c.counted("flow", 1, "workflow", "retry", "--all", "flow")
}

// Of many runs that cannot be steered the first few are named.
func TestLeftOutRunsAreNamedInPart(t *testing.T) {
	left := leftOut{what: "runs of workflow flow were not paused"}
	if err := left.err(); err != nil {
		t.Errorf("none left out is %v", err)
	}
	for i := range 7 {
		left.add(fmt.Errorf("pause run %d: %w", i, store.ErrLocked))
	}
	lines := strings.Split(left.err().Error(), "\n")
	if want := "7 runs of workflow flow were not paused; the first 5 are above"; len(lines) != 6 || lines[5] != want {
		t.Errorf("seven left out are %q, want the first five and %q", lines, want)
	}
	// Not what they are decides the exit status, if the database goes away then.
	if status := (&app{begun: true}).status(errors.Join(textOf([]error{left.err()}), store.ErrUnavailable)); status != exitUnavailable {
		t.Errorf("the exit status is %d, want %d", status, exitUnavailable)
	}
}

// A database that goes away ends a command, which says what it has done.
func TestSteeringOfAllEndsWithTheDatabase(t *testing.T) {
	c, s := newPostgresFlow(t)
	first, second, third := failFlow(c, s), failFlow(c, s), failFlow(c, s)
	tx := c.kept(second)
	c.endedByServer(tx, "(1 failed runs of workflow flow were retried before)", "workflow", "retry", "--all", "flow")
	c.statuses(map[string]store.RunStatus{first: store.RunQueued, second: store.RunFailed, third: store.RunFailed})
	r := c.endedByServer(tx, "(1 more runs were not tried)", "workflow", "retry", "99999", second, third)
	c.contains(r.stderr, []string{"retry run 99999: not found"})
	c.statuses(map[string]store.RunStatus{first: store.RunQueued, second: store.RunFailed, third: store.RunFailed})
}

// endedByServer runs a command that waits for the transaction, and ends its connection.
func (c *cli) endedByServer(tx pgx.Tx, says string, args ...string) result {
	c.Helper()
	ended := make(chan result, 1)
	go func() { ended <- c.run(args...) }()
	if _, err := tx.Exec(c.Context(), `select pg_terminate_backend($1)`, c.waiter(tx)); err != nil {
		c.Fatal(err)
	}
	r := <-ended
	if r.status != exitUnavailable || r.stdout != "" || !strings.Contains(r.stderr, says) {
		c.Errorf("%q, whose connection ends, gives %+v; want status 3 and %q", args, r, says)
	}
	return r
}

// SIGTERM ends a command, which says what it has done.
func TestSteeringOfAllIsInterrupted(t *testing.T) {
	c, s := newPostgresFlow(t)
	first, second, third := failFlow(c, s), failFlow(c, s), failFlow(c, s)
	tx := c.kept(second)
	self, err := os.Executable()
	c.must(err)
	cmd := exec.Command(self, append(c.global, "workflow", "retry", "--all", "flow")...)
	cmd.Env = []string{asPgqrsd + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	c.must(cmd.Start())
	c.waiter(tx)
	c.must(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitError {
		t.Errorf("a command that is interrupted ends with %v", err)
	}
	c.contains(stderr.String(), []string{"(1 failed runs of workflow flow were retried before)"})
	c.statuses(map[string]store.RunStatus{first: store.RunQueued, second: store.RunFailed, third: store.RunFailed})
}
