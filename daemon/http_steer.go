package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// maxSteer bounds the body of a request that steers a run.
const maxSteer = 4 << 10

// optionalBody reads the one JSON object of a request that may have none.
func optionalBody(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return decodeBody(io.LimitReader(r.Body, maxSteer), v)
}

// cancelRun is the body of a cancellation; it may be missing.
type cancelRun struct {
	Descend bool `json:"descend"`
}

func (a *runsAPI) cancel(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	var in cancelRun
	if err := optionalBody(r, &in); err != nil {
		return 0, nil, err
	}
	status, err := a.d.cfg.Store.Workflows().Cancel(ctx, id, in.Descend)
	if a.d.database.note(err) != nil {
		return 0, nil, err
	}
	return http.StatusOK, view.RunStatus{ID: id, Status: status}, nil
}

// steer does one thing to a run, and answers what became of it.
func (a *runsAPI) steer(do func(store.Workflows, context.Context, int64) error) func(context.Context, *http.Request) (int, any, error) {
	return func(ctx context.Context, r *http.Request) (int, any, error) {
		id, err := pathID(r, "run")
		if err != nil {
			return 0, nil, err
		}
		table := a.d.cfg.Store.Workflows()
		if err := do(table, ctx, id); a.d.database.note(err) != nil {
			return 0, nil, err
		}
		run, err := table.Get(ctx, id)
		if a.d.database.noteRead(err) != nil {
			return 0, nil, err
		}
		a.d.wakeQueue(run.Queue)
		return http.StatusOK, view.OfRunStatus(run), nil
	}
}

// forkRun is the body of a fork; without it the new run begins at the beginning.
type forkRun struct {
	From *forkFrom `json:"from"`
}

// forkFrom is the first step that runs anew.
type forkFrom struct {
	Name       string `json:"name"`
	Occurrence int    `json:"occurrence"`
}

func (a *runsAPI) fork(ctx context.Context, r *http.Request) (int, any, error) {
	id, err := pathID(r, "run")
	if err != nil {
		return 0, nil, err
	}
	var in forkRun
	if err := optionalBody(r, &in); err != nil {
		return 0, nil, err
	}
	var from store.StepKey
	if in.From != nil {
		from = store.StepKey{Name: in.From.Name, Occurrence: in.From.Occurrence}
		if err := store.ValidateStepKey(from); err != nil {
			return 0, nil, &requestError{http.StatusBadRequest, "from", err.Error()}
		}
	}
	if err := a.open(r); err != nil {
		return 0, nil, err
	}
	forked, err := a.d.cfg.Store.Workflows().Fork(ctx, id, from)
	if a.d.database.note(err) != nil {
		return 0, nil, err
	}
	return http.StatusCreated, made{forked, true}, nil
}

// maxRuns is how many runs one page holds at most.
const maxRuns = 1000

// runPage is a page of a list.
type runPage struct {
	Runs []view.Run `json:"runs"`
	// After begins the next page; it is missing when this was the last one.
	After int64 `json:"after,omitempty"`
}

func (a *runsAPI) list(ctx context.Context, r *http.Request) (int, any, error) {
	filter := store.RunFilter{Workflow: r.PathValue("name")}
	if err := workflowName(filter.Workflow); err != nil {
		return 0, nil, err
	}
	query := r.URL.Query()
	filter.Status = store.RunStatus(query.Get("status"))
	if filter.Status != "" && !filter.Status.Known() {
		return 0, nil, &requestError{http.StatusBadRequest, "status", fmt.Sprintf("status %q is none that a run has", filter.Status)}
	}
	limit, err := number(query, "limit", store.DefaultLimit, 1, maxRuns)
	if err != nil {
		return 0, nil, err
	}
	if filter.After, err = number(query, "after", 0, 0, 1<<62); err != nil {
		return 0, nil, err
	}
	filter.Limit = int(limit)
	runs, err := a.d.cfg.Store.Workflows().List(ctx, filter)
	if a.d.database.noteRead(err) != nil {
		return 0, nil, err
	}
	page := runPage{Runs: view.Each(runs, view.OfRun)}
	if len(runs) == filter.Limit {
		page.After = runs[len(runs)-1].ID
	}
	return http.StatusOK, page, nil
}

// number reads a whole number of a query.
func number(query url.Values, name string, otherwise, least, most int64) (int64, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, &requestError{http.StatusBadRequest, name, fmt.Sprintf("%s %q is not a whole number from %d to %d", name, text, least, most)}
	}
	return n, nil
}
