package daemon

import (
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// metric reads a counter or a gauge, or a histogram's count; 0 if there is none.
func (f *fixture) metric(name string, labels ...string) float64 {
	families, err := f.d.metrics.registry.Gather()
	if err != nil {
		panic(err) // a metric that is registered wrong
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	metric:
		for _, m := range family.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue metric
				}
			}
			// Only one of them is there; the others answer 0.
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return 0
}

func TestMetrics(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		f := run(t, cfg)
		for _, name := range []string{"stranger.1", "stranger.2"} {
			if _, err := s.Queues().Ensure(t.Context(), name, store.QueuePolicy{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: name, Payload: []byte(`1`)}}); err != nil {
				t.Fatal(err)
			}
		}
		f.enqueue(order{}, order{}, order{Do: "discard"})
		f.counts(2, store.Done)
		f.counts(1, store.Dead)
		for _, c := range []struct {
			want   float64
			name   string
			labels []string
		}{
			{3, "pgqrsd_leased_total", []string{"queue", "work"}},
			{2, "pgqrsd_settled_total", []string{"queue", "work", "outcome", "done"}},
			{1, "pgqrsd_settled_total", []string{"queue", "work", "outcome", "discard"}},
			{3, "pgqrsd_run_seconds", []string{"queue", "work"}},
			{3, "pgqrsd_wait_seconds", []string{"queue", "work"}},
			{0, "pgqrsd_in_flight", []string{"queue", "work"}},
			{0, "pgqrsd_leases_lost_total", []string{"queue", "work"}},
			{1, "pgqrsd_database_up", nil},
			{1, "pgqrsd_build_info", []string{"version", "v-test"}},
			{2, "pgqrsd_messages", []string{"queue", "work", "state", "done"}},
			{1, "pgqrsd_messages", []string{"queue", "work", "state", "dead"}},
			// Queues that nobody named are one time series.
			{2, "pgqrsd_messages", []string{"queue", "other", "state", "ready"}},
			{0, "pgqrsd_messages", []string{"queue", "stranger.1", "state", "ready"}},
		} {
			f.eventually(c.name+" is right", func() bool { return f.metric(c.name, c.labels...) == c.want })
		}
		if f.metric("pgqrsd_settle_batch_size") == 0 {
			t.Error("no settled batch was measured")
		}
	})
}
