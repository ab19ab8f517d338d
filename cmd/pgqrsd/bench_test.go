package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/bench"
)

// Each report has the figures that it holds, and no others.
func TestBenchReport(t *testing.T) {
	c := &cli{T: t}
	per := 2.345
	latency := bench.Latency{StartP50Ms: 1.5, StartP99Ms: 12.25, DoneP50Ms: 4, DoneP99Ms: 20}
	work := &bench.WorkFigures{Messages: 1_000_000, Seconds: 25.5, JobsPerSecond: 39215.6, EnqueuePerSecond: 60000, DaemonCPUPerJobUs: 9.96, HandlerCPUPerJobUs: 4}
	windows := []bench.Window{
		{StartSeconds: 0, Messages: 10_000, Latency: latency, Ready: 5},
		{StartSeconds: 5, Messages: 123_456, Latency: bench.Latency{StartP50Ms: 123456.78, StartP99Ms: 123456.78, DoneP50Ms: 123456.78, DoneP99Ms: 123456.78}, Ready: 1_234_567},
	}
	for name, test := range map[string]struct {
		report bench.Report
		has    []string
		hasNot []string
	}{
		"drain": {
			bench.Report{Mode: bench.Drain, Backend: "postgres", Cores: 2, WorkFigures: work, DaemonPeakMemoryBytes: 48 << 20,
				Settings: bench.Settings{QueueSize: 1_000_000, Handlers: 1, Retain: "archive", InFlight: 300, SleepSeconds: 60, HoldSnapshot: true}},
			[]string{"1,000,000", "39,215", "60,000", "10.0 us", "48 MB", "sleeping for:  1m", "held open", "postgres 15.18"},
			[]string{"start:", "statements", "backlog", "rate", "FROM"},
		},
		"workflows": {
			bench.Report{Mode: bench.Drain, Backend: "postgres", WorkFigures: work, WorkflowFigures: &bench.WorkflowFigures{Steps: 5_000_000, StepsPerSecond: 12345.6, WorkflowsPerSecond: 2469.1, StepP50Ms: 1.25, StepP99Ms: 7.5},
				Settings: bench.Settings{QueueSize: 1_000_000, Retain: "archive", Workflow: true, StepsPerWorkflow: 5}},
			[]string{"steps each:", "5,000,000", "2,469", "12,345", "1.25 ms median, 7.50 ms p99"},
			[]string{"start:", "in flight"},
		},
		"empty workflows": {
			bench.Report{Mode: bench.Drain, Backend: "postgres", WorkFigures: work, WorkflowFigures: &bench.WorkflowFigures{WorkflowsPerSecond: 2469.1},
				Settings: bench.Settings{QueueSize: 1_000_000, Retain: "archive", Workflow: true}},
			[]string{"steps each:    0", "2,469"},
			[]string{"steps/s", "step:"},
		},
		"steady": {
			bench.Report{Mode: bench.Steady, Backend: "sqlite", Cores: 2, WorkFigures: work, LatencyFigures: &bench.LatencyFigures{Latency: latency, StartMaxMs: 30, DoneMaxMs: 40, Windows: windows},
				Settings: bench.Settings{Rate: 0.5, FailRate: 0.01, DurationSeconds: 90}},
			[]string{"1.50 ms median, 12.25 ms p99, 30.00 ms max", "4.00 ms median", "0.5/s", "0.01", "1m30s", "1,234,567", "FROM"},
			[]string{"statements"},
		},
		"idle": {
			bench.Report{Mode: bench.Idle, IdleFigures: &bench.IdleFigures{StatementsPerSecond: &per, DaemonCPUPercent: 0.456}, Settings: bench.Settings{Queues: 20}},
			[]string{"statements/s:  2.35", "0.46%", "queues:        20"},
			[]string{"transactions", "jobs/s", "start:"},
		},
	} {
		var out, errOut bytes.Buffer
		test.report.GoVersion, test.report.Version, test.report.ServerVersion = "go1.26.8", "v1.2.3", "15.18"
		if err := (&app{out: &out, err: &errOut}).printBench(&test.report); err != nil {
			t.Fatal(err)
		}
		c.fits(out.String())
		for _, text := range test.has {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%s lacks %q:\n%s", name, text, out.String())
			}
		}
		for _, text := range test.hasNot {
			if strings.Contains(out.String(), text) {
				t.Errorf("%s has %q:\n%s", name, text, out.String())
			}
		}
	}
}

// Where nobody watches, progress is a line now and then; on a terminal it is one
// line that is written over.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.show("one")
	p.show("two") // too soon
	p.shown = time.Now().Add(-progressLine)
	p.show("three")
	p.say("by the way")
	p.clear()
	if got, want := out.String(), "one\nthree\npgqrsd: by the way\n"; got != want {
		t.Errorf("a file gets %q, want %q", got, want)
	}
	out.Reset()
	p = &progress{out: &out, terminal: true}
	p.show("one")
	p.shown = time.Now().Add(-progressTerminal)
	p.show(strings.Repeat("x", 200))
	p.say("by the way")
	p.clear()
	want := eraseLine + "one" + eraseLine + strings.Repeat("x", maxWidth-1) + "…" + eraseLine + "pgqrsd: by the way\n"
	if got := out.String(); got != want {
		t.Errorf("a terminal gets %q, want %q", got, want)
	}
}
