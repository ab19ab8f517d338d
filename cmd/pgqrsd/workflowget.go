package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
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
the timeline are UTC. Of the errors of the run's attempts the newest are shown,
by their first lines. -o json has everything whole.`,
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
		return a.printTimeline(run, steps)
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
	return append(fields, errorFields(r.Errors)...)
}

// shownErrors is how many of a run's errors are shown.
const shownErrors = 5

// errorFields are the newest errors by their first lines, the newest last. They
// are counted through, for a retry lets the numbers of the attempts begin again.
func errorFields(errors []store.AttemptError) [][2]string {
	var fields [][2]string
	cutShort := len(errors) > shownErrors
	first := max(0, len(errors)-shownErrors)
	for i, e := range errors[first:] {
		line, more, _ := strings.Cut(strings.TrimSpace(e.Error), "\n")
		if more != "" {
			line += " …"
			cutShort = true
		}
		fields = append(fields, [2]string{fmt.Sprintf("error %d", first+i+1), moment(e.At) + ": " + line})
	}
	if cutShort {
		fields = append(fields, [2]string{"all errors", fmt.Sprintf("-o json shows all %d, whole", len(errors))})
	}
	return fields
}

// printTimeline prints a run's steps as a table below its fields.
func (a *app) printTimeline(run store.Run, steps []store.StepRecord) error {
	if len(steps) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(a.out); err != nil {
		return err
	}
	now := time.Now()
	rows := make([][]string, len(steps))
	for i, s := range steps {
		s.State = view.StateOf(s, run)
		rows[i] = []string{
			s.Text(), string(s.Kind), string(s.State), tries(s), timeOfDay(s.StartedAt, now), took(s), sizeText(len(s.Output)), stepText(s),
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
