package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgqrs/pgqrsd/store"
)

func mustConsume(t testing.TB, d *database) *consumer {
	t.Helper()
	if _, err := d.Queues().Ensure(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	c, err := d.Consumer(t.Context(), "q", store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c.(*consumer)
}

// mixed settles n leased messages, each in another way, with all that an
// outcome may carry.
func mixed(leased []store.LeasedMessage) []store.Outcome {
	kinds := []store.OutcomeKind{store.OutcomeDone, store.OutcomeRetry, store.OutcomeSnooze, store.OutcomeDiscard,
		store.OutcomeRelease, store.OutcomeDelete}
	outcomes := make([]store.Outcome, len(leased))
	for i, m := range leased {
		outcomes[i] = store.Outcome{Lease: m.Lease, Kind: kinds[i%len(kinds)], Error: "e", Delay: time.Duration(i%2) * time.Second,
			Output:  []byte(`{"n":1}`),
			Enqueue: []store.NewMessage{{Queue: "q", Payload: []byte(`2`)}, {Queue: "q", Payload: []byte(`3`), Delay: time.Minute}},
			Steps:   []store.StepResult{{StepKey: store.StepKey{Name: "s"}, Output: []byte(`1`)}}}
		if outcomes[i].Kind == store.OutcomeRelease || outcomes[i].Kind == store.OutcomeDiscard {
			outcomes[i].Delay = 0
		}
	}
	return outcomes
}

// TestRule8_StatementsAreConstant counts the statements of each batch
// operation for batches of 12 and of 300.
func TestRule8_StatementsAreConstant(t *testing.T) {
	count := func(size int) map[string]int {
		d := openTest(t)
		c := mustConsume(t, d)
		ctx := t.Context()
		counts := make(map[string]int)
		measure := func(name string, fn func() error) {
			t.Helper()
			before := d.writer.s.ran
			if err := fn(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			counts[name] = d.writer.s.ran - before
		}
		msgs := make([]store.NewMessage, size)
		for i := range msgs {
			msgs[i] = store.NewMessage{Queue: "q", Payload: []byte(`{"a":1}`)}
		}
		measure("enqueue", func() error { _, err := d.Messages().Insert(ctx, msgs); return err })
		var leased []store.LeasedMessage
		measure("dequeue", func() (err error) {
			leased, err = c.Dequeue(ctx, size, time.Minute)
			if err == nil && len(leased) != size {
				err = fmt.Errorf("leased %d messages, want %d", len(leased), size)
			}
			return err
		})
		leases := make([]store.Lease, len(leased))
		progress := make(map[store.Lease]store.Progress)
		for i, m := range leased {
			leases[i] = m.Lease
			progress[m.Lease] = store.Progress{Percent: 1}
		}
		measure("started", func() error { _, err := c.Started(ctx, leases...); return err })
		measure("extend", func() error { _, err := c.Extend(ctx, time.Minute, leases...); return err })
		measure("progress", func() error { return c.Progress(ctx, progress) })
		measure("settle", func() error {
			settled, err := c.Settle(ctx, mixed(leased))
			for _, s := range settled {
				if err == nil {
					err = s.Err
				}
			}
			return err
		})
		return counts
	}
	few, many := count(12), count(300)
	for name, n := range few {
		if many[name] != n {
			t.Errorf("%s takes %d statements for 12 messages and %d for 300", name, n, many[name])
		}
		t.Logf("%s: %d statements, begin and commit among them", name, n)
	}
}

// TestClaimsAreNotFlushedAndSettlesAre holds which commits wait for the disk.
func TestClaimsAreNotFlushedAndSettlesAre(t *testing.T) {
	d := openTest(t)
	c := mustConsume(t, d)
	ctx := t.Context()
	const normal, full = 1, 2
	mode := func(after string, want int) {
		t.Helper()
		var got int
		if err := d.writer.s.conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("after %s synchronous is %d, want %d", after, got, want)
		}
	}
	if _, err := d.Messages().Insert(ctx, []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}}); err != nil {
		t.Fatal(err)
	}
	mode("enqueue", full)
	leased, err := c.Dequeue(ctx, 1, time.Minute)
	if err != nil || len(leased) != 1 {
		t.Fatalf("dequeue: %v, %v", leased, err)
	}
	mode("dequeue", normal)
	if errs, err := c.Archive(ctx, leased[0].Lease); err != nil || errs[0] != nil {
		t.Fatalf("settle: %v, %v", errs, err)
	}
	mode("settle", full)
}

// TestOrderOfLeasing holds that a claim takes what is first, also when it came
// or came back later.
func TestOrderOfLeasing(t *testing.T) {
	d := openTest(t)
	c := mustConsume(t, d)
	ctx := t.Context()
	put := func(n, priority int) []int64 {
		t.Helper()
		msgs := make([]store.NewMessage, n)
		for i := range msgs {
			msgs[i] = store.NewMessage{Queue: "q", Payload: []byte(`1`), Priority: priority}
		}
		ids, err := d.Messages().Insert(ctx, msgs)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	take := func(want int64) store.LeasedMessage {
		t.Helper()
		got, err := c.Dequeue(ctx, 1, time.Minute)
		if err != nil || len(got) != 1 || got[0].ID != want {
			t.Fatalf("leased %+v, %v; want message %d", got, err, want)
		}
		return got[0]
	}
	ids := put(4, 0)
	first := take(ids[0])
	take(ids[1])
	urgent := put(1, -5)
	take(urgent[0])
	take(ids[2])
	if errs, err := c.Release(ctx, first.Lease); err != nil || errs[0] != nil {
		t.Fatalf("release: %v, %v", errs, err)
	}
	take(ids[0])

	// Another handle is another process, as far as SQLite can tell.
	other, err := Open(ctx, Config{Path: d.cfg.Path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	outside, err := other.Messages().Insert(ctx, []store.NewMessage{{Queue: "q", Payload: []byte(`1`), Priority: -9}})
	if err != nil {
		t.Fatal(err)
	}
	take(outside[0])
	take(ids[3])
}

// BenchmarkLook is what a listener does every lookEvery.
func BenchmarkLook(b *testing.B) {
	d := openTest(b)
	for b.Loop() {
		if err := d.lookOutside(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFullDisk holds that a full disk is told, changes nothing, and is over
// when there is room again.
func TestFullDisk(t *testing.T) {
	d := openTest(t)
	mustConsume(t, d)
	ctx := t.Context()
	limit := func(pages string) {
		t.Helper()
		if _, err := d.writer.s.conn.ExecContext(ctx, "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	msgs := make([]store.NewMessage, 1000)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: "q", Payload: []byte(`"` + strings.Repeat("x", 1000) + `"`)}
	}
	limit("40")
	_, err := d.Messages().Insert(ctx, msgs)
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("enqueue on a full disk: %v, want %v and the reason", err, store.ErrUnavailable)
	}
	if n, err := d.Messages().Count(ctx, store.MessageFilter{Queue: "q"}); err != nil || n != 0 {
		t.Errorf("%d messages, %v; want none of a batch that did not fit", n, err)
	}
	limit("1000000")
	if ids, err := d.Messages().Insert(ctx, msgs); err != nil || len(ids) != len(msgs) {
		t.Errorf("enqueue once there is room: %d ids, %v", len(ids), err)
	}
}

// TestClosed holds that a call after Close fails at once.
func TestClosed(t *testing.T) {
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "closed.db")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"read":  s.Ping(t.Context()),
		"write": func() error { _, err := s.Queues().Ensure(t.Context(), "q", store.QueuePolicy{}); return err }(),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want %v", name, err, store.ErrUnavailable)
		}
	}
}

// TestWritersTakeTurns writes from two handles as fast as they can, which to
// SQLite are two processes: neither is kept out.
func TestWritersTakeTurns(t *testing.T) {
	first := openTest(t)
	mustConsume(t, first)
	s, err := Open(t.Context(), Config{Path: first.cfg.Path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	put := func(d *database) error {
		_, err := d.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}})
		return err
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := put(first); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		if err := put(s.(*database)); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	busy.Wait()
}

// TestForeignLocksOfTheDirectory holds that whoever locks the directory for
// something else is not taken for a writer that waits.
func TestForeignLocksOfTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	g, other := openGate(path), openGate(path)
	t.Cleanup(func() { _, _ = g.close(), other.close() })
	lock := func(how int) {
		t.Helper()
		if err := unix.Flock(int(other.dir.Fd()), how); err != nil {
			t.Fatal(err)
		}
	}
	lock(unix.LOCK_EX)
	if g.othersWait() {
		t.Error("an exclusive lock is taken for a writer that waits")
	}
	lock(unix.LOCK_UN)
	other.wait()
	if !g.othersWait() {
		t.Error("a writer that waits is not seen")
	}
	var rests []time.Duration
	for range 9 {
		g.rest = time.Time{}
		g.standBack() // in vain
		rests = append(rests, g.vain)
	}
	if rests[0] != restLeast || rests[1] != 2*restLeast || rests[8] != restMost {
		t.Errorf("after standing back in vain it rests for %v", rests)
	}
	g.rest = time.Time{}
	other.pass()
	g.standBack()
	if g.othersWait() || !g.rest.IsZero() {
		t.Error("nobody waits, and it rests")
	}
}
