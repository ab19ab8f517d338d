package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workflowCancel() *cobra.Command {
	var descend bool
	cmd := a.steer(&cobra.Command{
		Use:   "cancel ID...",
		Short: "Cancel runs",
		Long: `Cancel runs: those that are named, or with --all every one of a workflow that
has not ended. One that is queued or waits is cancelled at once. One that runs
stops at its next step: the step that runs may finish, and is recorded. Whatever
its handler answers, it ends as cancelled. With --descend the runs that it
started as steps are cancelled too, and theirs.`,
		Example: `  pgqrsd workflow cancel 42
  pgqrsd workflow cancel 42 43 --descend
  pgqrsd workflow cancel --all order`,
	}, steering{
		do: func(ctx context.Context, runs store.Workflows, id int64) (store.RunStatus, error) {
			return runs.Cancel(ctx, id, descend)
		},
		said: func(run store.Run) string {
			if run.Status == store.RunCancelling {
				return "is running and stops at its next step"
			}
			return "cancelled"
		},
		all: "runs", done: "cancelled", note: stopLater, filter: store.RunFilter{Open: true},
		// One that is being cancelled may have started others.
		wants: func(run store.Run) bool {
			return !run.Status.Terminal() && (descend || run.Status != store.RunCancelling)
		},
	})
	cmd.Flags().BoolVar(&descend, "descend", false, "cancel the runs that they started too")
	return cmd
}

// stopLater is the note of what runs that a worker has do not heed at once.
const stopLater = "; those that run stop at their next step"

func (a *app) workflowRetry() *cobra.Command {
	return a.steer(&cobra.Command{
		Use:   "retry ID...",
		Short: "Carry failed runs on from their failed steps",
		Long: `Carry failed runs on: those that are named, or with --all every one of a
workflow. Each keeps its id; its attempts start at zero. Did it fail because its
function returned a step's failure, then that step runs again, and with it what
the function did after it, such as a step that made up for it. Signals that
these steps had received are there to be received again; a child is started
anew. All other steps are kept: those that ran beside it in other branches, and
failures that the function had come to terms with. A run that failed otherwise,
by its last attempt or because its code had changed, keeps all.

With --all each run is tried once, also if it fails again meanwhile. Those that
another transaction keeps locked are named, and the others are retried.`,
		Example: `  pgqrsd workflow retry 42
  pgqrsd workflow retry 42 43
  pgqrsd workflow retry --all order`,
	}, steering{
		do:   noStatus(store.Workflows.Retry),
		said: func(store.Run) string { return "carries on" },
		all:  "failed runs", done: "retried", filter: store.RunFilter{Status: store.RunFailed},
		wants: func(run store.Run) bool { return run.Status == store.RunFailed },
	})
}

func (a *app) workflowPause() *cobra.Command {
	return a.steer(&cobra.Command{
		Use:   "pause ID...",
		Short: "Keep runs from carrying on",
		Long: `Keep runs from carrying on until they are resumed: those that are named, or with
--all every one of a workflow that has not ended and is not being cancelled. One
that runs stops at its next step. It costs no attempt, and signals that come
meanwhile are kept.`,
		Example: `  pgqrsd workflow pause 42 43
  pgqrsd workflow pause --all order`,
	}, steering{
		do: noStatus(store.Workflows.Pause), said: paused,
		all: "runs", done: "paused", note: stopLater, filter: store.RunFilter{Open: true},
		wants: func(run store.Run) bool {
			return !run.Status.Terminal() && run.Status != store.RunCancelling && !isPaused(run)
		},
	})
}

// isPaused says that a run was paused, also if it has not come to its next step yet.
func isPaused(run store.Run) bool { return run.Status == store.RunPaused || run.Pausing }

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
		Use:   "resume ID...",
		Short: "Let paused runs carry on",
		Long: `Let paused runs carry on: those that are named, or with --all every one of a
workflow, those too that have not come to the step yet at which they would stop.`,
		Example: `  pgqrsd workflow resume 42 43
  pgqrsd workflow resume --all order`,
	}, steering{
		do:   noStatus(store.Workflows.Resume),
		said: func(store.Run) string { return "resumed" },
		all:  "paused runs", done: "resumed", filter: store.RunFilter{Open: true}, wants: isPaused,
	})
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
