package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
)

// The figures' names: those of `pgqrsd bench -o json`, which the other
// contenders use too, and what is made of its lists.
const (
	figJobs           = "jobs_per_second"
	figEnqueue        = "enqueue_per_second"
	figSeconds        = "seconds"
	figMessages       = "messages"
	figStartP50       = "start_p50_ms"
	figStartP99       = "start_p99_ms"
	figStartMax       = "start_max_ms"
	figStatements     = "statements_per_second"
	figDaemonCPU      = "daemon_cpu_percent"
	figHandlerCPU     = "handler_cpu_percent"
	figWorkflows      = "workflows_per_second"
	figSteps          = "steps_per_second"
	figStepP50        = "step_p50_ms"
	figStepP99        = "step_p99_ms"
	figCommitP50      = "commit_p50_ms"
	figCommitP99      = "commit_p99_ms"
	figPeakMemory     = "daemon_peak_memory_bytes"
	figStartP99Thirds = "start_p99_third_over_first"
	figDoneP99Thirds  = "done_p99_third_over_first"
	figReadyFirst     = "ready_first_third"
	figReadyGrowth    = "ready_growth"
	figKeptUp         = "share_of_rate"
	figMemoryGrowth   = "memory_last_over_first_quarter"
)

// A pgqrsdReport is what `pgqrsd bench -o json` prints.
type pgqrsdReport struct {
	Mode     string `json:"mode"`
	Settings struct {
		Rate float64 `json:"rate"`
	} `json:"settings"`
	Windows       []window       `json:"windows"`
	MemorySamples []memorySample `json:"memory_samples"`
	// figures are all numbers at the top of the object.
	figures figures
}

type memorySample struct {
	MessagesDone int64   `json:"messages_done"`
	Bytes        float64 `json:"bytes"`
}

func parsePgqrsd(data []byte) (pgqrsdReport, error) {
	r := pgqrsdReport{figures: figures{}}
	var fields map[string]any
	if err := errors.Join(json.Unmarshal(data, &r), json.Unmarshal(data, &fields)); err != nil {
		return r, fmt.Errorf("read what pgqrsd bench printed: %w", err)
	}
	if r.Mode == "" {
		return r, errors.New("read what pgqrsd bench printed: it names no mode")
	}
	for name, value := range fields {
		if v, ok := value.(float64); ok {
			r.figures[name] = v
		}
	}
	return r, nil
}

// pgqrsdBench runs the real binary. The DSN goes through the environment.
func (l *lab) pgqrsdBench(ctx context.Context, dsn string, args []string) (figures, error) {
	cmd := command(ctx, l.pgqrsd, append(append([]string{"bench"}, args...), "-o", "json")...)
	cmd.Env = append(os.Environ(), "PGQRS_DSN="+dsn)
	out, err := output(cmd)
	if err != nil {
		return nil, err
	}
	r, err := parsePgqrsd(out)
	if err != nil {
		return nil, err
	}
	return r.derived(), nil
}

// derived adds what is made of the lists.
func (r pgqrsdReport) derived() figures {
	f := r.figures
	if len(r.Windows) >= 3 {
		for name, pick := range map[string]func(window) float64{
			figStartP99Thirds: func(w window) float64 { return w.StartP99 },
			figDoneP99Thirds:  func(w window) float64 { return w.DoneP99 },
		} {
			first, last := thirds(r.Windows, pick)
			f.setRatio(name, last, first)
		}
		first, last := thirds(r.Windows, func(w window) float64 { return w.Ready })
		f[figReadyFirst], f[figReadyGrowth] = first, last-first
	}
	f.setRatio(figKeptUp, f[figJobs], r.Settings.Rate)
	first, last := quarters(r.MemorySamples)
	f.setRatio(figMemoryGrowth, last, first)
	return f
}

// setRatio leaves a ratio out that is no number, which JSON cannot hold.
func (f figures) setRatio(name string, of, to float64) {
	if v := of / to; !math.IsNaN(v) && !math.IsInf(v, 0) {
		f[name] = v
	}
}

// quarters are the medians of the first and the last quarter of the samples.
func quarters(samples []memorySample) (first, last float64) {
	n := len(samples) / 4
	bytes := func(ss []memorySample) []float64 {
		var v []float64
		for _, s := range ss {
			v = append(v, s.Bytes)
		}
		return v
	}
	return median(bytes(samples[:n])), median(bytes(samples[len(samples)-n:]))
}

// pgqrsdOn makes a contender of pgqrsd bench with these arguments.
func (l *lab) pgqrsdOn(name, dsn string, args ...string) contender {
	return contender{
		name:     name,
		settings: strings.Join(append([]string{"pgqrsd bench"}, args...), " "),
		measure: func(ctx context.Context) (figures, error) {
			return l.pgqrsdBench(ctx, dsn, args)
		},
	}
}
