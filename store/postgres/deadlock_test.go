package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// watchful opens a store whose sessions look for deadlocks sooner than any of
// them gives up waiting.
func watchful(t *testing.T, cfg Config) *Store {
	t.Helper()
	cfg.DSN = pgtest.DSN(t)
	with := "?"
	if strings.Contains(cfg.DSN, with) {
		with = "&"
	}
	cfg.DSN += with + "deadlock_timeout=100ms"
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*Store)
}

// melee is runs to which everything happens at once.
type melee struct {
	*testing.T
	rounds int
	work   sync.WaitGroup

	mu  sync.Mutex
	ids []int64
}

func (c *melee) note(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != 0 && !slices.Contains(c.ids, id) {
		c.ids = append(c.ids, id)
	}
}

// some is one of the newest.
func (c *melee) some(r *rand.Rand) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[max(0, len(c.ids)-1-r.IntN(min(len(c.ids), 12)))]
}

// answer reports whether an error says that the run is not as it must be for
// that, or not for long enough. Deadlocks and lock limits are ErrUnavailable.
func answer(err error) bool {
	return err == nil || strings.Contains(err.Error(), "it moved meanwhile") || strings.Contains(err.Error(), "it moves all the time") || slices.ContainsFunc([]error{store.ErrTerminal, store.ErrNotFound, store.ErrInvalid, store.ErrLeased, store.ErrExists},
		func(is error) bool { return errors.Is(err, is) })
}

// try does something over and over, beside all else.
func (c *melee) try(seed uint64, what string, f func(ctx context.Context, r *rand.Rand) error) {
	r := rand.New(rand.NewPCG(seed, uint64(len(what))))
	c.work.Go(func() {
		for range c.rounds {
			if err := f(c.Context(), r); !answer(err) {
				c.Errorf("%s: %v", what, err)
				return
			}
		}
	})
}

// use is what applications and daemons do with runs.
func (c *melee) use(seed uint64, s *Store, admin store.Admin) {
	flows := s.Workflows()
	consumer := newConsumer(c.T, s, "q")
	c.try(seed, "settle", func(_ context.Context, r *rand.Rand) error { return settleAnyhow(c.T, r, s, consumer, c.some, c.note) })
	c.try(seed, "send", func(ctx context.Context, r *rand.Rand) error {
		_, _, err := flows.Send(ctx, store.NewSignal{Run: c.some(r), Topic: "n"})
		return err
	})
	c.try(seed, "pause and resume", func(ctx context.Context, r *rand.Rand) error {
		id := c.some(r)
		if err := flows.Pause(ctx, id); !answer(err) {
			return err
		}
		return flows.Resume(ctx, id)
	})
	c.try(seed, "start and cancel", func(ctx context.Context, r *rand.Rand) error {
		if r.IntN(4) == 0 {
			_, err := flows.Cancel(ctx, c.some(r), r.IntN(2) == 0)
			return err
		}
		id, _, err := s.CreateWorkflow(ctx, store.NewRun{Workflow: []string{"q", "q", "other"}[r.IntN(3)]})
		c.note(id)
		return err
	})
	c.try(seed, "promote", func(ctx context.Context, _ *rand.Rand) error { _, _, err := admin.Promote(ctx, 5); return err })
	c.try(seed, "retry", func(ctx context.Context, r *rand.Rand) error { return flows.Retry(ctx, c.some(r)) })
	c.try(seed, "fork", func(ctx context.Context, r *rand.Rand) error {
		id, err := flows.Fork(ctx, c.some(r), store.StepKey{Name: "body"})
		c.note(id)
		return err
	})
}

// remove is what operators and retention do to them.
func (c *melee) remove(seed uint64, s *Store, admin store.Admin) {
	// Seldom enough that there is something to remove.
	rarely := func(what string, f func(ctx context.Context, r *rand.Rand) error) {
		c.try(seed, what, func(ctx context.Context, r *rand.Rand) error {
			if r.IntN(4) == 0 {
				return f(ctx, r)
			}
			return s.Ping(ctx)
		})
	}
	rarely("purge", func(ctx context.Context, _ *rand.Rand) error { _, err := s.Queues().Purge(ctx, "q"); return err })
	rarely("delete queue", func(ctx context.Context, _ *rand.Rand) error {
		if err := s.Queues().Delete(ctx, "other", true); !answer(err) {
			return err
		}
		_, err := s.Queues().Insert(ctx, "other", store.QueuePolicy{Kind: store.WorkflowQueue})
		return err
	})
	rarely("delete messages", func(ctx context.Context, r *rand.Rand) error { return s.Messages().Delete(ctx, c.some(r)) })
	rarely("archive messages", func(ctx context.Context, r *rand.Rand) error {
		_, err := s.Archive().Insert(ctx, "not wanted", c.some(r), c.some(r), c.some(r))
		return err
	})
	rarely("purge archive", func(ctx context.Context, _ *rand.Rand) error { _, err := s.Archive().Purge(ctx, "q", 0); return err })
	rarely("delete archived", func(ctx context.Context, r *rand.Rand) error { return s.Archive().Delete(ctx, c.some(r)) })
	rarely("retention", func(ctx context.Context, _ *rand.Rand) error { _, err := admin.PurgeExpired(ctx, 10); return err })
	rarely("replay", func(ctx context.Context, r *rand.Rand) error {
		_, err := s.Archive().Replay(ctx, c.some(r))
		return err
	})
	rarely("release and reclaim", func(ctx context.Context, r *rand.Rand) error {
		slot := []string{"a", "b"}[seed%2]
		w, err := s.Consumer(ctx, "q", store.WorkerOptions{Name: slot, Slot: slot})
		if err != nil {
			return err
		}
		got, err := w.Dequeue(ctx, 3, time.Hour)
		for _, l := range got {
			if r.IntN(2) == 0 {
				errs, serr := w.Started(ctx, l.Lease)
				err = errors.Join(err, serr, errors.Join(errs...))
			}
		}
		if err == nil && r.IntN(2) == 0 {
			_, err = admin.ReleaseWorker(ctx, w.ID())
		}
		if err == nil {
			_, err = admin.ReclaimSlot(ctx, slot)
		}
		return err
	})
}

// Whatever two daemons, applications, operators and retention do to the same
// runs at once, nobody waits for ever, each run is in one place, and nothing is
// left of those that were removed.
func TestRunsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	s, cfg := flow(t, "q")
	expire := time.Nanosecond
	for _, queue := range []string{"q", "other"} {
		policy := store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 3, Retention: expire}
		if _, err := s.Queues().Ensure(t.Context(), queue, policy); err != nil {
			t.Fatal(err)
		}
	}
	c := &melee{T: t, rounds: 60}
	for range 6 {
		c.note(startRun(t, s, "q"))
	}
	for i := range 2 {
		s := watchful(t, cfg)
		admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
		if err != nil {
			t.Fatal(err)
		}
		c.use(uint64(i), s, admin)
		c.remove(uint64(i), s, admin)
	}
	c.work.Wait()
	var twice, orphans int
	if err := s.pool.QueryRow(t.Context(), s.sql(`with place as (
		select id from {{schema}}.messages union all select id from {{schema}}.delayed union all select id from {{schema}}.archive
	)
	select (select count(*) from (select id from place group by id having count(*) > 1) b),
		(select count(*) from (select run_id from {{schema}}.runs union all select run_id from {{schema}}.steps
			union all select run_id from {{schema}}.signals union all select run_id from {{schema}}.events
		) r where r.run_id not in (select id from place))`)).Scan(&twice, &orphans); err != nil {
		t.Fatal(err)
	}
	if twice != 0 || orphans != 0 {
		t.Errorf("%d messages are in two places, and %d rows are of runs that are nowhere", twice, orphans)
	}
}
