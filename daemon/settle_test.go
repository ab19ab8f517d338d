package daemon

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func TestABadResultIsThatJobsAlone(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Queues = map[string]QueueConfig{"work": {MaxAttempts: 2}}
		cfg.Validator = &store.Validator{ForbiddenKeys: []string{"password"}}
		f := run(t, cfg)
		orders := []order{
			{Raw: `"\u0000"`},
			{Raw: `{"n":1e400000}`},
			{Do: "follow", Queue: "more", Raw: `"\ud800"`},
			{Do: "follow", Queue: "nowhere"},
			{Do: "follow", Queue: "more", Raw: `{"password":"x"}`},
		}
		bad := len(orders)
		orders = append(orders, make([]order, 50)...)
		ids := f.enqueue(orders...)
		for i, c := range []struct {
			attempts int
			text     string
		}{
			{1, "no_nul"}, {1, "number_range"}, {1, "surrogate"}, {2, `"nowhere" does not exist`}, {1, "forbidden_key"},
		} {
			m := f.becomes(ids[i], store.Dead)
			if last := m.Errors[len(m.Errors)-1].Error; m.Attempts != c.attempts || !strings.Contains(last, c.text) {
				t.Errorf("order %+v: attempts %d, error %q; want %d, %q", orders[i], m.Attempts, last, c.attempts, c.text)
			}
		}
		for _, id := range ids[bad:] {
			f.becomes(id, store.Done)
		}
	})
}

func TestResultsOutliveAnOutage(t *testing.T) {
	server := pgtest.Start(t)
	f := run(t, testConfig(t, openPostgres(t, server.DSN(), "pgqrs")))
	orders := make([]order, 10)
	for i := range orders {
		orders[i] = order{Do: "wait", File: f.path("go")}
	}
	ids := f.enqueue(orders...)
	for _, id := range ids {
		f.starts(id)
	}
	server.StopImmediate()
	f.eventually("the outage is noticed", func() bool { return f.metric("pgqrsd_database_up") == 0 })
	f.touch("go")
	f.eventually("all results are there, unrecorded", func() bool {
		return f.metric("pgqrsd_in_flight", "queue", "work") == 0 && f.metric("pgqrsd_unsettled", "queue", "work") == 10
	})
	server.Start()
	for _, id := range ids {
		if m := f.becomes(id, store.Done); m.Attempts != 0 {
			t.Errorf("message %d: attempts %d", id, m.Attempts)
		}
	}
	f.becomes(f.enqueue(order{})[0], store.Done)
	f.eventually("the database is up", func() bool { return f.metric("pgqrsd_database_up") == 1 })
	if n := len(f.list(store.KindConsumer, "work")); n != 1 {
		t.Errorf("%d consumers were registered over the outage, want 1", n)
	}
}

func TestDoneMessagesAreNotRetained(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Queues = map[string]QueueConfig{"work": {Retain: RetainDelete, MaxAttempts: 1}}
		f := run(t, cfg)
		orders := make([]order, 50)
		orders[0] = order{Do: "fail"}
		orders[1] = order{Do: "follow", Queue: "more", Out: json.RawMessage(`{}`)}
		ids := f.enqueue(orders...)
		f.eventually("all are settled", func() bool {
			return f.metric("pgqrsd_settled_total", "queue", "work", "outcome", "done") == 49
		})
		f.becomes(ids[0], store.Dead)
		for _, id := range ids[1:] {
			if m, err := s.Messages().Get(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("message %d: %+v, %v; want nothing left", id, m, err)
			}
		}
		f.eventually("the follow-up is done, on a queue that retains", func() bool {
			n, err := s.Archive().Count(t.Context(), store.MessageFilter{Queue: "more", State: store.Done})
			return err == nil && n == 1
		})
	})
}
