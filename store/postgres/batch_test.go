package postgres

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// counter counts the statements that pgx sends.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	c.n.Add(int64(d.Batch.Len()))
	return ctx
}
func (c *counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// counted replaces the store's pool by one that counts.
func counted(t *testing.T, s *Store) *counter {
	t.Helper()
	cfg := s.pool.Config()
	c := &counter{}
	cfg.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.notifier.close() // its statements are not the batch's
	s.pool.Close()
	s.pool = pool
	return c
}

// Batch insert, claim, settle, extend and mark as started are each a constant
// number of statements, whatever the batch's size.
func TestBatchesAreAConstantNumberOfStatements(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	count := counted(t, s)
	type cost map[string]int64
	costs := map[int]cost{}
	for _, size := range []int{4, 400} {
		c := newConsumer(t, s, "q")
		costs[size] = cost{}
		step := func(name string, f func() error) {
			t.Helper()
			before := count.n.Load()
			if err := f(); err != nil {
				t.Fatalf("%s of %d: %v", name, size, err)
			}
			costs[size][name] = count.n.Load() - before
		}
		step("insert", func() error { enqueue(t, s, "q", size); return nil })
		var got []store.LeasedMessage
		step("claim", func() (err error) { got, err = c.Dequeue(t.Context(), size, time.Minute); return err })
		if len(got) != size {
			t.Fatalf("%d messages, want %d", len(got), size)
		}
		leases := make([]store.Lease, size)
		for i := range got {
			leases[i] = got[i].Lease
		}
		all := func(errs []error, err error) error { return errors.Join(append(errs, err)...) }
		step("started", func() error { return all(c.Started(t.Context(), leases...)) })
		step("extend", func() error { return all(c.Extend(t.Context(), time.Minute, leases...)) })
		step("settle mixed", func() error { return settleMixed(t, c, leases[:size/2]) })
		step("settle done", func() error { return all(c.Archive(t.Context(), leases[size/2:]...)) })
		if _, err := s.Queues().Purge(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range costs[4] {
		if costs[400][name] != n || n == 0 {
			t.Errorf("%s of 4 takes %d statements, of 400 %d", name, n, costs[400][name])
		}
	}
}

// So are the settlements of runs, and what they are carried on from: of runs
// that go on and are done, and of runs that do everything else.
func TestBatchesOfRunsAreAConstantNumberOfStatements(t *testing.T) {
	t.Parallel()
	s, _ := flow(t, "q")
	count := counted(t, s)
	costs := map[int]map[string]int64{}
	for _, size := range []int{4, 200} {
		c := newConsumer(t, s, "q")
		costs[size] = map[string]int64{}
		enqueue(t, s, "q", 2*size)
		got, err := c.Dequeue(t.Context(), 2*size, time.Minute)
		if err != nil || len(got) != 2*size {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		settle := func(name string, outcome func(i int) store.Outcome) {
			t.Helper()
			outcomes := make([]store.Outcome, size)
			for i := range outcomes {
				outcomes[i] = outcome(i)
			}
			before := count.n.Load()
			settled, err := c.Settle(t.Context(), outcomes)
			costs[size][name] = count.n.Load() - before
			for i, r := range settled {
				if r.Err != nil || r.State == "" {
					t.Fatalf("%s: item %d: %+v", name, i, r)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		step := []store.StepResult{{StepKey: key("a"), Output: []byte(`1`)}}
		settle("step", func(i int) store.Outcome {
			return store.Outcome{Lease: got[i].Lease, Kind: store.OutcomeStep, Version: "v1", Steps: step}
		})
		settle("another step", func(i int) store.Outcome {
			return store.Outcome{Lease: got[i].Lease, Kind: store.OutcomeStep, Version: "v1", Steps: []store.StepResult{{StepKey: key("b")}}}
		})
		settle("step or done", func(i int) store.Outcome {
			return store.Outcome{Lease: got[i].Lease, Kind: []store.OutcomeKind{store.OutcomeStep, store.OutcomeDone}[i%2], Steps: step}
		})
		settle("all else", func(i int) store.Outcome {
			o := store.Outcome{Lease: got[size+i].Lease, Kind: store.OutcomeWait, Version: "v1", Wait: &store.Wait{Delay: -1}}
			switch i % 4 {
			case 0:
				o.Steps = []store.StepResult{{StepKey: key("c"), Kind: store.StepChild, State: store.StepWaiting, Child: &store.NewRun{Workflow: "q"}}}
			case 1:
				o.Steps = []store.StepResult{{StepKey: key("s"), Kind: store.StepSend, Send: &store.NewSignal{Run: got[size+(i+1)%size].ID, Topic: "t"}}}
			case 2:
				o.Steps = []store.StepResult{{StepKey: key("e"), Kind: store.StepEvent, Topic: "t"}}
			case 3:
				o.Kind, o.Wait = store.OutcomeCancel, nil
			}
			return o
		})
		before := count.n.Load()
		ids := make([]int64, len(got))
		for i := range got {
			ids[i] = got[i].ID
		}
		if _, err := s.Workflows().Load(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
		costs[size]["load"] = count.n.Load() - before
		if _, err := s.Queues().Purge(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range costs[4] {
		if costs[200][name] != n || n == 0 {
			t.Errorf("%s of 4 takes %d statements, of 200 %d", name, n, costs[200][name])
		}
	}
	if first, next := costs[4]["step"], costs[4]["another step"]; first > 4 || next > 3 {
		t.Errorf("first steps take %d statements, others %d; want 4 (plan, claims, runs, steps) and 3", first, next)
	}
}

// settleMixed settles with outcomes of two kinds, follow-ups and steps.
func settleMixed(t *testing.T, c store.Consumer, leases []store.Lease) error {
	outcomes := make([]store.Outcome, len(leases))
	for i, l := range leases {
		outcomes[i] = store.Outcome{Lease: l, Kind: store.OutcomeDone,
			Enqueue: []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}},
			Steps:   []store.StepResult{{StepKey: store.StepKey{Name: "a"}}}}
		if i%2 == 1 {
			outcomes[i].Kind, outcomes[i].Delay = store.OutcomeSnooze, time.Hour
		}
	}
	settled, err := c.Settle(t.Context(), outcomes)
	for _, r := range settled {
		err = errors.Join(err, r.Err)
	}
	return err
}

// Behind PgBouncer no statement may be kept on the server, and nothing is
// listened for; everything else works.
func TestPgBouncerMode(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Schema: pgtest.Schema(t), PgBouncer: true, PoolSize: 1})
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	c := newConsumer(t, s, "q")
	for range 3 {
		enqueue(t, s, "q", 6, func(m *store.NewMessage) { m.Headers = map[string]string{"a": "b"} })
		got, err := c.Dequeue(t.Context(), 6, time.Minute)
		if err != nil || len(got) != 6 || got[0].Headers["a"] != "b" {
			t.Fatalf("%+v, %v", got, err)
		}
		leases := make([]store.Lease, len(got))
		for i := range got {
			leases[i] = got[i].Lease
		}
		if err := settleMixed(t, c, leases[:3]); err != nil {
			t.Fatal(err)
		}
		if errs, err := c.Archive(t.Context(), leases[3:]...); errors.Join(append(errs, err)...) != nil {
			t.Fatal(errs, err)
		}
		if _, err := s.Queues().Purge(t.Context(), "q"); err != nil { // the follow-ups
			t.Fatal(err)
		}
		if m, err := s.Messages().Get(t.Context(), got[5].ID); err != nil || m.State != store.Done {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	for range 5 { // of any connection of the pool
		var n int
		if err := s.pool.QueryRow(t.Context(), `select count(*) from pg_prepared_statements`, pgx.QueryExecModeSimpleProtocol).Scan(&n); err != nil || n != 0 {
			t.Fatalf("%d statements are prepared on the server, %v", n, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Listen(ctx, func(q string) { t.Errorf("woken for %q", q) }); err != nil {
		t.Error(err)
	}
}
