package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workerMessages() *cobra.Command {
	var page store.Page
	cmd := a.onID("worker", &cobra.Command{
		Use:     "messages ID",
		Short:   "List the messages that a worker holds",
		Example: "  pgqrsd worker messages 7",
	}, func(ctx context.Context, s *session, id int64) error {
		return s.asAdmin(ctx, func(admin store.Admin) error {
			messages, err := admin.WorkerMessages(ctx, id, page)
			if err != nil {
				return err
			}
			return a.printMessages("messages", messages, page)
		})
	})
	pageFlags(cmd, &page)
	return cmd
}

func (a *app) workerRelease() *cobra.Command {
	return a.onID("worker", &cobra.Command{
		Use:   "release ID",
		Short: "Give back all that a worker holds",
		Long: `Give back all messages that a worker holds, without costing them an attempt. The
worker, if it still runs, finds its leases lost, and what it settles changes
nothing.`,
		Example: "  pgqrsd worker release 7",
	}, func(ctx context.Context, s *session, id int64) error {
		return s.asAdmin(ctx, func(admin store.Admin) error {
			n, left := admin.ReleaseWorker(ctx, id)
			if left != nil && !errors.Is(left, store.ErrLocked) {
				return left
			}
			if a.json() {
				return errors.Join(left, a.printJSON(struct {
					Worker int64 `json:"worker"`
					Count  int64 `json:"count"`
				}{id, n}))
			}
			a.say("%d messages of worker %d released", n, id)
			return left
		})
	})
}

// maxAgeFlag is --max-age, which is worker_timeout where it is not given.
type maxAgeFlag struct {
	value durationFlag
	flag  *pflag.Flag
}

func (f *maxAgeFlag) add(cmd *cobra.Command) {
	f.flag = cmd.Flags().VarPF(&f.value, "max-age", "", "oldest live heartbeat (default worker_timeout)")
	completeFlag(cmd, "max-age", cobra.NoFileCompletions)
}

func (f *maxAgeFlag) orDefault(s *session) time.Duration {
	if f.flag.Changed {
		return f.value.duration()
	}
	return s.cfg.Daemon.WorkerTimeout
}

func (a *app) workerReclaim() *cobra.Command {
	var maxAge maxAgeFlag
	var force bool
	cmd := &cobra.Command{
		Use:   "reclaim",
		Short: "Stop workers without a heartbeat and give their messages back",
		Long: `Stop every worker without a heartbeat and give its messages back. Messages that
had started lose an attempt. Running daemons do this by themselves.

A --max-age below twice heartbeat_interval would stop workers that live, so it
is refused without --force.`,
		Example: `  pgqrsd worker reclaim
  pgqrsd worker reclaim --max-age 5m`,
		Args: args(),
		RunE: a.withAdmin(func(ctx context.Context, s *session, admin store.Admin, _ []string) error {
			limit := maxAge.orDefault(s)
			if least := 2 * s.cfg.Daemon.HeartbeatInterval; limit < least && !force {
				return usagef("--max-age %s is below twice heartbeat_interval (%s), which would stop workers that live; --force does it all the same",
					config.FormatDuration(limit), config.FormatDuration(least))
			}
			given, left := admin.Reclaim(ctx, limit)
			if left != nil && !errors.Is(left, store.ErrLocked) {
				return left
			}
			if a.json() {
				return errors.Join(left, a.printJSON(view.OfGivenBack(given)))
			}
			a.say("%d workers without a heartbeat for %s stopped; of their messages %d are ready again and %d are dead",
				given.Workers, config.FormatDuration(limit), given.Ready, given.Dead)
			return left
		}),
	}
	maxAge.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "reclaim from workers that may live")
	return cmd
}

func (a *app) workerStats() *cobra.Command {
	return &cobra.Command{
		Use:   "stats [QUEUE]",
		Short: "Count the consumers of each queue, and what they hold",
		Example: `  pgqrsd worker stats
  pgqrsd worker stats emails -o json`,
		Args:              optional,
		ValidArgsFunction: a.queueNames,
		RunE: a.withAdmin(func(ctx context.Context, s *session, admin store.Admin, args []string) error {
			queue := ""
			if len(args) > 0 {
				queue = args[0]
				if _, err := s.Queues().Get(ctx, queue); err != nil {
					return err
				}
			}
			stats, err := admin.WorkerStats(ctx, queue)
			if err != nil {
				return err
			}
			if queue != "" && len(stats) == 0 {
				stats = []store.WorkerStats{{Queue: queue}}
			}
			switch {
			case a.json() && queue != "":
				return a.printJSON(view.OfWorkerStats(stats[0]))
			case a.json():
				return a.printJSON(view.Each(stats, view.OfWorkerStats))
			}
			rows := make([][]string, len(stats))
			for i, st := range stats {
				rows[i] = append([]string{st.Queue}, numbers(st.Ready, st.Suspended, st.Stopped, st.Leased)...)
				rows[i] = append(rows[i], age(st.OldestHeartbeatAge))
			}
			return a.printTable("consumers", []column{
				{head: "QUEUE", flex: true}, {head: "READY", right: true}, {head: "SUSPENDED", right: true}, {head: "STOPPED", right: true},
				{head: "LEASED", right: true}, {head: "OLDEST HEARTBEAT", right: true},
			}, rows)
		}),
	}
}

func (a *app) workerHealth() *cobra.Command {
	var maxAge maxAgeFlag
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Count live and stale workers",
		Long: `Count workers: healthy ones, stale ones (no heartbeat for too long), suspended
and stopped ones, and list the stale ones.`,
		Example: `  pgqrsd worker health
  pgqrsd worker health --max-age 1m -o json`,
		Args: args(),
		RunE: a.withAdmin(func(ctx context.Context, s *session, admin store.Admin, _ []string) error {
			report, err := admin.WorkerHealth(ctx, maxAge.orDefault(s))
			if err != nil {
				return err
			}
			report.Healthy-- // this command's own
			if a.json() {
				return a.printJSON(view.OfHealthReport(report))
			}
			err = a.printFields([][2]string{
				{"healthy", strconv.FormatInt(report.Healthy, 10)}, {"stale", strconv.FormatInt(report.Stale, 10)},
				{"suspended", strconv.FormatInt(report.Suspended, 10)}, {"stopped", strconv.FormatInt(report.Stopped, 10)},
			})
			if err != nil || len(report.StaleWorkers) == 0 {
				return err
			}
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
			return a.printWorkers(report.StaleWorkers, store.Page{})
		}),
	}
	maxAge.add(cmd)
	return cmd
}

func (a *app) workerPurge() *cobra.Command {
	var olderThan durationFlag
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove the rows of stopped workers",
		Example: `  pgqrsd worker purge
  pgqrsd worker purge --older-than 7d`,
		Args: args(),
		RunE: a.withAdmin(func(ctx context.Context, _ *session, admin store.Admin, _ []string) error {
			n, err := admin.PurgeWorkers(ctx, olderThan.duration())
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(struct {
					Count int64 `json:"count"`
				}{n})
			}
			a.say("%d stopped workers removed%s", n, olderText(olderThan))
			return nil
		}),
	}
	olderThanFlag(cmd, &olderThan, "only those that stopped longer ago")
	return cmd
}
