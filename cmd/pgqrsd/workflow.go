package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workflowCommand() *cobra.Command {
	return group("workflow", "Start workflow runs, look at them and steer them", "  pgqrsd workflow list order",
		a.workflowCreate(), a.workflowList(), a.workflowGet(), a.workflowCancel(), a.workflowRetry(), a.workflowFork(),
		a.workflowPause(), a.workflowResume(), a.workflowSend(), a.workflowResult(), a.workflowEvents(),
		a.workflowEvent(), a.workflowSignals())
}

func (a *app) workflowCreate() *cobra.Command {
	var run store.NewRun
	var input string
	var delay durationFlag
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Start a run of a workflow",
		Long: `Start a run of a workflow and print its id. The input is JSON: given itself, as
@FILE, or - for standard input; without it, null.

With --key starting is idempotent: the same key is the same run, whose id is
printed again. The same key with another input is an error.`,
		Example: `  pgqrsd workflow create order --input '{"item": "book"}'
  pgqrsd workflow create order --input @order.json --key order-4711`,
		Args:              args("the NAME of the workflow"),
		ValidArgsFunction: a.queueNames,
		PreRunE:           notEmpty("key", "leave it out to start a run without a key"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			var err error
			if run.Input, err = a.readJSON(s, "input", input); err != nil {
				return fmt.Errorf("start workflow %q: %w", args[0], err)
			}
			run.Workflow, run.Delay = args[0], delay.duration()
			id, created, err := s.CreateWorkflow(ctx, run)
			if err != nil {
				return err
			}
			return a.printStarted(id, created, run.Key)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&input, "input", "null", "JSON, @FILE, or - for stdin")
	flags.StringVar(&run.Key, "key", "", "start only one run of this key")
	flags.Var(&delay, "delay", "how long to wait until it begins")
	for _, name := range []string{"input", "key", "delay"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// started is how create and fork answer.
type started struct {
	ID int64 `json:"id"`
	// Created is false when a run of the key was there.
	Created bool `json:"created"`
}

func (a *app) printStarted(id int64, created bool, key string) error {
	if a.json() {
		return a.printJSON(started{id, created})
	}
	if !created {
		a.say("run %d was started with the key %q before", id, key)
	}
	_, err := fmt.Fprintln(a.out, id)
	return err
}

var runStatuses = []store.RunStatus{
	store.RunQueued, store.RunRunning, store.RunWaiting, store.RunPaused, store.RunCancelling,
	store.RunSucceeded, store.RunFailed, store.RunCancelled,
}

func (a *app) workflowList() *cobra.Command {
	var filter store.RunFilter
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the runs of a workflow, or of all",
		Example: `  pgqrsd workflow list
  pgqrsd workflow list order --status waiting -o json`,
		Args:              optional,
		ValidArgsFunction: a.queueNames,
		PreRunE: func(*cobra.Command, []string) error {
			return oneOf("--status", filter.Status, runStatuses)
		},
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if len(args) > 0 {
				filter.Workflow = args[0]
			}
			runs, err := s.Workflows().List(ctx, filter)
			if err != nil {
				return err
			}
			return a.printRuns(runs, filter.Page)
		}),
	}
	cmd.Flags().StringVar((*string)(&filter.Status), "status", "", "only those of this status")
	completeFlag(cmd, "status", completeNames(runStatuses))
	pageFlags(cmd, &filter.Page)
	return cmd
}

func (a *app) printRuns(runs []store.Run, page store.Page) error {
	if a.json() {
		return a.printJSON(view.Each(runs, view.OfRun))
	}
	rows := make([][]string, len(runs))
	for i, r := range runs {
		rows[i] = []string{
			strconv.FormatInt(r.ID, 10), r.Queue, string(r.Status), strconv.FormatInt(r.Steps, 10), since(r.EnqueuedAt), runNow(r), string(r.Payload),
		}
	}
	if len(runs) > 0 {
		defer a.more(page, len(runs), runs[len(runs)-1].ID)
	}
	return a.printTable("runs", []column{
		{head: "ID", right: true}, {head: "WORKFLOW", flex: true}, {head: "STATUS"}, {head: "STEPS", right: true},
		{head: "AGE", right: true}, {head: "NOW", flex: true}, {head: "INPUT", flex: true},
	}, rows)
}
