package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/await"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workflowResult() *cobra.Command {
	var wait bool
	var timeout durationFlag
	cmd := a.onID("run", &cobra.Command{
		Use:   "result ID",
		Short: "Print the output of a run",
		Long: `Print the output of a run that succeeded, as JSON. The exit status is 1 for one
that failed or was cancelled, with the reason on standard error, and for one
that has not ended; --wait waits for that.`,
		Example: `  pgqrsd workflow result 42
  pgqrsd workflow result 42 --wait --timeout 10m`,
	}, func(ctx context.Context, s *session, id int64) error {
		run, err := a.awaitRun(ctx, s, id, wait, timeout)
		if err != nil {
			return err
		}
		switch run.Status {
		case store.RunSucceeded:
			return a.printJSON(view.OfResult(run).Output)
		case store.RunFailed, store.RunCancelled:
			return ended(run)
		}
		return unfinished(ctx, run, wait, timeout)
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the run has ended")
	cmd.Flags().Var(&timeout, "timeout", "with --wait: wait no longer; 0s is for ever")
	completeFlag(cmd, "timeout", cobra.NoFileCompletions)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("timeout") && !wait {
			return usagef("--timeout is for --wait")
		}
		return nil
	}
	return cmd
}

func (a *app) awaitRun(ctx context.Context, s *session, id int64, wait bool, timeout durationFlag) (store.Run, error) {
	if !wait {
		return s.Workflows().Get(ctx, id)
	}
	patience := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, timeout.duration())
		defer cancel()
	}
	return await.End(ctx, patience, s.Workflows(), id)
}

// ended says why a run has no output.
func ended(run store.Run) error {
	reason := view.LastError(run)
	if reason == "" {
		return fmt.Errorf("run %d of workflow %s was %s", run.ID, run.Queue, run.Status)
	}
	if run.Status == store.RunCancelled {
		return fmt.Errorf("run %d of workflow %s was cancelled: %s", run.ID, run.Queue, reason)
	}
	return fmt.Errorf("run %d of workflow %s failed: %s", run.ID, run.Queue, reason)
}

// unfinished says why there is no result yet.
func unfinished(ctx context.Context, run store.Run, wait bool, timeout durationFlag) error {
	now := why(run, nil)
	switch {
	case !wait:
		return fmt.Errorf("run %d has not ended: it %s; --wait waits for it", run.ID, now)
	case ctx.Err() != nil:
		return fmt.Errorf("wait for run %d: %w", run.ID, ctx.Err())
	}
	return fmt.Errorf("run %d has not ended within %s: it %s", run.ID, timeout.String(), now)
}

func (a *app) workflowEvents() *cobra.Command {
	return a.onID("run", &cobra.Command{
		Use:   "events ID",
		Short: "List the events that a run has set",
		Example: `  pgqrsd workflow events 42
  pgqrsd workflow events 42 -o json`,
	}, func(ctx context.Context, s *session, id int64) error {
		events, err := s.Workflows().Events(ctx, id)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(view.Each(events, view.OfEvent))
		}
		rows := make([][]string, len(events))
		for i, e := range events {
			rows[i] = []string{e.Name, since(e.SetAt), string(e.Value)}
		}
		return a.printTable("events", []column{{head: "NAME", flex: true}, {head: "AGE", right: true}, {head: "VALUE", flex: true}}, rows)
	})
}

func (a *app) workflowSignals() *cobra.Command {
	return a.onID("run", &cobra.Command{
		Use:   "signals ID",
		Short: "List the signals that were sent to a run",
		Example: `  pgqrsd workflow signals 42
  pgqrsd workflow signals 42 -o json`,
	}, func(ctx context.Context, s *session, id int64) error {
		signals, err := s.Workflows().Signals(ctx, id)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(view.Each(signals, view.OfSignal))
		}
		rows := make([][]string, len(signals))
		for i, sig := range signals {
			taken := "no"
			if sig.Taken {
				taken = "yes"
			}
			rows[i] = []string{strconv.FormatInt(sig.ID, 10), sig.Topic, taken, since(sig.SentAt), sig.Key, string(sig.Payload)}
		}
		return a.printTable("signals", []column{
			{head: "ID", right: true}, {head: "TOPIC", flex: true}, {head: "TAKEN"}, {head: "AGE", right: true},
			{head: "KEY", flex: true}, {head: "PAYLOAD", flex: true},
		}, rows)
	})
}
