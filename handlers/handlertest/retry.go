package handlertest

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Retry carries a run on that has failed, as pgqrsd workflow retry does: what
// ended it is forgotten, the signals that the forgotten steps had taken are there
// again, and its attempts start at one.
func (w *Workflow) Retry() {
	w.t.Helper()
	if w.failed == nil && w.job.Attempt < w.job.MaxAttempts {
		w.t.Fatal("the run has not failed")
	}
	places := w.failed.GetFailed()
	w.failed, w.ended, w.job.Attempt = nil, false, 1
	w.kept = slices.DeleteFunc(w.kept, func(k *kept) bool {
		forgotten := slices.ContainsFunc(places, func(p *handlerpb.Place) bool {
			return p.Branch == branchOf(k.Name) && k.Position >= p.Position
		})
		if forgotten && k.Signal != 0 {
			w.signals = append(w.signals, &handlerpb.Signal{Id: k.Signal, Topic: k.Topic, Payload: k.Output})
		}
		return forgotten
	})
	slices.SortFunc(w.signals, func(a, b *handlerpb.Signal) int { return cmp.Compare(a.Id, b.Id) })
}

// branchOf is the branch that a step's name begins with; empty is none.
func branchOf(name string) string {
	return name[:max(strings.LastIndexByte(name, '/'), 0)]
}
