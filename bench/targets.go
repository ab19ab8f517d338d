package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The contenders' names.
const (
	nameOurs          = "pgqrsd"
	nameOursDelete    = "pgqrsd-delete"
	nameOursSQLite    = "pgqrsd-sqlite"
	nameRiver         = "river"
	nameRiverSQLite   = "river-sqlite"
	nameBare1000      = "bare-1000"
	nameBare2000      = "bare-2000"
	nameGraphile      = "graphile"
	nameShallow       = "shallow"
	nameDeep          = "deep"
	nameAlone         = "alone"
	nameInFlight      = "in-flight"
	nameRiverIdle     = "river-idle"
	nameRiverEvery    = "river-every-20ms"
	nameOursIdle      = "pgqrsd-idle"
	nameCommit        = "commit"
	nameOursEvery     = "pgqrsd-every-20ms"
	sqliteDSN         = "sqlite:"
	megabyte          = 1e6
	flatMemory        = 1.25
	drainMessages     = 200_000
	sqliteMessages    = 30_000
	latencyIdleRate   = 2.0 // messages a second
	latencyIdleJobs   = 120
	latencyEvery      = 20 * time.Millisecond
	latencyEveryJobs  = 1500
	steadyRate        = 2000
	latencyTargetRate = 20
)

// experiments are all of them: first those of the targets, in the order of
// their table, then the latency beside River's.
func experiments(l *lab) []experiment {
	return []experiment{
		l.drainExperiment(), l.latencyExperiment(), l.deepExperiment(), l.steadyExperiment(), l.inFlightExperiment(),
		l.idleExperiment(), l.sqliteExperiment(), l.memoryExperiment(), l.enqueueExperiment(), l.workflowsExperiment(), l.stepExperiment(),
		l.riverLatencyExperiment(),
	}
}

func (l *lab) drainExperiment() experiment {
	n := l.messages(drainMessages)
	bare := func(name string, batch int) contender {
		return l.childContender(name, "claim and settle on the real schema, no handler, batches of "+strconv.Itoa(batch),
			task{Kind: kindBare, DSN: l.dsn, Messages: n, Batch: batch})
	}
	return experiment{
		name: "drain", suite: suiteTargets,
		contenders: []contender{
			l.pgqrsdOn(nameOurs, l.dsn, "drain", "--queue-size", strconv.Itoa(n)),
			l.childContender(nameRiver, riverSettings, task{Kind: kindRiver, DSN: l.dsn, Messages: n}),
			bare(nameBare1000, 1000),
			bare(nameBare2000, 2000),
			l.pgqrsdOn(nameOursDelete, l.dsn, "drain", "--queue-size", strconv.Itoa(n), "--retain", "delete"),
			{nameGraphile, graphileSettings, func(ctx context.Context) (figures, error) { return l.graphileDrain(ctx, n) }},
		},
		rows: []row{
			{
				name: "drain-river", what: "drain through a handler process / River in process, both keep completed jobs",
				goal: goal{atLeast, 2, 3}, needs: []string{nameOurs, nameRiver}, value: ratio(figJobs, nameOurs, nameRiver),
			},
			{
				name: "drain-bare", what: "drain through a handler process / bare claim+settle loop, the better batch size",
				goal: goal{atLeast, 0.4, 0.55}, needs: []string{nameOurs, nameBare1000, nameBare2000},
				value: func(m medians) float64 {
					return m.of(nameOurs, figJobs) / max(m.of(nameBare1000, figJobs), m.of(nameBare2000, figJobs))
				},
			},
			{
				name: "drain-graphile", what: "drain with --retain delete / Graphile Worker's batched mode in process",
				goal: goal{bound: atLeast, limit: 1.2}, needs: []string{nameOursDelete, nameGraphile},
				value: ratio(figJobs, nameOursDelete, nameGraphile),
			},
		},
	}
}

func (l *lab) latencyExperiment() experiment {
	args := []string{"steady", "--rate", strconv.Itoa(latencyTargetRate), "--duration", l.duration(time.Minute).String()}
	e := experiment{
		name: "latency", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameOurs, l.dsn, args...), l.onSQLite(nameOursSQLite, args...)},
	}
	for _, c := range []struct{ contender, on string }{{nameOurs, "postgres"}, {nameOursSQLite, "sqlite"}} {
		e.rows = append(e.rows,
			row{
				name: "latency-" + c.on + "-p50", what: "enqueue commit to handler start, idle, one at a time, " + c.on + ": median", unit: "ms",
				goal: goal{bound: under, limit: 3}, needs: []string{c.contender}, value: figure(c.contender, figStartP50),
			},
			row{
				name: "latency-" + c.on + "-p99", what: "enqueue commit to handler start, idle, one at a time, " + c.on + ": p99", unit: "ms",
				goal: goal{bound: under, limit: 15}, needs: []string{c.contender}, value: figure(c.contender, figStartP99),
			})
	}
	return e
}

func (l *lab) deepExperiment() experiment {
	window := []string{"drain", "--queue-size", strconv.Itoa(l.messages(100_000)), "--warm-up", strconv.Itoa(l.messages(20_000))}
	deep := append(append([]string{}, window...), "--backlog", strconv.Itoa(l.messages(1_000_000)),
		"--archived", strconv.Itoa(l.messages(1_000_000)), "--delayed", strconv.Itoa(l.messages(200_000)))
	return experiment{
		name: "deep", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameShallow, l.dsn, window...), l.pgqrsdOn(nameDeep, l.dsn, deep...)},
		rows: []row{{
			name: "deep-queue", what: "the same window after warm-up, with 1,000,000 ready behind, 1,000,000 archived, 200,000 delayed / without",
			goal: goal{bound: atLeast, limit: 0.9}, needs: []string{nameShallow, nameDeep}, value: ratio(figJobs, nameDeep, nameShallow),
		}},
	}
}

func (l *lab) steadyExperiment() experiment {
	// Thirds need three windows of five seconds.
	duration := max(15*time.Second, l.duration(3*time.Minute))
	return experiment{
		name: "steady", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameOurs, l.dsn, "steady", "--rate", strconv.Itoa(steadyRate),
			"--duration", duration.String(), "--fail-rate", "0.01", "--hold-snapshot")},
		rows: []row{
			{
				name: "steady-p99", what: "steady 2,000/s, 1% retries, an old snapshot held: median window p99 of start, last third / first",
				goal: goal{bound: atMost, limit: 1.5}, needs: []string{nameOurs}, value: figure(nameOurs, figStartP99Thirds),
			},
			{
				// A tenth of a second's arrivals: a queue that grew by a
				// thousandth of the rate would gain more in three minutes.
				name: "steady-backlog", what: "the same: median backlog, last third minus first", unit: "messages",
				goal: goal{bound: atMost, limit: steadyRate / 10}, needs: []string{nameOurs}, value: figure(nameOurs, figReadyGrowth),
			},
			{
				// Arrivals are random: three minutes differ by up to two percent.
				name: "steady-rate", what: "the same: messages done a second / asked for",
				goal: goal{bound: atLeast, limit: 0.95}, needs: []string{nameOurs}, value: figure(nameOurs, figKeptUp),
			},
		},
	}
}

func (l *lab) inFlightExperiment() experiment {
	window := []string{"drain", "--queue-size", strconv.Itoa(l.messages(20_000)), "--warm-up", strconv.Itoa(l.messages(2000))}
	// Not scaled below what it takes to fill the queue while they sleep.
	sleep := max(15*time.Second, l.duration(time.Minute))
	busy := append(append([]string{}, window...), "--in-flight", strconv.Itoa(l.messages(10_000)), "--sleep", sleep.String())
	return experiment{
		name: "in-flight", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameAlone, l.dsn, window...), l.pgqrsdOn(nameInFlight, l.dsn, busy...)},
		rows: []row{{
			name: "long-jobs", what: "20,000 short jobs behind 10,000 in flight that sleep 60 s / the short ones alone",
			goal: goal{bound: atLeast, limit: 0.7}, needs: []string{nameAlone, nameInFlight}, value: ratio(figJobs, nameInFlight, nameAlone),
		}},
	}
}

func (l *lab) idleExperiment() experiment {
	return experiment{
		name: "idle", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameOurs, l.dsn, "idle", "--queues", "20", "--duration", l.duration(30*time.Second).String())},
		rows: []row{
			{
				name: "idle-statements", what: "idle daemon, 20 queues: statements", unit: "/s",
				goal: goal{bound: under, limit: 3}, needs: []string{nameOurs}, value: figure(nameOurs, figStatements),
			},
			{
				name: "idle-cpu", what: "idle daemon, 20 queues: CPU of the daemon and its handler, of one core", unit: "%",
				goal: goal{bound: under, limit: 1}, needs: []string{nameOurs},
				value: func(m medians) float64 { return m.of(nameOurs, figDaemonCPU) + m.of(nameOurs, figHandlerCPU) },
			},
		},
	}
}

func (l *lab) sqliteExperiment() experiment {
	n := l.messages(sqliteMessages)
	return experiment{
		name: "sqlite", suite: suiteTargets,
		contenders: []contender{
			l.onSQLite(nameOursSQLite, "drain", "--queue-size", strconv.Itoa(n)),
			{nameRiverSQLite, riverSQLiteSettings, func(ctx context.Context) (figures, error) {
				return inDirectory(func(dir string) (figures, error) {
					return l.child(ctx, task{Kind: kindRiverSQLite, File: filepath.Join(dir, "river.db"), Messages: n})
				})
			}},
		},
		rows: []row{{
			name: "sqlite-river", what: "SQLite drain / River's SQLite driver, both synchronous=FULL",
			goal: goal{bound: atLeast, limit: 1.5}, needs: []string{nameOursSQLite, nameRiverSQLite},
			value: ratio(figJobs, nameOursSQLite, nameRiverSQLite),
		}},
	}
}

func (l *lab) memoryExperiment() experiment {
	return experiment{
		name: "memory", suite: suiteTargets,
		contenders: []contender{l.pgqrsdOn(nameOurs, l.dsn, "drain", "--queue-size", strconv.Itoa(l.messages(1_000_000)))},
		rows: []row{
			{
				name: "memory-peak", what: "daemon memory while draining 1,000,000: peak", unit: "MB",
				goal: goal{bound: under, limit: 150}, needs: []string{nameOurs},
				value: func(m medians) float64 { return m.of(nameOurs, figPeakMemory) / megabyte },
			},
			{
				name: "memory-flat", what: "the same: median of the last quarter of the samples / of the first",
				goal: goal{bound: atMost, limit: flatMemory}, needs: []string{nameOurs}, value: figure(nameOurs, figMemoryGrowth),
			},
		},
	}
}

func (l *lab) enqueueExperiment() experiment {
	n := l.messages(drainMessages)
	return experiment{
		name: "enqueue", suite: suiteTargets,
		contenders: []contender{
			l.childContender(nameOurs, "Producer.EnqueueBatch, batches of 5,000, payloads of 200 bytes", task{Kind: kindEnqueue, DSN: l.dsn, Messages: n}),
			l.childContender(nameRiver, "InsertManyFast, batches of 5,000, arguments of 200 bytes", task{Kind: kindRiverEnqueue, DSN: l.dsn, Messages: n}),
		},
		rows: []row{{
			name: "enqueue-river", what: "batch enqueue from Go, 200-byte payloads / River's InsertManyFast",
			goal: goal{bound: atLeast, limit: 1}, needs: []string{nameOurs, nameRiver}, value: ratio(figEnqueue, nameOurs, nameRiver),
		}},
	}
}

// riverLatencyExperiment compares latencies, ours and River's at its defaults:
// now and then, and every 20 ms. It is no target. Our messages come at random
// with that mean, River's at even intervals, which suits it better.
func (l *lab) riverLatencyExperiment() experiment {
	idle, every := l.messages(latencyIdleJobs), l.messages(latencyEveryJobs)
	steady := func(name string, rate float64, jobs int) contender {
		d := max(2*time.Second, time.Duration(float64(jobs)/rate*float64(time.Second)).Round(time.Second))
		return l.pgqrsdOn(name, l.dsn, "steady", "--rate", strconv.FormatFloat(rate, 'g', -1, 64), "--duration", d.String())
	}
	const settings = "defaults (FetchCooldown 100 ms, FetchPollInterval 1 s), in process, one Insert every "
	river := func(name string, every time.Duration, jobs int) contender {
		return l.childContender(name, settings+every.String(), task{Kind: kindRiverLatency, DSN: l.dsn, Messages: jobs, Every: every})
	}
	idleEvery := time.Duration(float64(time.Second) / latencyIdleRate)
	e := experiment{
		name: "river-latency", suite: suiteLatency,
		contenders: []contender{
			steady(nameOursIdle, latencyIdleRate, idle),
			river(nameRiverIdle, idleEvery, idle),
			steady(nameOursEvery, float64(time.Second/latencyEvery), every),
			river(nameRiverEvery, latencyEvery, every),
		},
	}
	for _, pair := range []struct{ name, what, ours, theirs string }{
		{"idle", "one message each 500 ms", nameOursIdle, nameRiverIdle},
		{"every-20ms", "one message each 20 ms", nameOursEvery, nameRiverEvery},
	} {
		for _, q := range []struct{ name, figure string }{{"p50", figStartP50}, {"p99", figStartP99}} {
			e.rows = append(e.rows, row{
				name: "river-latency-" + pair.name + "-" + q.name, what: "start latency, " + pair.what + ", " + q.name + ": ours / River's at its defaults",
				needs: []string{pair.ours, pair.theirs}, value: ratio(q.figure, pair.ours, pair.theirs),
			})
		}
	}
	return e
}

// childContender is one that a child process of this program measures.
func (l *lab) childContender(name, settings string, t task) contender {
	return contender{name, settings, func(ctx context.Context) (figures, error) { return l.child(ctx, t) }}
}

// onSQLite is pgqrsd bench beside a file in a directory of its own.
func (l *lab) onSQLite(name string, args ...string) contender {
	c := l.pgqrsdOn(name, "", args...)
	c.settings += " (SQLite)"
	c.measure = func(ctx context.Context) (figures, error) {
		return inDirectory(func(dir string) (figures, error) {
			return l.pgqrsdBench(ctx, sqliteDSN+filepath.Join(dir, "bench.db"), args)
		})
	}
	return c
}

// inDirectory gives measure a directory that is removed after it.
func inDirectory(measure func(dir string) (figures, error)) (figures, error) {
	dir, err := os.MkdirTemp("", "pgqrsd-sidebyside-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return measure(dir)
}
