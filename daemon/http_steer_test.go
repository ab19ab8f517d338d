package daemon

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// failUnserved fails the next run of the workflow that no handler serves, after
// the step "one".
func (f *fixture) failUnserved() {
	f.Helper()
	c, err := f.store.Consumer(f.Context(), "unserved", store.WorkerOptions{})
	f.must(err)
	leased, err := c.Dequeue(f.Context(), 1, time.Minute)
	f.must(err)
	if len(leased) != 1 {
		f.Fatalf("%d runs are ready, want one", len(leased))
	}
	steps := []store.StepResult{
		{StepKey: store.StepKey{Name: "one"}, Output: []byte("1")},
		{StepKey: store.StepKey{Name: "one", Occurrence: 1}, Error: "no", Position: 1},
	}
	settled, err := c.Settle(f.Context(), []store.Outcome{{Lease: leased[0].Lease, Kind: store.OutcomeDiscard, Error: "no", Steps: steps}})
	f.must(err)
	f.must(settled[0].Err)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func TestHTTPSteersRuns(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := runUnserved(t, testConfig(t, s))
		var one made
		f.answers(http.StatusCreated, "POST", "/api/v1/workflows/unserved/runs", `{"input": 7}`, &one)
		path := fmt.Sprintf("/api/v1/runs/%d", one.ID)
		is := func(verb string, want store.RunStatus) {
			t.Helper()
			var got view.RunStatus
			f.answers(http.StatusOK, "POST", path+verb, "", &got)
			if got.ID != one.ID || got.Status != want {
				t.Errorf("%s is answered %+v, want %s", verb, got, want)
			}
		}
		is("/pause", store.RunPaused)
		is("/pause", store.RunPaused)
		is("/resume", store.RunQueued)
		f.refuses(http.StatusBadRequest, "invalid", "POST", path+"/retry", "")
		f.failUnserved()
		f.refuses(http.StatusConflict, "terminal", "POST", path+"/pause", "")

		var fork made
		var detail view.RunDetail
		f.answers(http.StatusCreated, "POST", path+"/fork", `{"from": {"name": "one", "occurrence": 1}}`, &fork)
		f.answers(http.StatusOK, "GET", fmt.Sprintf("/api/v1/runs/%d", fork.ID), "", &detail)
		if len(detail.Steps) != 1 || string(detail.Input) != "7" || detail.Status != store.RunQueued {
			t.Errorf("the fork is %+v", detail)
		}
		f.answers(http.StatusCreated, "POST", path+"/fork", "", &fork)
		f.answers(http.StatusOK, "GET", fmt.Sprintf("/api/v1/runs/%d", fork.ID), "", &detail)
		if len(detail.Steps) != 0 {
			t.Errorf("the fork from the beginning is %+v", detail)
		}
		f.refuses(http.StatusBadRequest, "invalid", "POST", path+"/fork", `{"from": {"name": "two"}}`)
		f.refuses(http.StatusBadRequest, "from", "POST", path+"/fork", `{"from": {"name": ""}}`)
		f.refuses(http.StatusBadRequest, "unknown_field", "POST", path+"/fork", `{"step": "one"}`)

		is("/retry", store.RunQueued)
		is("/cancel", store.RunCancelled)
		for _, verb := range []string{"/pause", "/resume", "/retry", "/fork"} {
			f.answers(http.StatusNotFound, "POST", "/api/v1/runs/99999"+verb, "", nil)
			f.refuses(http.StatusBadRequest, "id", "POST", "/api/v1/runs/x"+verb, "")
		}
		var result view.RunResult
		f.answers(http.StatusOK, "GET", path+"/result", "", &result)
		if result.Error != "the run was cancelled" {
			t.Errorf("the result of a cancelled run that had failed before is %+v", result)
		}
	})
}

func TestHTTPListsRuns(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := runUnserved(t, testConfig(t, s))
		const path = "/api/v1/workflows/unserved/runs"
		page := func(query string) (ids []int64, after int64) {
			t.Helper()
			var got runPage
			f.answers(http.StatusOK, "GET", path+query, "", &got)
			if got.Runs == nil {
				t.Errorf("%s: the runs are null", query)
			}
			for _, r := range got.Runs {
				ids = append(ids, r.ID)
			}
			return ids, got.After
		}
		if ids, after := page(""); len(ids) != 0 || after != 0 {
			t.Errorf("there are runs %v, after %d", ids, after)
		}
		var one, two made
		f.answers(http.StatusCreated, "POST", path, `{}`, &one)
		f.answers(http.StatusCreated, "POST", path, `{"delay": "1h"}`, &two)
		if ids, after := page("?limit=1"); len(ids) != 1 || ids[0] != one.ID || after != one.ID {
			t.Errorf("the first page is %v, after %d", ids, after)
		}
		if ids, after := page(fmt.Sprintf("?after=%d", one.ID)); len(ids) != 1 || ids[0] != two.ID || after != 0 {
			t.Errorf("the second page is %v, after %d", ids, after)
		}
		if ids, _ := page("?status=waiting"); len(ids) != 1 || ids[0] != two.ID {
			t.Errorf("those that wait are %v", ids)
		}
		for query, rule := range map[string]string{"?status=asleep": "status", "?limit=0": "limit", "?limit=1001": "limit", "?after=x": "after"} {
			f.refuses(http.StatusBadRequest, rule, "GET", path+query, "")
		}
		f.refuses(http.StatusNotFound, "unknown_queue", "GET", "/api/v1/workflows/unservd/runs", "")
		f.refuses(http.StatusBadRequest, "invalid", "GET", "/api/v1/workflows/work/runs", "")
		f.refuses(http.StatusBadRequest, "workflow_name", "GET", "/api/v1/workflows/a%20b/runs", "")
	})
}
