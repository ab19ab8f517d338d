package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

func TestASuspendedConsumerLeasesNothing(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		consumer := f.worker(store.KindConsumer, "work").ID
		running := f.enqueue(order{Do: "wait", File: f.path("go")})[0]
		f.starts(running)

		f.transition(consumer, store.WorkerSuspended)
		f.eventually("the daemon has seen it", func() bool { return f.queueState("work") == store.WorkerSuspended })
		waiting := f.enqueue(order{})[0]
		// Another queue of the same daemon goes on, and what runs may finish.
		more, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "more", Payload: []byte(`{}`)}})
		if err != nil {
			t.Fatal(err)
		}
		f.becomes(more[0], store.Done)
		f.touch("go")
		f.becomes(running, store.Done)
		if m := f.get(waiting); m.State != store.Ready {
			t.Errorf("message %d is %s while its consumer is suspended", waiting, m.State)
		}

		f.transition(consumer, store.WorkerReady)
		f.becomes(waiting, store.Done)

		f.transition(consumer, store.WorkerSuspended)
		f.transition(consumer, store.WorkerStopped)
		f.eventually("the queue is served no more", func() bool { return f.queueState("work") == "" })
		f.enqueue(order{})
		f.becomes(f.insert("more", `{}`), store.Done)
		if f.count(store.Ready) != 1 || len(f.list(store.KindConsumer, "work")) != 1 {
			t.Error("a consumer that was shut down came back")
		}
	})
}

// insert puts one message on any queue.
func (f *fixture) insert(queue, payload string) int64 {
	f.Helper()
	ids, err := f.store.Messages().Insert(f.Context(), []store.NewMessage{{Queue: queue, Payload: []byte(payload)}})
	if err != nil {
		f.Fatal(err)
	}
	return ids[0]
}

// queueState is what the daemon thinks of its consumer; "" if it serves none.
func (f *fixture) queueState(name string) store.WorkerState {
	f.d.mu.Lock()
	q := f.d.queues[name]
	f.d.mu.Unlock()
	if q == nil {
		return ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state
}

func TestASuspendedProducerAnswers503(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		producer := f.worker(store.KindProducer, "").ID
		f.transition(producer, store.WorkerSuspended)
		f.posts(`{"messages":[{"payload":{}}]}`, http.StatusServiceUnavailable, "producer_suspended")
		f.transition(producer, store.WorkerReady)
		f.posts(`{"messages":[{"payload":{}}]}`, http.StatusCreated, "")
	})
}

func TestAProducerThatWasShutDownStaysDown(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		producer := f.worker(store.KindProducer, "").ID
		f.transition(producer, store.WorkerSuspended)
		f.transition(producer, store.WorkerStopped)
		f.eventually("the daemon has seen it", func() bool { return f.d.workers.state(producer) == store.WorkerStopped })
		if err := s.Workers().Delete(t.Context(), producer); err != nil {
			t.Fatal(err)
		}
		// A pulse that tells the one has told the other.
		f.transition(f.worker(store.KindConsumer, "work").ID, store.WorkerSuspended)
		f.eventually("the daemon has looked again", func() bool { return f.queueState("work") == store.WorkerSuspended })
		if all := f.list(store.KindProducer, ""); len(all) != 0 {
			t.Errorf("a producer that was shut down came back: %+v", all)
		}
	})
}

// A daemon that was stopped for so long that others took it for dead loses what
// it held, and serves on under new identities.
func TestATakenForDeadDaemonRegistersAnew(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		f := run(t, testConfig(t, s))
		id := f.enqueue(order{Do: "hang", File: f.path("go")})[0]
		f.starts(id)
		old := f.worker(store.KindConsumer, "work").ID

		other, err := s.Admin(t.Context(), store.WorkerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := other.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		f.eventually("all workers of the daemon are reclaimed", func() bool {
			if _, err := other.Reclaim(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			rec, err := s.Workers().Get(t.Context(), old)
			return err == nil && rec.State == store.WorkerStopped
		})
		f.eventually("a new consumer serves the queue", func() bool {
			all := f.list(store.KindConsumer, "work")
			return len(all) > 1 && all[len(all)-1].State == store.WorkerReady
		})
		// The attempt that was running counts, and its late result changes nothing.
		f.touch("go")
		if m := f.becomes(id, store.Done); m.Attempts != 1 || m.Worker == old {
			t.Errorf("attempts %d, finished by worker %d, the old one is %d", m.Attempts, m.Worker, old)
		}
		f.eventually("the lost lease is counted", func() bool {
			return f.metric("pgqrsd_leases_lost_total", "queue", "work") >= 1
		})
		f.posts(`{"messages":[{"payload":{}}]}`, http.StatusCreated, "")
	})
}

func TestReclaimWaitsForTheLiving(t *testing.T) {
	d, err := New(testConfig(t, openSQLite(t)))
	if err != nil {
		t.Fatal(err)
	}
	m := &maintenance{d: d}
	now := time.Now()
	timeout := d.cfg.WorkerTimeout
	beat := func(at time.Time) { d.beat.Store(at.UnixNano()) }
	up := func(at time.Time) { d.database.since = at }

	beat(now)
	up(now.Add(-2 * timeout))
	if !m.mayReclaim(now) {
		t.Error("a live daemon with a steady database may not reclaim")
	}
	up(now.Add(-timeout / 2))
	if m.mayReclaim(now) {
		t.Error("heartbeats are old because the database was away, and yet it may reclaim")
	}
	up(now.Add(-2 * timeout))
	beat(now.Add(-timeout))
	if m.mayReclaim(now) {
		t.Error("its own heartbeat is as old as the others', and yet it may reclaim")
	}
}

func TestTheDatabaseSaysItsGoingAndComingOnce(t *testing.T) {
	d, err := New(testConfig(t, openSQLite(t)))
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	d.database.changed = func() { changes++ }
	for range 3 {
		if err := d.database.note(store.ErrUnavailable); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("the error became %v", err)
		}
	}
	if !d.database.isDown() || changes != 1 {
		t.Errorf("down %v after %d changes", d.database.isDown(), changes)
	}
	for range 3 {
		if err := d.database.noteRead(nil); err != nil || !d.database.isDown() {
			t.Fatalf("a read, with error %v, is taken for the database's return", err)
		}
	}
	for range 3 {
		if err := d.database.note(nil); err != nil {
			t.Fatal(err)
		}
	}
	if d.database.isDown() || changes != 2 {
		t.Errorf("down %v after %d changes", d.database.isDown(), changes)
	}
}

// A lock is said once in a while, and says nothing of whether the database answers.
func TestLocksAreNoOutage(t *testing.T) {
	log := &words{}
	cfg := testConfig(t, openSQLite(t))
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.database.changed = func() {}
	locked := fmt.Errorf("pause run 1: %w", store.ErrLocked)
	for _, note := range []func(error) error{d.database.note, d.database.noteRead} {
		if err := note(locked); !errors.Is(err, store.ErrLocked) || !transient(err) || d.database.isDown() {
			t.Errorf("the error became %v; down %v", err, d.database.isDown())
		}
	}
	if !log.has("keeps rows of the database locked") {
		t.Error("nothing is said of it")
	}
	_ = d.database.note(store.ErrUnavailable)
	if _ = d.database.note(locked); !d.database.isDown() {
		t.Error("a lock is taken for the database's return")
	}
}
