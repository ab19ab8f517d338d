package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// installed opens a store on a new, installed schema with a queue.
func installed(t *testing.T, queue string, policy store.QueuePolicy) (*Store, Config) {
	t.Helper()
	cfg := Config{Schema: pgtest.Schema(t)}
	s := openStore(t, cfg)
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Insert(t.Context(), queue, policy); err != nil {
		t.Fatal(err)
	}
	return s, cfg
}

// sent is how many statements do sends. What the store sends by itself does not
// count: the notification of what came before, after which there is none any
// more, and the probe that a slow claim asked for.
func sent(s *Store, do func()) int64 {
	s.notifier.close()
	s.background.wg.Wait()
	before := s.Statements()
	do()
	return s.Statements() - before
}

func enqueue(t *testing.T, s *Store, queue string, n int, edit ...func(*store.NewMessage)) []int64 {
	t.Helper()
	msgs := make([]store.NewMessage, n)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: queue, Payload: fmt.Appendf(nil, `{"n":%d}`, i)}
		for _, e := range edit {
			e(&msgs[i])
		}
	}
	ids, err := s.Messages().Insert(t.Context(), msgs)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func newConsumer(t *testing.T, s *Store, queue string) store.Consumer {
	t.Helper()
	c, err := s.Consumer(t.Context(), queue, store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tableCount(t *testing.T, s *Store, table string) int {
	t.Helper()
	var n int
	if err := s.pool.QueryRow(t.Context(), "select count(*) from "+s.schema+"."+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// holders notes who works on which message right now.
type holders struct {
	mu   sync.Mutex
	held map[int64]store.Lease
}

func (h *holders) take(got []store.LeasedMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range got {
		if other, taken := h.held[m.ID]; taken {
			return fmt.Errorf("message %d is leased as %+v and as %+v", m.ID, other, m.Lease)
		}
		h.held[m.ID] = m.Lease
	}
	return nil
}

func (h *holders) drop(l store.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, l.ID)
}

// Consumers of two stores claim, settle in every way, renew and release beside
// each other while an admin sweeps: no message is ever leased twice, nothing
// deadlocks, every message ends in the archive, and no claim is left behind.
func TestConsumersShareAQueue(t *testing.T) {
	t.Parallel()
	const total = 3000
	s, cfg := installed(t, "q", store.QueuePolicy{MaxAttempts: 1000})
	admin, err := s.Admin(t.Context(), store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, "q", total, func(m *store.NewMessage) { m.Priority = rand.IntN(3) })
	who := &holders{held: map[int64]store.Lease{}}
	var workers sync.WaitGroup
	for i := range 4 {
		c := newConsumer(t, []*Store{s, openStore(t, cfg)}[i%2], "q")
		workers.Go(func() {
			if err := churn(t, c, who); err != nil {
				t.Error(err)
			}
		})
	}
	swept := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(swept)
		for {
			select {
			case <-finished:
				return
			default:
			}
			if _, err := admin.GiveBack(t.Context()); err != nil {
				t.Error(err)
				return
			}
			if _, _, err := admin.Promote(t.Context(), 100); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	workers.Wait()
	close(finished)
	<-swept
	for table, want := range map[string]int{"archive": total, "messages": 0, "delayed": 0, "claims": 0} {
		if n := tableCount(t, s, table); n != want {
			t.Errorf("table %s has %d rows, want %d", table, n, want)
		}
	}
}

// churn works until the queue stays empty: most messages are done, the others
// come back in one of the ways there are.
func churn(t *testing.T, c store.Consumer, who *holders) error {
	ctx := t.Context()
	for {
		got, err := c.Dequeue(ctx, 1+rand.IntN(40), time.Minute)
		if err != nil {
			return err
		}
		if err := who.take(got); err != nil {
			return err
		}
		if len(got) == 0 {
			rest, err := c.(*consumer).s.Messages().Count(ctx, store.MessageFilter{})
			if err != nil || rest == 0 {
				return err
			}
			continue
		}
		rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		if errs, err := c.Started(ctx, got[0].Lease); err != nil || errs[0] != nil {
			return errors.Join(append(errs, err)...)
		}
		if errs, err := c.Extend(ctx, time.Minute, got[0].Lease); err != nil || errs[0] != nil {
			return errors.Join(append(errs, err)...)
		}
		// Two settles at once, of parts of the same claim.
		half := len(got) / 2
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, part := range [][]store.LeasedMessage{got[:half], got[half:]} {
			wg.Go(func() { errs[i] = settleSomehow(t, c, who, part) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
}

func settleSomehow(t *testing.T, c store.Consumer, who *holders, got []store.LeasedMessage) error {
	outcomes := make([]store.Outcome, len(got))
	for i, m := range got {
		o := store.Outcome{Lease: m.Lease, Kind: store.OutcomeDone}
		switch rand.IntN(20) {
		case 0:
			o.Kind, o.Error = store.OutcomeRetry, "again"
		case 1:
			o.Kind, o.Error, o.Delay = store.OutcomeRetry, "later", time.Millisecond
		case 2:
			o.Kind, o.Delay = store.OutcomeSnooze, time.Millisecond
		case 3:
			o.Kind = store.OutcomeRelease
		}
		outcomes[i] = o
		who.drop(m.Lease) // from the settle on another may have it
	}
	settled, err := c.Settle(t.Context(), outcomes)
	if err != nil {
		return err
	}
	for i := range settled {
		if settled[i].Err != nil {
			return fmt.Errorf("settle message %d as %s: %w", got[i].ID, outcomes[i].Kind, settled[i].Err)
		}
	}
	return nil
}

// Leases that run out under way: whoever comes late loses, and each message is
// archived once.
func TestLeasesThatRunOutAreSettledOnce(t *testing.T) {
	t.Parallel()
	const total = 400
	s, cfg := installed(t, "q", store.QueuePolicy{MaxAttempts: 1000})
	enqueue(t, s, "q", total)
	var mu sync.Mutex
	won := map[int64]int{}
	var workers sync.WaitGroup
	for i := range 3 {
		c := newConsumer(t, []*Store{s, openStore(t, cfg)}[i%2], "q")
		workers.Go(func() {
			for {
				got, err := c.Dequeue(t.Context(), 20, time.Millisecond)
				if err != nil {
					t.Error(err)
					return
				}
				if len(got) == 0 {
					if rest, err := s.Messages().Count(t.Context(), store.MessageFilter{}); err != nil || rest == 0 {
						return
					}
					continue
				}
				outcomes := make([]store.Outcome, len(got))
				for i, m := range got {
					outcomes[i] = store.Outcome{Lease: m.Lease, Kind: store.OutcomeDone}
				}
				settled, err := c.Settle(t.Context(), outcomes)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for i, r := range settled {
					if r.Err == nil {
						won[got[i].ID]++
					} else if !errors.Is(r.Err, store.ErrLeaseLost) {
						t.Error(r.Err)
					}
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if n := tableCount(t, s, "archive"); n != total || len(won) != total {
		t.Errorf("%d messages are archived and %d were settled, want %d", n, len(won), total)
	}
	for id, n := range won {
		if n != 1 {
			t.Errorf("message %d was settled %d times", id, n)
		}
	}
}

// While a snapshot is open nothing dead is cleaned away; claims go on, find
// what comes back, and the more urgent.
func TestOldSnapshot(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	c := newConsumer(t, s, "q")
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "set transaction isolation level repeatable read"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "set local idle_in_transaction_session_timeout = 0; select count(*) from "+s.schema+".messages"); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		enqueue(t, s, "q", 1000)
		for left := 1000; left > 0; {
			got, err := c.Dequeue(t.Context(), 200, time.Minute)
			if err != nil || len(got) == 0 {
				t.Fatalf("round %d: %d messages, %v, with %d left", round, len(got), err, left)
			}
			urgent := enqueue(t, s, "q", 1, func(m *store.NewMessage) { m.Priority = -1 })
			next, err := c.Dequeue(t.Context(), 1, time.Minute)
			if err != nil || len(next) != 1 || next[0].ID != urgent[0] {
				t.Fatalf("the urgent message %d did not come next: %+v, %v", urgent[0], next, err)
			}
			leases := []store.Lease{next[0].Lease}
			for _, m := range got {
				leases = append(leases, m.Lease)
			}
			if errs, err := c.Archive(t.Context(), leases...); errors.Join(append(errs, err)...) != nil {
				t.Fatal(errs, err)
			}
			left -= len(got)
		}
	}
}
