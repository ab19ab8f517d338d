package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pgqrs/pgqrsd/store"
)

// checkSteps refuses a measurement whose runs have not recorded each of their
// steps once.
func (r *run) checkSteps(ctx context.Context, p *process, runs int64) error {
	if !r.Workflow || r.Backlog > 0 {
		return nil
	}
	s, err := p.sample(ctx)
	if err != nil {
		return err
	}
	recorded, _ := s.sum(metricSteps, "")
	if want := runs * int64(r.Steps); int64(recorded) != want {
		return fmt.Errorf("%.0f steps were recorded, want the %d of %d runs", recorded, want, runs)
	}
	return nil
}

// workflowFigures are the work's figures in runs and steps, with what the runs
// told of their steps.
func (r *run) workflowFigures(ctx context.Context, w *WorkFigures) (*WorkflowFigures, error) {
	f := &WorkflowFigures{
		Steps: w.Messages * int64(r.Steps), StepsPerSecond: w.JobsPerSecond * float64(r.Steps), WorkflowsPerSecond: w.JobsPerSecond,
	}
	if r.Steps == 0 {
		return f, nil
	}
	r.cfg.Progress("reading the archive")
	took, err := r.stepTimes(ctx)
	if err != nil {
		return nil, err
	}
	f.StepP50Ms, f.StepP99Ms = percentile(took, 50), percentile(took, 99)
	return f, nil
}

// told is what one run told: how long each of its steps took, in microseconds.
type told struct {
	id   int64
	took []int64
}

// stepTimes are how long the steps of the measured runs took, in milliseconds,
// sorted.
func (r *run) stepTimes(ctx context.Context) ([]float64, error) {
	var runs []told
	for _, queue := range r.queues {
		some, err := r.told(ctx, queue)
		if err != nil {
			return nil, err
		}
		runs = append(runs, some...)
	}
	// The first were there beforehand, or warmed up.
	slices.SortFunc(runs, func(a, b told) int { return cmp.Compare(a.id, b.id) })
	var all []float64
	for _, t := range runs[min(len(runs), r.Archived+r.WarmUp):] {
		for _, us := range t.took {
			all = append(all, milliseconds(us*1000))
		}
	}
	slices.Sort(all)
	return all, nil
}

// told reads a queue's archive.
func (r *run) told(ctx context.Context, queue string) (runs []told, err error) {
	for after := int64(0); ; {
		page, err := r.scratch.store.Archive().List(ctx, store.MessageFilter{Queue: queue, State: store.Done, Page: store.Page{Limit: fillBatch, After: after}})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return runs, nil
		}
		after = page[len(page)-1].ID
		for i := range page {
			t := told{id: page[i].ID}
			if len(page[i].Output) > 0 {
				if err := json.Unmarshal(page[i].Output, &t.took); err != nil {
					return nil, fmt.Errorf("run %d: its output should be the times of its steps: %w", t.id, err)
				}
			}
			runs = append(runs, t)
		}
	}
}
