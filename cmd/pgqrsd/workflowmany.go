package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// steering is what a command does to runs: to those that are named, or with
// --all to every one of a workflow that it is for.
type steering struct {
	// do does it to one run. It returns the run's status then, or none where the
	// store does not say it.
	do func(ctx context.Context, runs store.Workflows, id int64) (store.RunStatus, error)
	// said tells a person what became of a run.
	said func(store.Run) string

	// all is what the runs of a workflow are called that it is for, done what
	// became of them, and note what is to be said of that.
	all, done, note string
	// filter and wants choose them.
	filter store.RunFilter
	wants  func(store.Run) bool
}

// noStatus is steering.do of what the store does not answer with a status.
func noStatus(do func(store.Workflows, context.Context, int64) error) func(context.Context, store.Workflows, int64) (store.RunStatus, error) {
	return func(ctx context.Context, runs store.Workflows, id int64) (store.RunStatus, error) {
		return "", do(runs, ctx, id)
	}
}

// steer makes cmd steer runs.
func (a *app) steer(cmd *cobra.Command, st steering) *cobra.Command {
	var workflow string
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if (len(args) > 0) == cmd.Flags().Changed("all") {
			return usagef("%s needs either the IDs of runs, or --all and the name of a workflow", cmd.CommandPath())
		}
		_, err := runIDs(args)
		return err
	}
	cmd.PreRunE = notEmpty("all", "name the workflow whose runs are meant")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = a.with(func(ctx context.Context, s *session, args []string) error {
		if workflow != "" {
			return a.steerAll(ctx, s.Workflows(), workflow, st)
		}
		return a.steerIDs(ctx, s.Workflows(), args, st)
	})
	cmd.Flags().Var((*onceFlag)(&workflow), "all", "the "+st.all+" of this workflow, instead of IDs")
	a.completeQueue(cmd, "all")
	return cmd
}

func runIDs(args []string) ([]int64, error) {
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = parseID("run", arg); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// steerIDs tells what became of each run and returns the errors of the others.
// In JSON one run is one object.
func (a *app) steerIDs(ctx context.Context, runs store.Workflows, args []string, st steering) error {
	ids, err := runIDs(args)
	if err != nil {
		return err
	}
	steered := []view.RunStatus{}
	var failed []error
	for i, id := range ids {
		run, err := st.one(ctx, runs, id)
		if err == nil {
			steered = append(steered, view.OfRunStatus(run))
			if !a.json() {
				a.say("run %d %s", id, st.said(run))
			}
			continue
		}
		if ofRun(err) {
			failed = append(failed, err)
			continue
		}
		if rest := len(ids) - i - 1; rest > 0 {
			err = fmt.Errorf("%w (%d more runs were not tried)", err, rest)
		}
		failed = []error{textOf(failed), err}
		break
	}
	switch {
	case !a.json():
	case len(ids) > 1:
		failed = append(failed, a.printJSON(steered))
	case len(steered) == 1:
		failed = append(failed, a.printJSON(steered[0]))
	}
	return errors.Join(failed...)
}

// one steers one run and returns it as it is then.
func (st steering) one(ctx context.Context, runs store.Workflows, id int64) (store.Run, error) {
	status, err := st.do(ctx, runs, id)
	if err != nil || status != "" {
		return store.Run{Message: store.Message{ID: id}, Status: status}, err
	}
	return runs.Get(ctx, id)
}

// steerPage is how many runs of a workflow are looked for at a time. Each page
// of what waits costs the databases a look at all of it.
const steerPage = 1000

// steerAll goes through a workflow's runs by id, so that one that fails or is
// paused again meanwhile is not steered for ever. A run that cannot be steered
// does not keep it from the others.
func (a *app) steerAll(ctx context.Context, runs store.Workflows, workflow string, st steering) error {
	filter := st.filter
	filter.Workflow, filter.Limit = workflow, steerPage
	left := leftOut{what: fmt.Sprintf("%s of workflow %s were not %s", st.all, workflow, st.done)}
	var count int64
	shown := newProgress(a.err)
	shown.shown = time.Now() // what is soon done needs none
	defer shown.clear()
	stopped := func(err error) error {
		return errors.Join(textOf([]error{left.err()}),
			fmt.Errorf("%w (%d %s of workflow %s were %s before)", err, count, st.all, workflow, st.done))
	}
	for {
		page, err := runs.List(ctx, filter)
		switch {
		case err != nil && filter.After == 0 && ofRun(err): // no such workflow
			return err
		case err != nil:
			return stopped(err)
		}
		for _, run := range page {
			shown.show(fmt.Sprintf("%s of workflow %s: %d are %s, at run %d", st.all, workflow, count, st.done, run.ID))
			if !st.wants(run) {
				continue
			}
			_, err := st.do(ctx, runs, run.ID)
			switch {
			case err == nil:
				count++
			case !ofRun(err):
				return stopped(err)
			case !st.moved(ctx, runs, run.ID, err):
				left.add(err)
				// The same transaction may keep many: the time for it to end was given.
				if errors.Is(err, store.ErrLocked) && !store.IsOneTry(ctx) {
					ctx = store.OneTry(ctx)
				}
			}
		}
		if len(page) < filter.Limit {
			break
		}
		filter.After = page[len(page)-1].ID
	}
	shown.clear()
	err := a.printCount(workflow, count, "%s of workflow %s %s%s", st.all, workflow, st.done, st.note)
	return errors.Join(left.err(), err)
}

// moved says that a run could not be steered because it is no longer one that
// the command is for: it has ended, or somebody else has steered or removed it.
func (st steering) moved(ctx context.Context, runs store.Workflows, id int64, refused error) bool {
	if errors.Is(refused, store.ErrLocked) {
		return false
	}
	run, err := runs.Get(ctx, id)
	return errors.Is(err, store.ErrNotFound) || err == nil && !st.wants(run)
}

// ofRun says that an error is about what was named, not about the database or
// the command's end, so that others may fare better.
func ofRun(err error) bool {
	return slices.ContainsFunc([]error{
		store.ErrLocked, store.ErrInvalid, store.ErrTerminal, store.ErrNotFound, store.ErrExists,
	}, func(kind error) bool { return errors.Is(err, kind) })
}

// textOf keeps what errors say, not what they are: what became of a run before is
// not why the command has ended, which decides the exit status.
func textOf(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

// leftOut are runs that could not be steered. The first few are named.
type leftOut struct {
	what  string
	first []error
	count int64
}

const leftOutNamed = 5

func (l *leftOut) add(err error) {
	if l.count++; len(l.first) < leftOutNamed {
		l.first = append(l.first, err)
	}
}

func (l *leftOut) err() error {
	if l.count == 0 {
		return nil
	}
	which := ""
	if l.count > leftOutNamed {
		which = fmt.Sprintf("; the first %d are above", leftOutNamed)
	}
	return errors.Join(append(l.first, fmt.Errorf("%d %s%s", l.count, l.what, which))...)
}
