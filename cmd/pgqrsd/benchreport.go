package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgqrs/pgqrsd/internal/bench"
	"github.com/pgqrs/pgqrsd/internal/config"
)

// printBench prints a report for people.
func (a *app) printBench(r *bench.Report) error {
	fields := [][2]string{
		{"mode", string(r.Mode)},
		{"database", r.Backend + " " + r.ServerVersion},
		{"machine", fmt.Sprintf("%d cores, %s, pgqrsd %s", r.Cores, r.GoVersion, r.Version)},
	}
	fields = append(fields, benchSettings(r.Settings)...)
	if w := r.WorkFigures; w != nil {
		fields = append(fields, workFields(w)...)
	}
	if w := r.WorkflowFigures; w != nil {
		fields = append(fields, workflowFields(w)...)
	}
	if l := r.LatencyFigures; l != nil {
		fields = append(fields,
			[2]string{"start", fmt.Sprintf("%s median, %s p99, %s max", ms(l.StartP50Ms), ms(l.StartP99Ms), ms(l.StartMaxMs))},
			[2]string{"done", fmt.Sprintf("%s median, %s p99, %s max", ms(l.DoneP50Ms), ms(l.DoneP99Ms), ms(l.DoneMaxMs))})
	}
	if i := r.IdleFigures; i != nil {
		fields = append(fields, idleFields(i)...)
	}
	fields = append(fields, [2]string{"daemon memory", megabytes(r.DaemonPeakMemoryBytes) + " at most"})
	if err := a.printFields(fields); err != nil {
		return err
	}
	if r.LatencyFigures == nil || len(r.Windows) < 2 {
		return nil
	}
	fmt.Fprintln(a.out)
	return a.printWindows(r.Windows)
}

// benchSettings are the settings that are not at zero.
func benchSettings(s bench.Settings) [][2]string {
	fields := [][2]string{}
	number := func(name string, n int) {
		if n != 0 {
			fields = append(fields, [2]string{name, thousands(int64(n))})
		}
	}
	seconds := func(name string, s float64) {
		if s != 0 {
			fields = append(fields, [2]string{name, config.FormatDuration(time.Duration(s * float64(time.Second)))})
		}
	}
	number("handlers", s.Handlers)
	number("queues", s.Queues)
	number("concurrency", s.Concurrency)
	number("payload bytes", s.PayloadBytes)
	fields = append(fields, [2]string{"retain", s.Retain})
	number("backlog", s.Backlog)
	number("archived before", s.Archived)
	number("delayed before", s.Delayed)
	number("warm-up", s.WarmUp)
	number("in flight", s.InFlight)
	if s.Workflow {
		fields = append(fields, [2]string{"steps each", strconv.Itoa(s.StepsPerWorkflow)})
	}
	seconds("sleeping for", s.SleepSeconds)
	if s.Rate != 0 {
		fields = append(fields, [2]string{"rate", strconv.FormatFloat(s.Rate, 'g', -1, 64) + "/s"})
	}
	if s.FailRate != 0 {
		fields = append(fields, [2]string{"fail rate", strconv.FormatFloat(s.FailRate, 'g', -1, 64)})
	}
	seconds("duration", s.DurationSeconds)
	if s.HoldSnapshot {
		fields = append(fields, [2]string{"old snapshot", "held open"})
	}
	return fields
}

func workFields(w *bench.WorkFigures) [][2]string {
	fields := [][2]string{
		{"messages", thousands(w.Messages)},
		{"time", strconv.FormatFloat(w.Seconds, 'f', 2, 64) + " s"},
		{"jobs/s", thousands(int64(w.JobsPerSecond))},
	}
	if w.EnqueuePerSecond > 0 {
		fields = append(fields, [2]string{"enqueued/s", thousands(int64(w.EnqueuePerSecond))})
	}
	return append(fields, [2]string{"CPU per job", fmt.Sprintf("daemon %.1f us, handlers %.1f us", w.DaemonCPUPerJobUs, w.HandlerCPUPerJobUs)})
}

func workflowFields(w *bench.WorkflowFigures) [][2]string {
	fields := [][2]string{{"workflows/s", thousands(int64(w.WorkflowsPerSecond))}}
	if w.Steps == 0 {
		return fields
	}
	return append(fields,
		[2]string{"steps", thousands(w.Steps)},
		[2]string{"steps/s", thousands(int64(w.StepsPerSecond))},
		[2]string{"step", fmt.Sprintf("%s median, %s p99", ms(w.StepP50Ms), ms(w.StepP99Ms))})
}

func idleFields(i *bench.IdleFigures) [][2]string {
	var fields [][2]string
	if i.StatementsPerSecond != nil {
		fields = append(fields, [2]string{"statements/s", fmt.Sprintf("%.2f", *i.StatementsPerSecond)})
	}
	if i.TransactionsPerSecond != nil {
		fields = append(fields, [2]string{"transactions/s", fmt.Sprintf("%.2f (of the whole database)", *i.TransactionsPerSecond)})
	}
	return append(fields, [2]string{"CPU", fmt.Sprintf("daemon %.2f%%, handlers %.2f%% of a core", i.DaemonCPUPercent, i.HandlerCPUPercent)})
}

func (a *app) printWindows(windows []bench.Window) error {
	cols := []column{
		{head: "FROM", right: true}, {head: "MESSAGES", right: true}, {head: "START P50", right: true}, {head: "P99", right: true},
		{head: "DONE P50", right: true}, {head: "P99", right: true}, {head: "READY", right: true},
	}
	var rows [][]string
	for _, w := range windows {
		rows = append(rows, []string{
			fmt.Sprintf("%.0f s", w.StartSeconds), thousands(w.Messages), ms(w.StartP50Ms), ms(w.StartP99Ms),
			ms(w.DoneP50Ms), ms(w.DoneP99Ms), thousands(w.Ready),
		})
	}
	return writeTable(a.out, cols, rows)
}

// ms is milliseconds in as many digits as anybody reads.
func ms(v float64) string {
	digits := 2
	if v >= 1000 {
		digits = 0
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " ms"
}

func megabytes(n int64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', 0, 64) + " MB" }

// thousands writes a number with commas: 1,234,567.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
