package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workerCommand() *cobra.Command {
	return group("worker", "Look at workers and manage them", "  pgqrsd worker list",
		a.workerList(), a.workerGet(), a.workerMessages(),
		a.workerSuspend(), a.workerResume(), a.workerShutdown(), a.workerHeartbeat(),
		a.workerRelease(), a.workerReclaim(), a.workerStats(), a.workerHealth(), a.workerPurge(), a.workerDelete())
}

func (a *app) workerList() *cobra.Command {
	var filter store.WorkerFilter
	cmd := &cobra.Command{
		Use:   "list [QUEUE]",
		Short: "List the workers, or the consumers of one queue",
		Example: `  pgqrsd worker list
  pgqrsd worker list emails --state ready -o json`,
		Args:              optional,
		ValidArgsFunction: a.queueNames,
		PreRunE: func(*cobra.Command, []string) error {
			if err := oneOf("--kind", filter.Kind, workerKinds); err != nil {
				return err
			}
			return oneOf("--state", filter.State, workerStates)
		},
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if len(args) > 0 {
				filter.Queue = args[0]
				if _, err := s.Queues().Get(ctx, filter.Queue); err != nil {
					return err
				}
			}
			workers, err := s.Workers().List(ctx, filter)
			if err != nil {
				return err
			}
			return a.printWorkers(workers, filter.Page)
		}),
	}
	cmd.Flags().StringVar((*string)(&filter.Kind), "kind", "", "only admin, producer or consumer")
	cmd.Flags().StringVar((*string)(&filter.State), "state", "", "only ready, suspended or stopped")
	completeFlag(cmd, "kind", completeNames(workerKinds))
	completeFlag(cmd, "state", completeNames(workerStates))
	pageFlags(cmd, &filter.Page)
	return cmd
}

var (
	workerKinds  = []store.WorkerKind{store.KindAdmin, store.KindProducer, store.KindConsumer}
	workerStates = []store.WorkerState{store.WorkerReady, store.WorkerSuspended, store.WorkerStopped}
)

func (a *app) printWorkers(workers []store.WorkerRecord, page store.Page) error {
	if a.json() {
		return a.printJSON(view.Each(workers, view.OfWorker))
	}
	rows := make([][]string, len(workers))
	for i, w := range workers {
		rows[i] = []string{
			strconv.FormatInt(w.ID, 10), w.Name, string(w.Kind), w.Queue, string(w.State),
			strconv.FormatInt(w.Leased, 10), age(w.HeartbeatAge), since(w.StartedAt),
		}
	}
	if len(workers) > 0 {
		defer a.more(page, len(workers), workers[len(workers)-1].ID)
	}
	return a.printTable("workers", []column{
		{head: "ID", right: true}, {head: "NAME", flex: true}, {head: "KIND"}, {head: "QUEUE", flex: true}, {head: "STATE"},
		{head: "LEASED", right: true}, {head: "HEARTBEAT", right: true}, {head: "AGE", right: true},
	}, rows)
}

func (a *app) workerGet() *cobra.Command {
	return a.onID("worker", &cobra.Command{
		Use:     "get ID",
		Short:   "Show one worker",
		Example: "  pgqrsd worker get 7",
	}, func(ctx context.Context, s *session, id int64) error {
		w, err := s.Workers().Get(ctx, id)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(view.OfWorker(w))
		}
		return a.printFields([][2]string{
			{"id", strconv.FormatInt(w.ID, 10)}, {"name", w.Name}, {"kind", string(w.Kind)}, {"queue", w.Queue},
			{"state", string(w.State)}, {"leased", strconv.FormatInt(w.Leased, 10)}, {"started", moment(w.StartedAt)},
			{"heartbeat", moment(w.HeartbeatAt)}, {"slot", w.Slot}, {"info", string(w.Info)},
		})
	})
}

// transition is a command that moves a worker to another state.
func (a *app) transition(cmd *cobra.Command, to store.WorkerState) *cobra.Command {
	return a.onID("worker", cmd, func(ctx context.Context, s *session, id int64) error {
		if err := s.Workers().Transition(ctx, id, to); err != nil {
			return err
		}
		return a.printWorker(ctx, s, id, fmt.Sprintf("is %s", to))
	})
}

// printWorker says what became of a worker: the object for programs, a line on
// standard error for people.
func (a *app) printWorker(ctx context.Context, s *session, id int64, what string) error {
	if !a.json() {
		a.say("worker %d %s", id, what)
		return nil
	}
	w, err := s.Workers().Get(ctx, id)
	if err != nil {
		return err
	}
	return a.printJSON(view.OfWorker(w))
}

func (a *app) workerSuspend() *cobra.Command {
	return a.transition(&cobra.Command{
		Use:   "suspend ID",
		Short: "Stop a worker from taking on new work",
		Long: `Stop a worker from taking on new work. A consumer leases no more messages, and
finishes those that it holds; a daemon's producer refuses to enqueue over HTTP.
The daemon runs on.`,
		Example: "  pgqrsd worker suspend 7",
	}, store.WorkerSuspended)
}

func (a *app) workerResume() *cobra.Command {
	return a.transition(&cobra.Command{
		Use:     "resume ID",
		Short:   "Let a suspended worker work again",
		Example: "  pgqrsd worker resume 7",
	}, store.WorkerReady)
}

func (a *app) workerShutdown() *cobra.Command {
	return a.transition(&cobra.Command{
		Use:   "shutdown ID",
		Short: "Stop a suspended worker for good",
		Long: `Stop a suspended worker for good. A consumer must have settled what it holds;
see ` + "`pgqrsd worker messages`" + ` and ` + "`pgqrsd worker release`" + `.`,
		Example: `  pgqrsd worker suspend 7
  pgqrsd worker shutdown 7`,
	}, store.WorkerStopped)
}

func (a *app) workerHeartbeat() *cobra.Command {
	return a.onID("worker", &cobra.Command{
		Use:   "heartbeat ID",
		Short: "Say on a worker's behalf that it lives",
		Long: `Say on a worker's behalf that it lives, which keeps its messages from being
given to others for another while.`,
		Example: "  pgqrsd worker heartbeat 7",
	}, func(ctx context.Context, s *session, id int64) error {
		states, err := s.Workers().Heartbeat(ctx, id)
		if err != nil {
			return err
		}
		state, found := states[id]
		switch {
		case !found:
			return fmt.Errorf("heartbeat of worker %d: %w", id, store.ErrNotFound)
		case state == store.WorkerStopped:
			return fmt.Errorf("heartbeat of worker %d: it is stopped, and a stopped worker stays stopped", id)
		}
		return a.printWorker(ctx, s, id, fmt.Sprintf("is %s; its heartbeat was recorded", state))
	})
}

func (a *app) workerDelete() *cobra.Command {
	return a.onID("worker", &cobra.Command{
		Use:     "delete ID",
		Short:   "Remove a stopped worker's row",
		Example: "  pgqrsd worker delete 7",
	}, func(ctx context.Context, s *session, id int64) error {
		if err := s.Workers().Delete(ctx, id); err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(deletedID{id, true})
		}
		a.say("worker %d deleted", id)
		return nil
	})
}
