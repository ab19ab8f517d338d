package daemon

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

func TestJobsRunToTheirEnds(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		ids := f.enqueue(
			order{Out: json.RawMessage(`{"n": 1}`)},
			order{Do: "fail once"},
			order{Do: "fail"},
			order{Do: "discard"},
			order{Do: "snooze once", File: f.path("snoozed")},
			order{Do: "panic"},
			order{Do: "follow", Queue: "more", Out: json.RawMessage(`{"out": "followed"}`)},
		)
		if m := f.becomes(ids[0], store.Done); string(m.Output) != `{"n":1}` && string(m.Output) != `{"n": 1}` {
			t.Errorf("the output is %s", m.Output)
		}
		if m := f.becomes(ids[1], store.Done); m.Attempts != 1 || len(m.Errors) != 1 || m.Errors[0].Error != "failed as told" {
			t.Errorf("one failure: attempts %d, errors %+v", m.Attempts, m.Errors)
		}
		if m := f.becomes(ids[2], store.Dead); m.Attempts != store.DefaultMaxAttempts {
			t.Errorf("failures only: attempts %d, want %d", m.Attempts, store.DefaultMaxAttempts)
		}
		if m := f.becomes(ids[3], store.Dead); m.Attempts != 1 || m.Errors[0].Error != "discarded as told" {
			t.Errorf("discarded: attempts %d, errors %+v", m.Attempts, m.Errors)
		}
		if m := f.becomes(ids[4], store.Done); m.Attempts != 0 {
			t.Errorf("snoozed: attempts %d", m.Attempts)
		}
		if m := f.becomes(ids[5], store.Dead); !strings.Contains(m.Errors[0].Error, "as told") {
			t.Errorf("panicked: errors %+v", m.Errors)
		}
		f.becomes(ids[6], store.Done)
		f.eventually("the follow-up is done", func() bool {
			n, err := s.Archive().Count(t.Context(), store.MessageFilter{Queue: "more", State: store.Done})
			return err == nil && n == 1
		})
	})
}

func TestManyJobsEachRunOnce(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		const n = 1000
		ids := f.enqueue(make([]order, n)...)
		f.counts(n, store.Done)
		f.counts(0, store.Leased)
		for i := range n {
			if m := f.get(ids[i]); m.Attempts != 0 || m.State != store.Done {
				t.Fatalf("message %d is %s with %d attempts", m.ID, m.State, m.Attempts)
			}
		}
	})
}

func TestTheFleetSeesTheDaemon(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		f.worker(store.KindProducer, "")
		f.worker(store.KindConsumer, "work")
		f.worker(store.KindConsumer, "more")
		var in info
		f.eventually("the handler is published as serving", func() bool {
			in = info{}
			if err := json.Unmarshal(f.worker(store.KindAdmin, "").Info, &in); err != nil {
				return false // nothing is published yet
			}
			return len(in.Handlers) == 1 && in.Handlers[0].State == host.Serving
		})
		h := in.Handlers[0]
		slices.Sort(h.Queues)
		if h.Name != "testhandler" || !slices.Equal(h.Queues, []string{"flow", "more", "work"}) {
			t.Errorf("published %+v", in)
		}
		if in.Version != "v-test" || in.HTTP != f.d.HTTPAddr() {
			t.Errorf("published version %q and address %q", in.Version, in.HTTP)
		}
	})
}

func TestSlowJobsAreNotHoarded(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.Concurrency = 3
		f := run(t, cfg)
		f.enqueue(make([]order, 200)...) // quick ones first, which make it lease ahead
		f.counts(200, store.Done)
		var slow []order
		for range 10 {
			slow = append(slow, order{Do: "wait", File: f.path("go")})
		}
		f.enqueue(slow...)
		f.eventually("three jobs run and no more are held", func() bool {
			return f.count(store.Leased) == 3 && f.count(store.Ready)+f.count(store.Delayed) == 7
		})
		f.touch("go")
		f.counts(210, store.Done)
	})
}

func TestLongJobsAreMarkedRenewedAndShowProgress(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Defaults.Lease = minLease
		f := run(t, cfg)
		id := f.enqueue(order{Do: "progress", File: f.path("go")})[0]
		first := f.starts(id)
		f.eventually("progress is shown", func() bool {
			p := f.get(id).Progress
			return p != nil && p.Percent == 40 && p.Message == "nearly half"
		})
		f.eventually("the lease is renewed twice", func() bool {
			m := f.get(id)
			if m.State != store.Leased || m.Attempt != 1 {
				t.Fatalf("the job's lease was lost: %+v", m)
			}
			return m.LeaseExpiresAt.Sub(first.LeaseExpiresAt) > minLease
		})
		f.touch("go")
		if m := f.becomes(id, store.Done); m.Attempts != 0 {
			t.Errorf("attempts %d", m.Attempts)
		}
	})
}

func TestACrashCostsTheStartedJobAnAttempt(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		cfg.Queues = map[string]QueueConfig{"work": {MaxAttempts: 2}}
		f := run(t, cfg)
		id := f.enqueue(order{Do: "exit"})[0]
		m := f.becomes(id, store.Dead)
		if m.Attempts != 2 || len(m.Errors) != 2 {
			t.Errorf("attempts %d, errors %+v", m.Attempts, m.Errors)
		}
		f.becomes(f.enqueue(order{})[0], store.Done)
		if n := len(f.list(store.KindConsumer, "work")); n != 1 {
			t.Errorf("%d consumers were registered over the crashes, want 1", n)
		}
		if got := f.metric("pgqrsd_handler_restarts_total", "handler", "testhandler"); got < 2 {
			t.Errorf("%v restarts were counted", got)
		}
	})
}
