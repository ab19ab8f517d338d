package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/await"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workflowResult() *cobra.Command {
	var w waiting
	cmd := a.onID("run", &cobra.Command{
		Use:   "result ID",
		Short: "Print the output of a run",
		Long: `Print the output of a run that succeeded, as JSON. The exit status is 1 for one
that failed or was cancelled, with the reason on standard error, and for one
that has not ended; --wait waits for that.`,
		Example: `  pgqrsd workflow result 42
  pgqrsd workflow result 42 --wait --timeout 10m`,
	}, func(ctx context.Context, s *session, id int64) error {
		run, err := w.end(ctx, s, id)
		if err != nil {
			return err
		}
		switch run.Status {
		case store.RunSucceeded:
			return a.printJSON(view.OfResult(run).Output)
		case store.RunFailed, store.RunCancelled:
			return ended(run)
		}
		return unfinished(ctx, run, w)
	})
	w.flags(cmd, "wait until the run has ended")
	return cmd
}

// waiting is whether to wait for something, and for how long.
type waiting struct {
	on      bool
	timeout durationFlag
}

func (w *waiting) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&w.on, "wait", false, usage)
	cmd.Flags().Var(&w.timeout, "timeout", "with --wait: wait no longer; 0s is for ever")
	completeFlag(cmd, "timeout", cobra.NoFileCompletions)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("timeout") && !w.on {
			return usagef("--timeout is for --wait")
		}
		return nil
	}
}

// patience ends when there is to be no more waiting.
func (w *waiting) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case !w.on:
		return context.WithTimeout(ctx, 0)
	case w.timeout > 0:
		return context.WithTimeout(ctx, w.timeout.duration())
	}
	return context.WithCancel(ctx)
}

func (w *waiting) end(ctx context.Context, s *session, id int64) (store.Run, error) {
	patience, cancel := w.patience(ctx)
	defer cancel()
	return await.End(ctx, patience, s.Workflows(), id)
}

// ended says why a run has no output.
func ended(run store.Run) error {
	if run.Status == store.RunCancelled {
		return fmt.Errorf("run %d of workflow %s was cancelled", run.ID, run.Queue)
	}
	return fmt.Errorf("run %d of workflow %s failed: %s", run.ID, run.Queue, cmp.Or(view.Reason(run), "no error is recorded"))
}

// unfinished says why there is no result yet.
func unfinished(ctx context.Context, run store.Run, w waiting) error {
	now := why(run, nil)
	switch {
	case !w.on:
		return fmt.Errorf("run %d has not ended: it %s; --wait waits for it", run.ID, now)
	case ctx.Err() != nil:
		return fmt.Errorf("wait for run %d: %w", run.ID, ctx.Err())
	}
	return fmt.Errorf("run %d has not ended within %s: it %s", run.ID, w.timeout.String(), now)
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
