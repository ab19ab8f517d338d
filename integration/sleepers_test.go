package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// sleepers is how many runs sleep: 2,000, or PGQRS_TEST_SLEEPERS; a hundredth
// of the figure wakes at one moment.
func sleepers(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PGQRS_TEST_SLEEPERS")
	if text == "" {
		return 2000
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// Many runs sleep, some of which are due at one moment: those carry on, and
// nobody else does. Run with -v it tells how late they were, and what the
// daemon did while all slept.
func TestManyRunsAsleep(t *testing.T) {
	t.Parallel()
	onFlows(t, func(t *testing.T, w *flows) {
		n := sleepers(t)
		wakers := n / 100
		d := w.up("a", w.settings("concurrency = 100"))
		w.insertRuns(n-wakers, op{"op": "sleep", "name": "long", "ms": 100 * 60 * 60 * 1000})
		w.asleep(n - wakers)
		due := time.Now().Add(8*time.Second + time.Duration(n)*100*time.Microsecond)
		w.insertRuns(wakers, op{"op": "sleep", "name": "short", "until": due.UnixMilli()})
		w.asleep(n)
		if time.Now().After(due) {
			t.Fatal("this machine took too long to put them to sleep")
		}
		before, beforeCPU, from := d.statements(), d.cpu(), time.Now()
		w.eventually("the moment", func() bool { return !time.Now().Before(due) })
		idle := time.Since(from).Seconds()
		t.Logf("%d asleep: %.2f statements/s, %.2f%% of a core for %.0f s",
			n, float64(d.statements()-before)/idle, 100*(d.cpu()-beforeCPU).Seconds()/idle, idle)
		w.eventually("those that are due to end", func() bool { return w.finishedRuns() == wakers })
		var late []time.Duration
		for _, l := range w.lines() {
			if at := time.UnixMicro(l.micro); l.kind == "run" && at.After(due) {
				late = append(late, at.Sub(due))
			}
		}
		slices.Sort(late)
		if len(late) != wakers {
			t.Fatalf("%d runs carried on, want %d", len(late), wakers)
		}
		t.Logf("%d due at one moment started after: p50 %s, p99 %s, all %s", wakers, late[wakers/2], late[wakers*99/100], late[wakers-1])
		d.stop()
		w.noneLeased()
	})
}

// insertRuns starts the same run n times, in few transactions.
func (w *flows) insertRuns(n int, ops ...op) {
	w.t.Helper()
	raw, err := json.Marshal(ops)
	must(w.t, err)
	for left := n; left > 0; left -= 1000 {
		msgs := make([]store.NewMessage, min(left, 1000))
		for i := range msgs {
			msgs[i] = store.NewMessage{Queue: "flow", Payload: raw}
		}
		_, err := w.store.Messages().Insert(w.t.Context(), msgs)
		must(w.t, err)
	}
}

// asleep waits until n runs wait.
func (w *flows) asleep(n int) {
	w.t.Helper()
	last := int64(-1)
	for { // as long as there is progress
		var now int64
		w.eventually(fmt.Sprintf("%d runs to sleep", n), func() bool {
			var err error
			now, err = w.store.Messages().Count(w.t.Context(), store.MessageFilter{Queue: "flow", State: store.Delayed})
			must(w.t, err)
			return now > last || int(now) == n
		})
		if last = now; int(now) == n {
			return
		}
	}
}

// finishedRuns counts the runs that have ended.
func (w *flows) finishedRuns() int {
	w.t.Helper()
	runs, err := w.store.Workflows().List(w.t.Context(), store.RunFilter{Status: store.RunSucceeded, Page: store.Page{Limit: 1000}})
	must(w.t, err)
	return len(runs)
}

// statements is how many statements the daemon has sent; 0 on SQLite.
func (p *process) statements() int {
	p.w.t.Helper()
	resp, err := http.Get(p.url("/metrics"))
	must(p.w.t, err)
	raw, err := io.ReadAll(resp.Body)
	must(p.w.t, errors.Join(err, resp.Body.Close()))
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "pgqrsd_store_statements_total "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			must(p.w.t, err)
			return int(n)
		}
	}
	return 0
}

// cpu is the processor time of the daemon, in ticks of 10 ms.
func (p *process) cpu() time.Duration {
	p.w.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	must(p.w.t, err)
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		must(p.w.t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
