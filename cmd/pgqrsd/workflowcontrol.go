package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// steered tells what became of a run.
func (a *app) steered(run view.RunStatus, format string, args ...any) error {
	if a.json() {
		return a.printJSON(run)
	}
	a.say(format, args...)
	return nil
}

func (a *app) workflowCancel() *cobra.Command {
	var descend bool
	cmd := a.onID("run", &cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel a run",
		Long: `Cancel a run. One that is queued or waits is cancelled at once. One that runs
stops at its next step: the step that runs may finish, and is recorded. Whatever
its handler answers, it ends as cancelled. With --descend the runs that it
started as steps are cancelled too, and theirs.`,
		Example: `  pgqrsd workflow cancel 42
  pgqrsd workflow cancel 42 --descend`,
	}, func(ctx context.Context, s *session, id int64) error {
		status, err := s.Workflows().Cancel(ctx, id, descend)
		if err != nil {
			return err
		}
		now := view.RunStatus{ID: id, Status: status}
		if status == store.RunCancelling {
			return a.steered(now, "run %d is running and stops at its next step", id)
		}
		return a.steered(now, "run %d cancelled", id)
	})
	cmd.Flags().BoolVar(&descend, "descend", false, "cancel the runs that it started too")
	return cmd
}

// steer is a command that does one thing to a run and then says what became of it.
func (a *app) steer(cmd *cobra.Command, do func(store.Workflows) func(context.Context, int64) error, said func(store.Run) string) *cobra.Command {
	return a.onID("run", cmd, func(ctx context.Context, s *session, id int64) error {
		if err := do(s.Workflows())(ctx, id); err != nil {
			return err
		}
		run, err := s.Workflows().Get(ctx, id)
		if err != nil {
			return err
		}
		return a.steered(view.OfRunStatus(run), "run %d %s", id, said(run))
	})
}

func (a *app) workflowRetry() *cobra.Command {
	return a.steer(&cobra.Command{
		Use:   "retry ID",
		Short: "Carry a failed run on from its failed step",
		Long: `Carry a failed run on, under its own id; its attempts start at zero. Did it fail
because its function returned a step's failure, then that step runs again, and
with it what the function did after it, such as a step that made up for it.
Signals that these steps had received are there to be received again; a child is
started anew. All other steps are kept: those that ran beside it in other
branches, and failures that the function had come to terms with. A run that
failed otherwise, by its last attempt or because its code had changed, keeps
all.`,
		Example: "  pgqrsd workflow retry 42",
	}, func(w store.Workflows) func(context.Context, int64) error { return w.Retry },
		func(store.Run) string { return "carries on" })
}

func (a *app) workflowPause() *cobra.Command {
	return a.steer(&cobra.Command{
		Use:   "pause ID",
		Short: "Keep a run from carrying on",
		Long: `Keep a run from carrying on until it is resumed. One that runs stops at its next
step. It costs no attempt, and signals that come meanwhile are kept.`,
		Example: "  pgqrsd workflow pause 42",
	}, func(w store.Workflows) func(context.Context, int64) error { return w.Pause }, paused)
}

// paused says what became of a run that was paused. It may have gone on meanwhile.
func paused(run store.Run) string {
	switch {
	case run.Pausing:
		return "is running and pauses at its next step"
	case run.Status == store.RunPaused:
		return "paused"
	}
	return "was paused, and is " + string(run.Status) + " by now"
}

func (a *app) workflowResume() *cobra.Command {
	return a.steer(&cobra.Command{
		Use:     "resume ID",
		Short:   "Let a paused run carry on",
		Example: "  pgqrsd workflow resume 42",
	}, func(w store.Workflows) func(context.Context, int64) error { return w.Resume },
		func(store.Run) string { return "resumed" })
}

func (a *app) workflowFork() *cobra.Command {
	var from string
	cmd := a.onID("run", &cobra.Command{
		Use:   "fork ID",
		Short: "Start a new run with the first steps of another",
		Long: `Start a new run with the input of another one, whatever its state, and its
recorded steps before the one that --from names; that one, all after it and
what still waits run anew. STEP#N is the step's use N in a loop, from 0, unless
there is a step of just that name. Without --from it begins at the beginning.
Signals that a kept step has received come along with it; for others the new run
waits anew. Prints the id of the new run.`,
		Example: `  pgqrsd workflow fork 42 --from charge
  pgqrsd workflow fork 42 --from page#3`,
	}, func(ctx context.Context, s *session, id int64) error {
		key, err := findStep(ctx, s.Workflows(), id, from)
		if err != nil {
			return err
		}
		forked, err := s.Workflows().Fork(ctx, id, key)
		if err != nil {
			return err
		}
		return a.printStarted(forked, true, "")
	})
	cmd.PreRunE = notEmpty("from", "leave it out to begin at the beginning")
	cmd.Flags().StringVar(&from, "from", "", "the first step that runs anew: STEP or STEP#N")
	completeFlag(cmd, "from", cobra.NoFileCompletions)
	return cmd
}

// findStep finds the step of a run that text means. A step may be called STEP#N
// itself.
func findStep(ctx context.Context, runs store.Workflows, run int64, text string) (store.StepKey, error) {
	if strings.Contains(text, "#") {
		steps, err := runs.Steps(ctx, run)
		if err != nil {
			return store.StepKey{}, err
		}
		for _, s := range steps {
			if s.Name == text {
				return store.StepKey{Name: text}, nil
			}
		}
	}
	return parseStep(text)
}

// parseStep reads STEP or STEP#N. The names of branches hold a # too, so that
// only one that is followed by a number alone counts.
func parseStep(text string) (store.StepKey, error) {
	at := strings.LastIndexByte(text, '#')
	if at < 0 {
		return store.StepKey{Name: text}, nil
	}
	n, err := strconv.Atoi(text[at+1:])
	if err != nil && strings.Contains(text[at:], "/") {
		return store.StepKey{Name: text}, nil
	}
	if err != nil || n < 0 || at == 0 {
		return store.StepKey{}, usagef("--from must be STEP or STEP#N with a whole number from 0, not %q", text)
	}
	return store.StepKey{Name: text[:at], Occurrence: n}, nil
}

func (a *app) workflowSend() *cobra.Command {
	var payload, key string
	cmd := &cobra.Command{
		Use:   "send ID TOPIC",
		Short: "Send a signal to a run",
		Long: `Send a signal to a run, which receives it under its TOPIC: now if it waits for
it, else when it comes to wait for it. The payload is JSON: given itself, as
@FILE, or - for standard input; without it, null.

With --key sending is idempotent: of signals with one key, the first is kept.`,
		Example: `  pgqrsd workflow send 42 approved --payload true
  pgqrsd workflow send 42 approved --payload @answer.json --key answer-7`,
		Args:              idAnd("run", "the TOPIC of the signal"),
		PreRunE:           notEmpty("key", "leave it out to send without a key"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			id, err := parseID("run", args[0])
			if err != nil {
				return err
			}
			raw, err := a.readJSON(s, "payload", payload)
			if err != nil {
				return fmt.Errorf("send signal %q to run %d: %w", args[1], id, err)
			}
			signal, created, err := s.Workflows().Send(ctx, store.NewSignal{Run: id, Topic: args[1], Payload: raw, Key: key})
			if err != nil {
				return err
			}
			return a.printSent(signal, created, key)
		}),
	}
	cmd.Flags().StringVar(&payload, "payload", "null", "JSON, @FILE, or - for stdin")
	cmd.Flags().StringVar(&key, "key", "", "send only one signal of this key")
	completeFlag(cmd, "payload", cobra.NoFileCompletions)
	completeFlag(cmd, "key", cobra.NoFileCompletions)
	return cmd
}

func (a *app) printSent(signal int64, created bool, key string) error {
	if a.json() {
		return a.printJSON(started{signal, created})
	}
	if !created {
		a.say("signal %d was sent with the key %q before", signal, key)
		return nil
	}
	a.say("signal %d sent", signal)
	return nil
}

// idAnd wants an id and one more argument.
func idAnd(what, more string) cobra.PositionalArgs {
	both := args("the ID of the "+what, more)
	return func(cmd *cobra.Command, got []string) error {
		if err := both(cmd, got); err != nil {
			return err
		}
		_, err := parseID(what, got[0])
		return err
	}
}
