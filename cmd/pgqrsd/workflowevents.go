package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/await"
	"github.com/pgqrs/pgqrsd/internal/view"
)

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

func (a *app) workflowEvent() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "event ID NAME",
		Short: "Print an event that a run has set",
		Long: `Print the value of an event that a run has set, as JSON. The exit status is 1 if
the run has not set it; --wait waits until it has, or has ended.`,
		Example: `  pgqrsd workflow event 42 charged
  pgqrsd workflow event 42 charged --wait --timeout 30s`,
		Args:              idAnd("run", "the NAME of the event"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			id, err := parseID("run", args[0])
			if err != nil {
				return err
			}
			patience, cancel := w.patience(ctx)
			defer cancel()
			event, found, err := await.Event(ctx, patience, s.Workflows(), id, args[1])
			if err != nil {
				return err
			}
			if !found {
				return a.noEvent(ctx, s, id, args[1], w)
			}
			return a.printJSON(event.Value)
		}),
	}
	w.flags(cmd, "wait until the run has set it")
	return cmd
}

// noEvent says why there is none.
func (a *app) noEvent(ctx context.Context, s *session, id int64, name string, w waiting) error {
	run, err := s.Workflows().Get(ctx, id)
	if err != nil {
		return err
	}
	if run.Status.Terminal() {
		return fmt.Errorf("run %d of workflow %s %s without setting event %s", id, run.Queue, run.Status, name)
	}
	return fmt.Errorf("run %d of workflow %s has not set event %s: %w", id, run.Queue, name, unfinished(ctx, run, w))
}
