package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/store"
)

func TestDrain(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(*Options) {})
		if r.Mode != Drain || r.Cores < 1 || r.GoVersion == "" || r.Version != "v-test" || r.ServerVersion == "" {
			b.Errorf("the report's head is %+v", r)
		}
		want := Settings{QueueSize: 500, Handlers: 1, Concurrency: 100, PayloadBytes: 200, Retain: "archive"}
		if r.Settings != want {
			b.Errorf("settings are %+v, want %+v", r.Settings, want)
		}
		b.works(r, 500)
		if r.EnqueuePerSecond <= 0 {
			b.Errorf("enqueued at %f a second", r.EnqueuePerSecond)
		}
		if len(r.MemorySamples) == 0 || r.DaemonPeakMemoryBytes < r.MemorySamples[0].Bytes {
			b.Errorf("memory: peak %d, samples %v", r.DaemonPeakMemoryBytes, r.MemorySamples)
		}
		b.printed(r)
	})
}

// works checks the figures of work that was done.
func (b *bed) works(r *Report, messages int64) {
	b.Helper()
	w := r.WorkFigures
	if w == nil {
		b.Fatal("no figures of the work")
	}
	if w.Messages != messages || w.Seconds <= 0 || w.DaemonCPUPerJobUs < 0 || w.HandlerCPUPerJobUs < 0 {
		b.Errorf("work is %+v, want that of %d messages", w, messages)
	}
	if got := w.JobsPerSecond * w.Seconds; got < float64(messages)*0.999 || got > float64(messages)*1.001 {
		b.Errorf("%f jobs a second for %f s are %f, want %d", w.JobsPerSecond, w.Seconds, got, messages)
	}
}

// The runs' steps are counted by the daemon, and timed by the workflow.
func TestDrainOfWorkflows(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) {
			o.Workflow, o.Steps, o.QueueSize, o.WarmUp, o.Archived, o.Handlers = true, 3, 200, 50, 20, 2
		})
		b.works(r, 200)
		w := r.WorkflowFigures
		if w == nil || w.Steps != 600 || w.WorkflowsPerSecond != r.JobsPerSecond || w.StepsPerSecond != 3*r.JobsPerSecond {
			b.Fatalf("figures are %+v of %+v", w, r.WorkFigures)
		}
		if w.StepP50Ms <= 0 || w.StepP99Ms < w.StepP50Ms || w.StepP99Ms > 1000*60 {
			b.Errorf("a step takes %f ms, p99 %f", w.StepP50Ms, w.StepP99Ms)
		}
		if !r.Settings.Workflow || r.Settings.StepsPerWorkflow != 3 {
			b.Errorf("settings are %+v", r.Settings)
		}
	})
}

func TestDrainOfEmptyWorkflows(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) { o.Workflow = true })
		b.works(r, 500)
		if w := r.WorkflowFigures; w == nil || w.Steps != 0 || w.WorkflowsPerSecond != r.JobsPerSecond || w.StepP50Ms != 0 {
			b.Errorf("figures are %+v of %+v", w, r.WorkFigures)
		}
	})
}

func TestDrainRetainsNothing(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) { o.Retain, o.Archived, o.Handlers = daemon.RetainDelete, 30, 2 })
		b.works(r, 500)
	})
}

// Rows that are there beforehand stay where they are: Run counts them.
func TestDrainAmidOthers(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) {
			o.Backlog, o.Archived, o.Delayed, o.WarmUp, o.Handlers, o.PayloadBytes = 3000, 600, 300, 400, 2, minPayload
			if b.conn != nil {
				o.Archived = fillBatch + 200
			}
			o.HoldSnapshot = b.conn != nil
		})
		b.works(r, 500)
	})
}

func TestDrainBesideSleepingJobs(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) { o.InFlight, o.Sleep, o.WarmUp, o.Handlers = 150, 5*time.Minute, 100, 2 })
		b.works(r, 500)
		if r.Settings.InFlight != 150 || r.Settings.SleepSeconds != 300 {
			b.Errorf("settings are %+v", r.Settings)
		}
	})
}

func TestSteady(t *testing.T) {
	onBackends(t, func(b *bed) {
		began := time.Now()
		r := b.run(func(o *Options) {
			o.Mode, o.Duration, o.Rate, o.FailRate, o.Archived, o.Delayed, o.Handlers = Steady, 2*time.Second, 200, 0.1, 50, 50, 2
		})
		took := float64(time.Since(began).Milliseconds())
		w, l := r.WorkFigures, r.LatencyFigures
		if w == nil || l == nil || w.Messages == 0 {
			b.Fatalf("figures are %+v and %+v", w, l)
		}
		b.works(r, w.Messages)
		if l.StartP50Ms > l.StartP99Ms || l.StartP99Ms > l.StartMaxMs || l.DoneP50Ms > l.DoneP99Ms || l.DoneP99Ms > l.DoneMaxMs || l.StartMaxMs <= 0 {
			b.Errorf("latencies are %+v", l)
		}
		if l.StartMaxMs > took || l.DoneMaxMs > took {
			b.Errorf("messages took longer than the run, which took %f ms: %+v", took, l)
		}
		if len(l.Windows) != 1 || l.Windows[0].Messages == 0 {
			b.Errorf("windows are %+v", l.Windows)
		}
	})
}

// A daemon that does not keep up is reported at the rate of what it did, not of
// what came.
func TestSteadyCountsWhatIsDone(t *testing.T) {
	b := sqliteBed(t)
	var stopped []int
	wake := func() {
		for _, pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
		}
	}
	defer wake()
	o := DefaultOptions()
	o.Mode, o.Duration, o.Rate = Steady, 3*time.Second, 100
	var enqueued, done int64 // at the last look that counts
	r, err := Run(t.Context(), Config{Store: b.store, Options: o, Progress: func(line string) {
		var all, finished int64
		switch n, _ := fmt.Sscanf(line, "%d enqueued, %d done", &all, &finished); {
		case n == 2:
			enqueued, done = all, finished
			if stopped == nil {
				stopped = b.stopHandlers()
			}
		case strings.HasPrefix(line, "waiting for the last"):
			wake()
		}
	}, Say: func(line string) { t.Errorf("the bench says: %s", line) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(stopped) != 1 || done >= enqueued {
		t.Fatalf("of %d messages %d were done while the handlers %v were stopped", enqueued, done, stopped)
	}
	if r.Messages > done {
		t.Errorf("%d messages are reported, but only %d were done: %+v", r.Messages, done, r.WorkFigures)
	}
	b.works(r, r.Messages)
	b.clean()
}

// stopHandlers stops the handler processes of the running bench.
func (b *bed) stopHandlers() (handlers []int) {
	b.Helper()
	pids, err := b.daemons()
	for _, daemon := range pids {
		its, listing := children(daemon)
		handlers, err = append(handlers, its...), errors.Join(err, listing)
	}
	for _, pid := range handlers {
		err = errors.Join(err, syscall.Kill(pid, syscall.SIGSTOP))
	}
	if err != nil {
		b.Error(err) // no Fatal: this is not the test's goroutine
	}
	return handlers
}

// The name of a directory may hold what means something in a URL.
func TestDirectoryOfAnyName(t *testing.T) {
	b := sqliteBed(t)
	dir := filepath.Join(b.tmp, "what? 50%41 #1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.store.DSN = "sqlite:" + filepath.Join(dir, "prod.db")
	b.works(b.run(func(*Options) {}), 500)
	for place, want := range map[string]int{b.tmp: 1, dir: 0} {
		if left, err := os.ReadDir(place); err != nil || len(left) != want {
			t.Errorf("%s holds %v, want %d: %v", place, left, want, err)
		}
	}
}

func TestIdle(t *testing.T) {
	onBackends(t, func(b *bed) {
		r := b.run(func(o *Options) { o.Mode, o.Duration, o.Queues = Idle, time.Second, 3 })
		i := r.IdleFigures
		if i == nil || i.DaemonCPUPercent < 0 || i.HandlerCPUPercent < 0 {
			b.Fatalf("figures are %+v", i)
		}
		counted := b.conn != nil
		if (i.StatementsPerSecond != nil) != counted || (i.TransactionsPerSecond != nil) != counted {
			b.Errorf("figures are %+v", i)
		}
		if counted && *i.StatementsPerSecond <= 0 {
			b.Errorf("%f statements a second; heartbeats alone are more", *i.StatementsPerSecond)
		}
		if r.DaemonPeakMemoryBytes <= 0 || r.WorkFigures != nil {
			b.Errorf("report is %+v", r)
		}
	})
}

// printed checks the names of the JSON. What a mode does not measure is absent.
func (b *bed) printed(r *Report) {
	b.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"mode", "backend", "server_version", "cores", "messages", "seconds", "jobs_per_second",
		"enqueue_per_second", "daemon_cpu_us_per_job", "handler_cpu_us_per_job", "daemon_peak_memory_bytes", "memory_samples"} {
		if !strings.Contains(string(raw), `"`+name+`":`) {
			b.Errorf("no %s in %s", name, raw)
		}
	}
	for _, name := range []string{"start_p50_ms", "windows", "statements_per_second", "daemon_cpu_percent", "rate", "steps_per_second", "workflow"} {
		if strings.Contains(string(raw), `"`+name+`":`) {
			b.Errorf("a drain has %s: %s", name, raw)
		}
	}
}

func TestSleepingJobsMustSleepOn(t *testing.T) {
	o := DefaultOptions()
	o.InFlight, o.Sleep = 5, time.Minute
	r := &run{Options: &o}
	if err := r.checkAsleep(59 * time.Second); err != nil {
		t.Error(err)
	}
	if err := r.checkAsleep(time.Minute); err == nil || !strings.Contains(err.Error(), "--sleep") {
		t.Errorf("error is %v", err)
	}
}

// What cannot be measured is an error with the reason, not a figure.
func TestRefusals(t *testing.T) {
	b := sqliteBed(t)
	for name, change := range map[string]func(o *Options){
		"--queue-size must be 1 to":            func(o *Options) { o.QueueSize = 0 },
		"the mode must be drain":               func(o *Options) { o.Mode = "fast" },
		"--hold-snapshot needs PostgreSQL":     func(o *Options) { o.HoldSnapshot = true },
		"--in-flight and --concurrency must":   func(o *Options) { o.InFlight = 100_000 },
		"--retain must be archive: steady":     func(o *Options) { o.Mode, o.Retain = Steady, daemon.RetainDelete },
		"--retain must be archive or delete":   func(o *Options) { o.Retain = "keep" },
		"--fail-rate must be a share":          func(o *Options) { o.Mode, o.FailRate = Steady, 1.5 },
		"--rate must be":                       func(o *Options) { o.Mode, o.Rate = Steady, 0 },
		"--duration must be":                   func(o *Options) { o.Mode, o.Duration = Idle, time.Millisecond },
		"--steps must be 0 to":                 func(o *Options) { o.Workflow, o.Steps = true, maxSteps+1 },
		"--retain must be archive with":        func(o *Options) { o.Workflow, o.Retain = true, daemon.RetainDelete },
		"--in-flight is for jobs":              func(o *Options) { o.Workflow, o.InFlight = true, 5 },
		"--sleep must be at least 1s":          func(o *Options) { o.InFlight, o.Sleep = 1, time.Millisecond },
		"--payload-bytes must be 32 to":        func(o *Options) { o.PayloadBytes = 31 },
		"no message that could be measured wa": func(o *Options) { o.Mode, o.Rate, o.Duration, o.FailRate = Steady, 50, time.Second, 1 },
	} {
		if _, err := b.try(t.Context(), change); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want one that says %q", err, name)
		}
		b.clean()
	}
}

func TestUnusableDatabases(t *testing.T) {
	for dsn, want := range map[string]error{
		"mysql://x":                   store.ErrDSN,
		"sqlite:":                     store.ErrDSN,
		"postgres://u:hunter2@h:x/db": store.ErrDSN,
		"postgres://u:hunter2@127.0.0.1:1/db?sslmode=disable": store.ErrUnavailable,
	} {
		b := newBed(t)
		b.store.DSN = dsn
		_, err := b.try(t.Context(), func(*Options) {})
		if !errors.Is(err, want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error is %v, want %v without the password", dsn, err, want)
		}
		b.clean()
	}
}
