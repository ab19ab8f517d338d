package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) workflowGet() *cobra.Command {
	return a.onID("run", &cobra.Command{
		Use:   "get ID",
		Short: "Show a run, why it waits, and its timeline",
		Long: `Show a run and its timeline: every recorded step in the order of recording, with
its kind, state, tries, start, duration, and its output or error. The times of
the timeline are UTC. -o json has everything whole.`,
		Example: `  pgqrsd workflow get 42
  pgqrsd workflow get 42 -o json`,
	}, func(ctx context.Context, s *session, id int64) error {
		run, err := s.Workflows().Get(ctx, id)
		if err != nil {
			return err
		}
		steps, err := s.Workflows().Steps(ctx, id)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(view.OfRunDetail(run, steps))
		}
		if err := a.printFields(runFields(run, steps)); err != nil {
			return err
		}
		return a.printTimeline(steps)
	})
}

func runFields(r store.Run, steps []store.StepRecord) [][2]string {
	fields := [][2]string{
		{"id", strconv.FormatInt(r.ID, 10)},
		{"workflow", r.Queue},
		{"status", string(r.Status)},
		{"now", why(r, steps)},
		{"key", r.Key},
		{"version", r.Version},
		{"parent", positive(r.Parent)},
		{"failed attempts", strconv.Itoa(r.Attempts)},
		{"enqueued", moment(r.EnqueuedAt)},
		{"begun", moment(r.BegunAt)},
		{"worker", positive(r.Worker)},
		{"lease ends", moment(r.LeaseExpiresAt)},
		{"progress", progressText(r.Progress)},
		{"finished", moment(r.FinishedAt)},
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		fields = append(fields, [2]string{"header " + name, r.Headers[name]})
	}
	fields = append(fields, [2]string{"input", string(r.Payload)}, [2]string{"output", string(r.Output)})
	for _, e := range r.Errors {
		fields = append(fields, [2]string{fmt.Sprintf("error %d", e.Attempt), moment(e.At) + ": " + e.Error})
	}
	return fields
}

// printTimeline prints the steps as a table below the run's fields.
func (a *app) printTimeline(steps []store.StepRecord) error {
	if len(steps) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(a.out); err != nil {
		return err
	}
	now := time.Now()
	rows := make([][]string, len(steps))
	for i, s := range steps {
		rows[i] = []string{
			stepName(s.StepKey), string(s.Kind), string(s.State), tries(s), timeOfDay(s.StartedAt, now), took(s), sizeText(len(s.Output)), stepText(s),
		}
	}
	return a.printTable("steps", []column{
		{head: "STEP", flex: true}, {head: "KIND"}, {head: "STATE"}, {head: "TRIES", right: true}, {head: "STARTED"},
		{head: "TOOK", right: true}, {head: "SIZE", right: true}, {head: "OUTPUT", flex: true},
	}, rows)
}

// tries of a step; only the code of a body is tried.
func tries(s store.StepRecord) string {
	if s.Kind != store.StepBody {
		return ""
	}
	return strconv.Itoa(s.Tries)
}

func took(s store.StepRecord) string {
	if s.FinishedAt.IsZero() || s.StartedAt.IsZero() {
		return ""
	}
	return age(max(0, s.FinishedAt.Sub(s.StartedAt)))
}

// stepText is a step's output or error, or what it waits for.
func stepText(s store.StepRecord) string {
	switch {
	case s.Error != "":
		return s.Error
	case s.State == store.StepWaiting && s.Child > 0:
		return fmt.Sprintf("run %d", s.Child)
	case s.State == store.StepWaiting && limited(s.DueAt):
		return "due in " + until(s.DueAt)
	}
	return string(s.Output)
}
