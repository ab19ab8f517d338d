package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
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
	if errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux" {
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
	others := looksAfter(t, start, false)
	if n := len(others); n < 16 || n > 22 || others[0] != firstLook {
		t.Errorf("after another's write it looks at %v, want some 19 looks from %s on", others, firstLook)
	}
	// However long the commit takes, it is heard late by half of that at most.
	for i, at := range others {
		next := lookFor
		if i+1 < len(others) {
			next = others[i+1]
		}
		if late := next - at; late > at/2+firstLook {
			t.Errorf("after the look at %s the next is %s later", at, late)
		}
	}
	own := looksAfter(t, start, true)
	if len(own) != 3 || own[0] != firstLookOwn || own[2] < lookFor/5 {
		t.Errorf("after its own write it looks at %v, want 3 looks from %s on", own, firstLookOwn)
	}
}

// looksAfter returns when a listener at rest looks after a notice, until it
// rests again.
func looksAfter(t *testing.T, start time.Time, own bool) []time.Duration {
	t.Helper()
	l := newLooks(lookRarely)
	l.looked(start)
	if wait := l.next.Sub(start); wait != lookRarely {
		t.Fatalf("without a notice the next look is after %s, want %s", wait, lookRarely)
	}
	l.noticed(start, own)
	var at []time.Duration
	for ; l.next.Sub(start) <= lookFor; l.looked(l.next) {
		if at = append(at, l.next.Sub(start)); len(at) > 100 {
			t.Fatal("it looks without end")
		}
	}
	if wait := l.next.Sub(start) - at[len(at)-1]; wait != lookRarely {
		t.Errorf("after the last look the next is after %s, want %s", wait, lookRarely)
	}
	return at
}

// TestLooksAmongOthers holds that a notice is followed by its looks whatever
// the listener was about to do.
func TestLooksAmongOthers(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	before := newLooks(lookRarely) // has not looked yet
	before.noticed(start, false)
	if before.next.After(start) {
		t.Error("a notice puts off the first look")
	}
	resting := newLooks(lookRarely) // is about to
	resting.looked(start.Add(firstLook/2 - lookRarely))
	resting.noticed(start, false)
	own := newLooks(lookRarely) // is about to look after a commit of its own
	own.looked(start.Add(-time.Minute))
	own.noticed(start.Add(firstLook/2-firstLookOwn), true)
	own.noticed(start, false)
	for what, l := range map[string]*looks{"the first look": before, "a rare look": resting, "a look after its own": own} {
		if l.next.After(start.Add(firstLook / 2)) {
			t.Errorf("a notice before %s puts it off", what)
		}
		looked := start.Add(firstLook / 2)
		if l.looked(looked); l.next.Sub(looked) > 2*firstLook {
			t.Errorf("a notice just before %s is followed by none for %s", what, l.next.Sub(looked))
		}
	}

	// Several notices of one commit of its own are as one.
	several := newLooks(lookRarely)
	several.looked(start)
	several.noticed(start, true)
	if several.noticed(start.Add(sameCommit/2), false); several.next.Sub(start) != firstLookOwn {
		t.Errorf("after two notices of its own commit it looks after %s, want %s", several.next.Sub(start), firstLookOwn)
	}
	if several.noticed(start.Add(sameCommit), false); several.next.Sub(start) != sameCommit+firstLook {
		t.Errorf("after a commit of its own and one of another's it looks after %s", several.next.Sub(start))
	}

	// Its own writes, however many, neither put off a look nor bring it nearer.
	l := newLooks(lookRarely)
	l.looked(start)
	l.noticed(start, false)
	next := l.next
	if l.noticed(start.Add(firstLook/2), true); l.next != next {
		t.Errorf("a notice of its own put the next look from %s to %s", next, l.next)
	}
	if l.looked(next); l.next.Sub(next) > 2*firstLook {
		t.Errorf("after a notice of its own the next look but one is %s later", l.next.Sub(next))
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
