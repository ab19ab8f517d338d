package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// However many runs no handler carries on, few of them are leased in a second to
// be put off again.
func TestManyStrandedRunsAreLeasedRarely(t *testing.T) {
	var s strays
	start := time.Unix(1000, 0)
	const runs = 100_000
	seconds := map[int64]int{}
	for i := range runs {
		now := start.Add(time.Duration(i) * time.Millisecond / 10)
		d := s.putOff(now)
		if d < versionWait/2 || d > versionMost {
			t.Fatalf("run %d waits for %s", i, d)
		}
		seconds[now.Add(d).Unix()]++
	}
	for at, n := range seconds {
		// The mean of those beyond the last turn is 333.
		if n > 600 {
			t.Errorf("in second %d are %d leases", at-start.Unix(), n)
		}
	}
	// Few runs wait no longer for those that were many.
	later := start.Add(time.Hour)
	if d := s.putOff(later); d > 2*versionWait {
		t.Errorf("an hour later a run waits for %s", d)
	}
}

// A handler that comes wakes the runs that waited for it, and no others.
func TestAHandlerThatComesWakesItsRuns(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		c, leases := leaseRuns(t, s, plan{}, plan{})
		for i, version := range []string{"v0", "v9"} {
			got, err := c.Settle(t.Context(), []store.Outcome{
				{
					Lease: leases[i], Kind: store.OutcomeStep, Version: version,
					Steps: []store.StepResult{{StepKey: store.StepKey{Name: "before"}}},
				},
				{Lease: leases[i], Kind: store.OutcomeWait, Wait: &store.Wait{Kind: store.WaitVersion, For: version, Delay: time.Hour}},
			})
			if err != nil || got[0].Err != nil || got[1].Err != nil {
				t.Fatal(err, got)
			}
		}
		f := run(t, testConfig(t, s))
		f.reaches(leases[0].ID, store.RunSucceeded)
		if r := f.reaches(leases[1].ID, store.RunWaiting); r.Wait.Kind != store.WaitVersion || time.Until(r.Wait.Until) < 50*time.Minute {
			t.Errorf("the run that v9 began waits for %+v", r.Wait)
		}
	})
}

// A workflow without a handler anywhere is named in the log, others are not.
func TestUnservedWorkflowsAreNamed(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		for name, kind := range map[string]store.QueueKind{"lonely": store.WorkflowQueue, "empty": store.WorkflowQueue, "jobs": store.JobQueue} {
			if _, err := s.Queues().Insert(t.Context(), name, store.QueuePolicy{Kind: kind}); err != nil {
				t.Fatal(err)
			}
		}
		var log syncBuffer
		cfg := testConfig(t, s)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		f := run(t, cfg)
		if _, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "jobs", Payload: []byte("1")}}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.CreateWorkflow(t.Context(), store.NewRun{Workflow: "lonely"}); err != nil {
			t.Fatal(err)
		}
		samples, err := f.d.workers.admin().SampleMetrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.d.sayUnserved(t.Context(), samples); err != nil {
			t.Fatal(err)
		}
		if said := log.String(); strings.Count(said, "no daemon has a handler") != 1 || !strings.Contains(said, "workflows=lonely\n") {
			t.Errorf("the log says %s", said)
		}
	})
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
