package postgres

import (
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// Above the sampling limit the planner is asked, and the metrics say so.
func TestSampleEstimatesDeepQueues(t *testing.T) {
	t.Parallel()
	const deep = sampleLimit + 2500
	s, _ := installed(t, "deep", store.QueuePolicy{})
	if _, err := s.Queues().Insert(t.Context(), "flat", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, "deep", deep)
	enqueue(t, s, "flat", 3)
	if _, err := s.pool.Exec(t.Context(), "analyze "+s.schema+".messages"); err != nil {
		t.Fatal(err)
	}
	a, err := s.Admin(t.Context(), store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.SampleMetrics(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if m := got[0]; !m.Estimated || m.Ready < sampleLimit || m.Ready > 2*deep || m.Done != 0 {
		t.Errorf("a queue of %d is sampled as %+v", deep, m)
	}
	if m := got[1]; m.Estimated || m.Ready != 3 {
		t.Errorf("a queue of 3 is sampled as %+v", m)
	}
	if n, err := s.Queues().Purge(t.Context(), "deep"); err != nil || n != deep {
		t.Errorf("purged %d of %d, %v", n, deep, err)
	}
}
