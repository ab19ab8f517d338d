package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// TestNotice holds that a write through another handle, which to SQLite is
// another process, is noticed without a look at the database.
func TestNotice(t *testing.T) {
	d := openTest(t)
	mustConsume(t, d)
	n, err := watch(d.cfg.Path + "-wal")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this system gives no notices")
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), Config{Path: d.cfg.Path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := other.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-n.c:
	case <-ctx.Done():
		t.Error("nothing was noticed of a write")
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
	if _, err := watch(filepath.Join(t.TempDir(), "none", "file")); err == nil {
		t.Error("a file without a directory is watched")
	}
}

// TestLooks holds when a listener looks: soon and then ever more rarely after a
// notice, and rarely without one.
func TestLooks(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	count := func(own bool) (n int, first, last time.Duration) {
		l := &looks{rest: lookRarely}
		l.looked(start)
		if wait := l.next.Sub(start); wait != lookRarely {
			t.Fatalf("without a notice the next look is after %s, want %s", wait, lookRarely)
		}
		l.noticed(start, own)
		first = l.next.Sub(start)
		for ; l.next.Sub(start) <= lookFor; l.looked(l.next) {
			last = l.next.Sub(start)
			n++
			if n > 100 {
				t.Fatal("it looks without end")
			}
		}
		if wait := l.next.Sub(start) - last; wait != lookRarely {
			t.Errorf("after the last look the next is after %s, want %s", wait, lookRarely)
		}
		return n, first, last
	}
	n, first, last := count(false)
	if n < 8 || n > 14 || first != firstLook || last < lookFor/2 {
		t.Errorf("after another's write: %d looks from %s to %s", n, first, last)
	}
	n, first, last = count(true)
	if n != 2 || first != firstLookOwn || last < lookFor/3 {
		t.Errorf("after its own write: %d looks from %s to %s, want 2", n, first, last)
	}

	// Its own writes, however many, neither put off a look nor bring it nearer.
	l := &looks{rest: lookRarely}
	l.looked(start)
	l.noticed(start, false)
	next := l.next
	if l.noticed(start.Add(firstLook/2), true); l.next != next {
		t.Errorf("a notice of its own put the next look from %s to %s", next, l.next)
	}
}

// TestEveryTransactionHearsOfOthers holds that a process that writes hears of
// what another has written without looking.
func TestEveryTransactionHearsOfOthers(t *testing.T) {
	d := openTest(t)
	mustConsume(t, d)
	other, err := Open(t.Context(), Config{Path: d.cfg.Path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	var heard []string
	defer d.events.add(func(queue string) { heard = append(heard, queue) })()
	if _, err := other.Queues().Ensure(t.Context(), "theirs", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Workers().Heartbeat(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if len(heard) != 1 || heard[0] != "" {
		t.Errorf("heard %q, want one wake of any queue", heard)
	}
}
