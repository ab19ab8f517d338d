package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) dlqCommand() *cobra.Command {
	return group("dlq", "Look at dead letters and replay them", "  pgqrsd dlq list",
		a.dlqList(), a.dlqReplay(), a.dlqPurge())
}

func (a *app) dlqList() *cobra.Command {
	filter := store.MessageFilter{State: store.Dead}
	cmd := &cobra.Command{
		Use:   "list [QUEUE]",
		Short: "List the dead letters of a queue, or of all",
		Example: `  pgqrsd dlq list
  pgqrsd dlq list emails -o json`,
		Args:              optional,
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if len(args) > 0 {
				filter.Queue = args[0]
			}
			messages, err := s.Archive().List(ctx, filter)
			if err != nil {
				return err
			}
			return a.printMessages("dead letters", messages, filter.Page)
		}),
	}
	pageFlags(cmd, &filter.Page)
	return cmd
}

func (a *app) dlqReplay() *cobra.Command {
	var queue string
	cmd := &cobra.Command{
		Use:   "replay ID...",
		Short: "Put dead letters back on their queues",
		Long: `Put dead letters back on their queues, under their own ids, with no failed
attempts and their errors kept: those that are named, or all of a queue.

A workflow's run keeps what is recorded of it, and so comes to the same failure
again. For runs use ` + "`pgqrsd workflow retry ID...`, or `--all NAME`" + `.`,
		Example: `  pgqrsd dlq replay 42 43
  pgqrsd dlq replay --queue emails`,
		Args: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == cmd.Flags().Changed("queue") {
				return usagef("%s needs the IDs of dead letters, or --queue", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if queue != "" {
				return a.replayQueue(ctx, s, queue)
			}
			return a.replayIDs(ctx, s, args)
		}),
	}
	cmd.PreRunE = notEmpty("queue", "name the queue whose dead letters are meant")
	cmd.Flags().Var((*onceFlag)(&queue), "queue", "replay every dead letter of this queue")
	a.completeQueue(cmd, "queue")
	return cmd
}

// replayIDs prints the ids that were replayed and returns the errors of the others.
func (a *app) replayIDs(ctx context.Context, s *session, args []string) error {
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = parseID("dead letter", arg); err != nil {
			return err
		}
	}
	results, err := s.Archive().Replay(ctx, ids...)
	if err != nil {
		return err
	}
	replayed := a.newIDs()
	var failed []error
	for i, result := range results {
		if result != nil {
			failed = append(failed, fmt.Errorf("replay %d: %w", ids[i], notDead(ctx, s, ids[i], result)))
			continue
		}
		failed = append(failed, replayed.add(ids[i]))
	}
	failed = append(failed, replayed.end(true))
	return errors.Join(failed...)
}

// notDead says what a message is that could not be replayed.
func notDead(ctx context.Context, s *session, id int64, refused error) error {
	for _, get := range []func(context.Context, int64) (store.Message, error){s.Archive().Get, s.Messages().Get} {
		if m, err := get(ctx, id); err == nil && m.State != store.Dead {
			return fmt.Errorf("message %d of queue %s is %s, not a dead letter", id, m.Queue, m.State)
		}
	}
	return refused
}

// replayQueue goes through the dead letters by id, so that one that dies again
// meanwhile is not replayed for ever.
func (a *app) replayQueue(ctx context.Context, s *session, queue string) error {
	filter := store.MessageFilter{Queue: queue, State: store.Dead, Page: store.Page{Limit: 1000}}
	var count int64
	for {
		page, err := s.Archive().List(ctx, filter)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return a.printCount(queue, count, "dead letters of queue %s replayed", queue)
		}
		ids := make([]int64, len(page))
		for i, m := range page {
			ids[i] = m.ID
		}
		filter.After = ids[len(ids)-1]
		results, err := s.Archive().Replay(ctx, ids...)
		if err != nil {
			return fmt.Errorf("%w (%d dead letters were replayed before)", err, count)
		}
		for i, result := range results {
			switch {
			case result == nil:
				count++
			case !errors.Is(result, store.ErrNotFound): // somebody else replayed it
				return fmt.Errorf("replay %d: %w (%d dead letters were replayed before)", ids[i], result, count)
			}
		}
	}
}

func (a *app) dlqPurge() *cobra.Command {
	var olderThan durationFlag
	cmd := &cobra.Command{
		Use:   "purge QUEUE",
		Short: "Delete the dead letters of a queue",
		Example: `  pgqrsd dlq purge emails
  pgqrsd dlq purge emails --older-than 30d`,
		Args:              args("the name of the QUEUE"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			n, err := s.Archive().Purge(ctx, args[0], olderThan.duration(), store.Dead)
			if err != nil {
				return err
			}
			return a.printCount(args[0], n, "dead letters of queue %s deleted%s", args[0], olderText(olderThan))
		}),
	}
	olderThanFlag(cmd, &olderThan, "only those that died longer ago")
	return cmd
}
