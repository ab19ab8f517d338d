package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) archiveCommand() *cobra.Command {
	return group("archive", "Look at finished messages", "  pgqrsd archive list emails",
		a.archiveList(), a.archiveCount(), a.archivePurge())
}

// archivedState adds --state for the archived ones.
func archivedState(cmd *cobra.Command, state *store.State) {
	cmd.Flags().StringVar((*string)(state), "state", "", "only those that are done, dead or cancelled")
	completeFlag(cmd, "state", completeNames(archivedStates))
	cmd.PreRunE = func(*cobra.Command, []string) error { return oneOf("--state", *state, archivedStates) }
}

func (a *app) archiveList() *cobra.Command {
	var filter store.MessageFilter
	cmd := &cobra.Command{
		Use:   "list QUEUE",
		Short: "List the finished messages of a queue",
		Example: `  pgqrsd archive list emails
  pgqrsd archive list emails --state done --limit 1000 -o json`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			filter.Queue = args[0]
			messages, err := s.Archive().List(ctx, filter)
			if err != nil {
				return err
			}
			return a.printMessages("finished messages", messages, filter.Page)
		}),
	}
	archivedState(cmd, &filter.State)
	pageFlags(cmd, &filter.Page)
	return cmd
}

func (a *app) archiveCount() *cobra.Command {
	var state store.State
	cmd := &cobra.Command{
		Use:   "count QUEUE",
		Short: "Count the finished messages of a queue",
		Example: `  pgqrsd archive count emails
  pgqrsd archive count emails --state dead`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			n, err := s.Archive().Count(ctx, store.MessageFilter{Queue: args[0], State: state})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(queueCount{args[0], n})
			}
			_, err = a.out.Write([]byte(strconv.FormatInt(n, 10) + "\n"))
			return err
		}),
	}
	archivedState(cmd, &state)
	return cmd
}

func (a *app) archivePurge() *cobra.Command {
	var olderThan durationFlag
	cmd := &cobra.Command{
		Use:   "purge QUEUE",
		Short: "Delete finished messages of a queue, but not its dead letters",
		Long: `Delete finished messages of a queue: done and cancelled ones. Dead letters stay
until ` + "`pgqrsd dlq purge`" + ` or a replay.`,
		Example: `  pgqrsd archive purge emails
  pgqrsd archive purge emails --older-than 7d`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			n, err := s.Archive().Purge(ctx, args[0], olderThan.duration(), store.Done, store.Cancelled)
			if err != nil {
				return err
			}
			return a.printCount(args[0], n, "finished messages deleted from the archive of queue %s%s", args[0], olderText(olderThan))
		}),
	}
	olderThanFlag(cmd, &olderThan, "only those that finished longer ago")
	return cmd
}

func olderThanFlag(cmd *cobra.Command, d *durationFlag, usage string) {
	cmd.Flags().Var(d, "older-than", usage)
	completeFlag(cmd, "older-than", cobra.NoFileCompletions)
}

func olderText(d durationFlag) string {
	if d == 0 {
		return ""
	}
	return " (older than " + config.FormatDuration(d.duration()) + ")"
}
