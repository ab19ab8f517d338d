package main

import (
	"context"
	"errors"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/internal/bench"
)

// benchFlags are the modes that each flag of its own is for.
var benchFlags = map[string][]bench.Mode{
	"queue-size":    {bench.Drain},
	"handlers":      {bench.Drain, bench.Steady},
	"concurrency":   bench.Modes,
	"payload-bytes": bench.Modes,
	"retain":        {bench.Drain, bench.Steady},
	"backlog":       {bench.Drain},
	"archived":      bench.Modes,
	"delayed":       bench.Modes,
	"warm-up":       {bench.Drain},
	"in-flight":     {bench.Drain},
	"sleep":         {bench.Drain},
	"steps":         {bench.Drain},
	"rate":          {bench.Steady},
	"duration":      {bench.Steady, bench.Idle},
	"fail-rate":     {bench.Steady},
	"queues":        {bench.Idle},
	"hold-snapshot": {bench.Drain, bench.Steady},
}

func (a *app) benchCommand() *cobra.Command {
	o := bench.DefaultOptions()
	duration, sleep := durationFlag(o.Duration), durationFlag(o.Sleep)
	retain := string(o.Retain)
	cmd := &cobra.Command{
		Use:   "bench [drain|steady|idle]",
		Short: "Measure what this machine and the database do",
		Long: `Measure what this machine and the database do, with the real daemon and real
handler processes whose jobs do nothing.

  drain   fill a queue, and work it off: jobs a second (the default), or, with
          --steps, workflows and steps a second
  steady  enqueue and work at a rate: latencies
  idle    wait on empty queues: statements a second, processor time

It works in a scratch schema of its own in the configured PostgreSQL database,
which needs the right to create one there, or in a scratch file beside the
configured SQLite file. Both are removed at the end, also after Ctrl-C or when
the terminal goes away; what a run that was killed left is removed by the next
one. Other work on the machine and the database is in the figures, and slows
down while they are measured.`,
		Example: `  pgqrsd bench
  pgqrsd bench drain --queue-size 200000 --retain delete -o json
  pgqrsd bench drain --steps 5 --queue-size 20000
  pgqrsd bench steady --rate 500 --duration 1m
  pgqrsd --dsn postgres://app@db/app bench idle --queues 50`,
		Args:              benchMode(&o),
		ValidArgsFunction: completeNames(bench.Modes),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Workflow = cmd.Flags().Changed("steps")
			o.Duration, o.Sleep, o.Retain = duration.duration(), sleep.duration(), daemon.Retain(retain)
			if err := checkBench(cmd, &o); err != nil {
				return err
			}
			return a.bench(cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.QueueSize, "queue-size", o.QueueSize, "measure so many messages (drain)")
	flags.IntVar(&o.Handlers, "handlers", o.Handlers, "handler processes, each with a queue of its own\n(drain, steady)")
	flags.IntVar(&o.Concurrency, "concurrency", o.Concurrency, "jobs of a queue at once")
	flags.IntVar(&o.PayloadBytes, "payload-bytes", o.PayloadBytes, "length of each payload")
	flags.StringVar(&retain, "retain", retain, "archive or delete done messages\n(drain)")
	flags.IntVar(&o.Backlog, "backlog", 0, "ready messages that stay behind the measured ones\n(drain)")
	flags.IntVar(&o.Archived, "archived", 0, "archived messages that are there beforehand")
	flags.IntVar(&o.Delayed, "delayed", 0, "delayed messages that are there beforehand")
	flags.IntVar(&o.WarmUp, "warm-up", 0, "messages worked off before the clock starts (drain)")
	flags.IntVar(&o.InFlight, "in-flight", 0, "jobs that sleep on the queue meanwhile (drain)")
	flags.Var(&sleep, "sleep", "how long jobs of --in-flight take\n(drain)")
	flags.IntVar(&o.Steps, "steps", 0, "the messages are runs of a workflow of so many steps\n(drain; without it they are jobs)")
	flags.Float64Var(&o.Rate, "rate", o.Rate, "messages a second (steady)")
	flags.Var(&duration, "duration", "measure for so long (steady, idle)")
	flags.Float64Var(&o.FailRate, "fail-rate", 0, "share of the messages whose first attempt fails\n(steady)")
	flags.IntVar(&o.Queues, "queues", o.Queues, "queues of the handler process (idle)")
	flags.BoolVar(&o.HoldSnapshot, "hold-snapshot", false, "another connection holds an old snapshot meanwhile\n(drain, steady; PostgreSQL)")
	for name := range benchFlags {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// benchMode takes the mode from the arguments.
func benchMode(o *bench.Options) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) == 0 {
			return nil
		}
		o.Mode = bench.Mode(got[0])
		if !slices.Contains(bench.Modes, o.Mode) {
			return usagef("%s has no mode %q; it has %s", cmd.CommandPath(), got[0], strings.Join(texts(bench.Modes), ", "))
		}
		return atMost(1, cmd, got)
	}
}

// checkBench refuses values that cannot be, and flags that would do nothing.
func checkBench(cmd *cobra.Command, o *bench.Options) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		modes, own := benchFlags[f.Name]
		if own && err == nil && !slices.Contains(modes, o.Mode) {
			err = usagef("--%s is for bench %s, not for bench %s", f.Name, strings.Join(texts(modes), " and "), o.Mode)
		}
	})
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("sleep") && o.InFlight == 0 {
		return usagef("--sleep is of use only with --in-flight")
	}
	if err := o.Check(); err != nil {
		return usagef("%v", err)
	}
	return nil
}

// bench runs a bench and prints its report, also when the scratch could not be
// removed.
func (a *app) bench(cmd *cobra.Command, o bench.Options) error {
	cfg, err := a.load(cmd)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	p := newProgress(a.err)
	report, err := bench.Run(ctx, bench.Config{
		Store: storeConfig(cfg), Options: o, Version: versionText(), Progress: p.show, Say: p.say,
	})
	p.clear()
	switch {
	case report == nil:
		return err
	case a.json():
		return errors.Join(a.printJSON(report), err)
	default:
		return errors.Join(a.printBench(report), err)
	}
}

// interruptible is a context that the first signal ends. The next SIGINT or
// SIGTERM ends the process at once; SIGHUP never does, for a terminal that goes
// away may send several.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, stopTerm := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	stopHangUp := context.CancelFunc(func() {})
	if !signal.Ignored(syscall.SIGHUP) { // nohup stays in force
		ctx, stopHangUp = signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	unwatch := context.AfterFunc(ctx, stopTerm)
	return ctx, func() {
		unwatch()
		stopHangUp()
		stopTerm()
	}
}

// benchDaemon and benchHandler are what bench starts of its own binary.
func (a *app) benchDaemon() *cobra.Command {
	return &cobra.Command{
		Use:    bench.DaemonCommand,
		Short:  "Be the daemon that bench measures",
		Hidden: true,
		Args:   args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.ServeDaemon(cmd.Context(), a.in, a.out, a.err)
		},
	}
}

func (a *app) benchHandler() *cobra.Command {
	return &cobra.Command{
		Use:    bench.HandlerCommand + " KIND QUEUE...",
		Short:  "Be a handler that bench's daemon starts",
		Hidden: true,
		Args:   cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, got []string) error {
			bench.ServeHandler(got[0], got[1:])
			return nil
		},
	}
}
