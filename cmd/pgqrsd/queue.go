package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "Create, look at and empty queues", "  pgqrsd queue list",
		a.queueCreate(), a.queueList(), a.queueGet(), a.queueDelete(), a.queuePurge(), a.queueMetrics())
}

func (a *app) queueCreate() *cobra.Command {
	var attempts int
	kind := store.JobQueue
	retention := durationFlag(store.DefaultRetention)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a queue",
		Long: `Create a queue. Queues that the daemon's configuration names or that a handler
serves are created by the daemon, which also sets these values from its
configuration.`,
		Example: `  pgqrsd queue create emails
  pgqrsd queue create reports --max-attempts 3 --retention 30d
  pgqrsd queue create order --kind workflow`,
		Args:              args("the NAME of the queue"),
		ValidArgsFunction: cobra.NoFileCompletions,
		PreRunE: func(*cobra.Command, []string) error {
			return oneOf("--kind", kind, queueKinds)
		},
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if attempts < 1 {
				return usagef("--max-attempts must be at least 1")
			}
			policy := store.QueuePolicy{Kind: kind, MaxAttempts: attempts, Retention: forEver(retention.duration())}
			q, err := s.Queues().Insert(ctx, args[0], policy)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(view.OfQueue(q))
			}
			a.say("queue %s created", q.Name)
			return nil
		}),
	}
	cmd.Flags().IntVar(&attempts, "max-attempts", store.DefaultMaxAttempts, "failed attempts that make a dead letter")
	cmd.Flags().Var(&retention, "retention", "time in the archive; 0s is for ever")
	cmd.Flags().StringVar((*string)(&kind), "kind", string(kind), "of messages: job or workflow")
	completeFlag(cmd, "kind", completeNames(queueKinds))
	completeFlag(cmd, "max-attempts", cobra.NoFileCompletions)
	completeFlag(cmd, "retention", cobra.NoFileCompletions)
	return cmd
}

var queueKinds = []store.QueueKind{store.JobQueue, store.WorkflowQueue}

// forEver turns the command line's 0, which is for ever, into the store's.
func forEver(retention time.Duration) time.Duration {
	if retention == 0 {
		return -time.Second
	}
	return retention
}

func (a *app) queueList() *cobra.Command {
	var page store.Page
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the queues",
		Example: `  pgqrsd queue list
  pgqrsd queue list --limit 10 -o json`,
		Args: args(),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			queues, err := s.Queues().List(ctx, page)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(view.Each(queues, view.OfQueue))
			}
			rows := make([][]string, len(queues))
			for i, q := range queues {
				rows[i] = []string{
					strconv.FormatInt(q.ID, 10), q.Name, string(q.Kind), strconv.Itoa(q.MaxAttempts), retentionText(q.Retention), since(q.CreatedAt),
				}
			}
			if len(queues) > 0 {
				defer a.more(page, len(queues), queues[len(queues)-1].ID)
			}
			return a.printTable("queues", []column{
				{head: "ID", right: true}, {head: "NAME", flex: true}, {head: "KIND"}, {head: "MAX ATTEMPTS", right: true},
				{head: "RETENTION", right: true}, {head: "AGE", right: true},
			}, rows)
		}),
	}
	pageFlags(cmd, &page)
	return cmd
}

func retentionText(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return config.FormatDuration(d)
}

func (a *app) queueGet() *cobra.Command {
	return &cobra.Command{
		Use:               "get NAME",
		Short:             "Show one queue",
		Example:           "  pgqrsd queue get emails",
		Args:              args("the NAME of the queue"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			q, err := s.Queues().Get(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(view.OfQueue(q))
			}
			return a.printFields([][2]string{
				{"id", strconv.FormatInt(q.ID, 10)}, {"name", q.Name}, {"kind", string(q.Kind)},
				{"max attempts", strconv.Itoa(q.MaxAttempts)}, {"retention", retentionText(q.Retention)}, {"created", moment(q.CreatedAt)},
			})
		}),
	}
}

func (a *app) queueDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a queue",
		Long: `Delete an empty queue. With --force its messages and its archive go too; a queue
with leased messages stays even then.`,
		Example: `  pgqrsd queue delete emails
  pgqrsd queue delete emails --force`,
		Args:              args("the NAME of the queue"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if err := s.Queues().Delete(ctx, args[0], force); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(deletedQueue{args[0], true})
			}
			a.say("queue %s deleted", args[0])
			return nil
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete its messages and its archive too")
	return cmd
}

type deletedQueue struct {
	Queue   string `json:"queue"`
	Deleted bool   `json:"deleted"`
}

func (a *app) queuePurge() *cobra.Command {
	return &cobra.Command{
		Use:   "purge NAME",
		Short: "Delete the ready and delayed messages of a queue",
		Long: `Delete the ready and delayed messages of a queue. Leased messages are left to
their workers; the archive stays.`,
		Example:           "  pgqrsd queue purge emails",
		Args:              args("the NAME of the queue"),
		ValidArgsFunction: a.queueNames,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			n, err := s.Queues().Purge(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printCount(args[0], n, "waiting messages deleted from queue %s", args[0])
		}),
	}
}

// queueCount is how commands that count on a queue answer.
type queueCount struct {
	Queue string `json:"queue"`
	Count int64  `json:"count"`
}

// printCount prints a count, and on standard error what was counted.
func (a *app) printCount(queue string, n int64, format string, args ...any) error {
	if a.json() {
		return a.printJSON(queueCount{queue, n})
	}
	a.say("%d "+format, append([]any{n}, args...)...)
	return nil
}

func (a *app) queueMetrics() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics [NAME]",
		Short: "Count the messages of a queue, or of all, by state",
		Example: `  pgqrsd queue metrics
  pgqrsd queue metrics emails -o json`,
		Args:              optional,
		ValidArgsFunction: a.queueNames,
		RunE: a.withAdmin(func(ctx context.Context, _ *session, admin store.Admin, args []string) error {
			metrics, err := admin.QueueMetrics(ctx, args...)
			if err != nil {
				return err
			}
			if a.json() && len(args) == 1 && len(metrics) == 1 {
				return a.printJSON(view.OfQueueMetrics(metrics[0]))
			}
			if a.json() {
				return a.printJSON(view.Each(metrics, view.OfQueueMetrics))
			}
			rows := make([][]string, len(metrics))
			for i, m := range metrics {
				rows[i] = append([]string{m.Queue}, numbers(m.Ready, m.Delayed, m.Leased, m.Done, m.Dead, m.Cancelled)...)
				rows[i] = append(rows[i], oldest(m))
			}
			return a.printTable("queues", []column{
				{head: "QUEUE", flex: true}, {head: "READY", right: true}, {head: "DELAYED", right: true}, {head: "LEASED", right: true},
				{head: "DONE", right: true}, {head: "DEAD", right: true}, {head: "CANCELLED", right: true}, {head: "OLDEST", right: true},
			}, rows)
		}),
	}
}

func oldest(m store.QueueMetrics) string {
	if m.Ready == 0 {
		return ""
	}
	return age(m.OldestReady)
}

func numbers(ns ...int64) []string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = strconv.FormatInt(n, 10)
	}
	return out
}
