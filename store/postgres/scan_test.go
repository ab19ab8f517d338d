package postgres

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func leasedAt(places ...mark) []store.LeasedMessage {
	got := make([]store.LeasedMessage, len(places))
	for i, p := range places {
		got[i] = store.LeasedMessage{Lease: store.Lease{ID: p.id}, Priority: int(p.priority)}
	}
	return got
}

func TestScanMarksEachPriority(t *testing.T) {
	t.Parallel()
	var s scan
	if !s.full(false) {
		t.Error("a new scan does not start at the start")
	}
	s.claimed(true, 3, leasedAt(mark{-5, 9}, mark{0, 3}, mark{0, 7}))
	s.claimed(false, 2, leasedAt(mark{0, 8}, mark{3, 1}))
	want := []mark{{-5, 9}, {0, 8}, {3, 1}}
	if !slices.Equal(s.marks, want) {
		t.Fatalf("marks are %v, want %v", s.marks, want)
	}
	priorities, ids, below := s.ranges(false)
	if !slices.Equal(priorities, []int16{math.MinInt16, -5, 0, 3}) || !slices.Equal(ids, []int64{0, 9, 8, 1}) ||
		!slices.Equal(below, []int16{-5, 0, 3, noPriority}) {
		t.Errorf("ranges after %v %v before %v", priorities, ids, below)
	}
	// A full claim from the start may have left messages behind its last.
	s.claimed(true, 2, leasedAt(mark{-5, 4}, mark{0, 2}))
	if want = []mark{{-5, 9}, {0, 2}, {3, 1}}; !slices.Equal(s.marks, want) {
		t.Errorf("marks are %v, want %v", s.marks, want)
	}
	// One that was not filled left none.
	s.claimed(true, 10, leasedAt(mark{3, 5}, mark{3, 6}, mark{4, 1}))
	s.claimed(true, 10, leasedAt(mark{3, 2}))
	if want = []mark{{-5, 9}, {0, 2}, {3, 6}, {4, 1}}; !slices.Equal(s.marks, want) {
		t.Errorf("marks are %v, want %v", s.marks, want)
	}
	for p := range int16(maxMarks) {
		s.claimed(false, 1, leasedAt(mark{p, 1}))
	}
	if !s.full(false) {
		t.Errorf("%d marks are kept", len(s.marks))
	}
}

func TestScanLooksBelowInTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := scan{marks: []mark{{0, 1}}}
	s.looked(now, now, 10, 1)
	if !s.full(false) {
		t.Error("a cheap scan is not made again")
	}
	s.looked(now.Add(-time.Hour), now, dearBlocks-1, 0)
	if s.full(false) || !s.full(true) {
		t.Error("want a scan when messages came back, and not before its time")
	}
	if s.last = now.Add(-rescanMax); !s.full(false) {
		t.Error("no scan after the longest time without one")
	}
	s.looked(now.Add(-time.Hour), now, dearBlocks, 0)
	if s.last = now.Add(-rescanMax); s.full(true) || !s.due() {
		t.Error("a dear scan must be left to a probe, which is due")
	}
}

func TestFindsBeyondTheMarksAreLeftToTheRanges(t *testing.T) {
	t.Parallel()
	s := scan{marks: []mark{{0, 100}, {5, 100}}}
	s.take([]mark{{0, 50}, {0, 90}, {5, 100}, {7, 1}})
	s.move(mark{0, 60}, true)
	if got, want := s.candidates(), []int64{50, 100}; !slices.Equal(got, want) {
		t.Errorf("candidates are %v, want %v", got, want)
	}
	// More than a probe can find are claimed from where they begin.
	many := make([]mark, maxFound)
	for i := range many {
		many[i] = mark{0, int64(20 + i)}
	}
	many[maxFound-1] = mark{5, 7}
	s.take(many)
	if want := []mark{{0, 19}, {5, 6}}; !slices.Equal(s.marks, want) || len(s.candidates()) != 0 {
		t.Errorf("marks are %v, want %v; candidates are %v", s.marks, want, s.candidates())
	}
}

// A message that a probe found and a range reaches as well is leased once.
func TestNothingIsLeasedTwiceInOneClaim(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	ids := enqueue(t, s, "q", 10)
	c := newConsumer(t, s, "q").(*consumer)
	for _, id := range ids {
		c.scan.found = append(c.scan.found, mark{0, id})
	}
	c.scan.marks, c.scan.dear, c.scan.last = []mark{{0, ids[4]}}, true, time.Now()
	got, err := c.Dequeue(t.Context(), 20, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leased := make([]int64, len(got))
	for i := range got {
		leased[i] = got[i].ID
	}
	if !slices.Equal(leased, ids) {
		t.Errorf("leased are %v, want each of %v once", leased, ids)
	}
}

// While an old snapshot keeps dead rows, claims do not pass over them, and what
// comes back below the marks is found all the same.
func TestProbeFindsWhatCameBackBehindDeadRows(t *testing.T) {
	t.Parallel()
	const n = 4000
	s, _ := installed(t, "q", store.QueuePolicy{})
	delayed, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "q", Payload: []byte(`1`), Delay: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	large := []byte(`"` + strings.Repeat("x", 1500) + `"`) // five to a block
	enqueue(t, s, "q", n, func(m *store.NewMessage) { m.Payload = large })

	other, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	for _, sql := range []string{"begin isolation level repeatable read", "select count(*) from " + s.schema + ".messages"} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}

	c := newConsumer(t, s, "q").(*consumer)
	for left := n; left > 0; {
		got, err := c.Dequeue(t.Context(), 500, time.Hour)
		if err != nil || len(got) == 0 {
			t.Fatalf("%d are left, and %d come: %v", left, len(got), err)
		}
		if _, err := c.Archive(t.Context(), leasesOf(got)...); err != nil {
			t.Fatal(err)
		}
		left -= len(got)
	}
	c.scan.last = time.Time{} // it is time to look from the start
	if got, err := c.Dequeue(t.Context(), 500, time.Hour); err != nil || len(got) != 0 || !c.scan.dear {
		t.Fatalf("%d come, %v, and over %d dead rows the scan is dear: %t", len(got), err, n, c.scan.dear)
	}

	a, err := s.Admin(t.Context(), store.WorkerOptions{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	for moved := int64(0); moved == 0; {
		if moved, _, err = a.Promote(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	fresh := enqueue(t, s, "q", 1)
	var came []int64
	for range 2 {
		got, err := c.Dequeue(t.Context(), 500, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			came = append(came, got[i].ID)
		}
		s.background.wg.Wait() // for the probe that this claim asked for
	}
	slices.Sort(came)
	if !slices.Equal(came, []int64{delayed[0], fresh[0]}) {
		t.Fatalf("%v come; want message %d, which came back, and the new one %d", came, delayed[0], fresh[0])
	}
}

func leasesOf(got []store.LeasedMessage) []store.Lease {
	leases := make([]store.Lease, len(got))
	for i := range got {
		leases[i] = got[i].Lease
	}
	return leases
}
