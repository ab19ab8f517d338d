package bench

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	values := make([]float64, 100)
	for i := range values {
		values[i] = float64(i + 1)
	}
	for p, want := range map[float64]float64{50: 50, 99: 99, 100: 100, 1: 1} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %g of 1 to 100 is %g, want %g", p, got, want)
		}
	}
	if got := percentile([]float64{7}, 99); got != 7 {
		t.Errorf("percentile 99 of one value is %g", got)
	}
	if got := percentile(nil, 50); got != 0 {
		t.Errorf("percentile 50 of nothing is %g", got)
	}
}

func TestLatencyFigures(t *testing.T) {
	from := time.Unix(1000, 0)
	at := func(s float64) int64 { return from.Add(time.Duration(s * float64(time.Second))).UnixNano() }
	lives := []life{ // not in the order of their commits
		{at(6), at(6.040), at(6.080)},
		{at(1), at(1.002), at(1.004)},
		{at(2), at(1.999), at(2.5)}, // began before the enqueue had returned
	}
	f := latencyFigures(lives, from, []int64{3, 9})
	if f.StartMaxMs != 40 || f.DoneMaxMs != 500 || f.StartP50Ms != 2 || f.DoneP50Ms != 80 {
		t.Errorf("figures are %+v", f)
	}
	if len(f.Windows) != 2 {
		t.Fatalf("windows are %+v", f.Windows)
	}
	first, second := f.Windows[0], f.Windows[1]
	if first.Messages != 2 || first.StartSeconds != 0 || first.Ready != 3 || first.StartP50Ms != 0 || first.StartP99Ms != 2 {
		t.Errorf("the first window is %+v", first)
	}
	if second.Messages != 1 || second.StartSeconds != 5 || second.Ready != 9 || second.DoneP50Ms != 80 {
		t.Errorf("the second window is %+v", second)
	}
}

func TestBetween(t *testing.T) {
	start := time.Unix(1000, 0)
	a := moment{at: start, done: 100, daemonCPU: time.Second, handlerCPU: 2 * time.Second}
	b := moment{at: start.Add(10 * time.Second), done: 200, daemonCPU: 3 * time.Second, handlerCPU: 2 * time.Second}
	got := between(a, b, 150)
	want := moment{at: start.Add(5 * time.Second), done: 150, daemonCPU: 2 * time.Second, handlerCPU: 2 * time.Second}
	if got != want {
		t.Errorf("half-way is %+v, want %+v", got, want)
	}
	if got := between(moment{}, b, 150); got.at != b.at || got.done != 150 {
		t.Errorf("the first look is %+v", got)
	}
	w := workBetween(a, b)
	if w.Messages != 100 || w.Seconds != 10 || w.JobsPerSecond != 10 || w.DaemonCPUPerJobUs != 20_000 || w.HandlerCPUPerJobUs != 0 {
		t.Errorf("work is %+v", w)
	}
}

// Nothing done is a figure too, and one that JSON can hold.
func TestNoWork(t *testing.T) {
	start := time.Unix(1000, 0)
	w := workBetween(moment{at: start, done: 7}, moment{at: start.Add(2 * time.Second), done: 7, daemonCPU: time.Second})
	if *w != (WorkFigures{Seconds: 2}) {
		t.Errorf("work is %+v", w)
	}
}

func TestCommittedBetween(t *testing.T) {
	from := time.Unix(1000, 0)
	end := from.Add(time.Second)
	at := func(id int64, t time.Time) sent { return sent{id: id, commit: t.UnixNano()} }
	got := committedBetween([]sent{at(1, from.Add(-1)), at(2, from), at(3, end.Add(-1)), at(4, end), at(5, end.Add(time.Minute))}, from, end)
	if len(got) != 2 || got[0].id != 2 || got[1].id != 3 {
		t.Errorf("in the measured time were %+v, want 2 and 3", got)
	}
}

func TestPause(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, test := range []struct {
		done, target int64
		want         time.Duration
	}{
		{100, 100_000, lookMost},
		{100, 104, 20 * time.Millisecond}, // 4 more at 100 a second take 40 ms
		{100, 101, lookLeast},
	} {
		got := pause(moment{at: start}, moment{at: start.Add(time.Second), done: test.done}, test.target)
		if got != test.want {
			t.Errorf("%d of %d: the pause is %s, want %s", test.done, test.target, got, test.want)
		}
	}
}

// Payloads have the length that was asked for, and are JSON that the handler knows.
func TestPayloads(t *testing.T) {
	for _, length := range []int{minPayload, 33, 40, 200, 5000} {
		p := newPayloads(length)
		for _, do := range []string{doNothing, doTell, doFail, doSleep, doSteps} {
			for _, n := range []int{0, 7, 123_456} {
				raw := p.payload(do, n)
				if !json.Valid(raw) {
					t.Errorf("%s is no JSON", raw)
				}
				if length >= 40 && len(raw) != length {
					t.Errorf("%s is %d bytes long, want %d", raw, len(raw), length)
				}
				got, much, err := asked(raw)
				if err != nil || got != do {
					t.Errorf("%s asks for %q, %v", raw, got, err)
				}
				if (do == doSleep || do == doSteps) && much != int64(n) {
					t.Errorf("%s asks for %d, want %d", raw, much, n)
				}
			}
		}
	}
	if _, _, err := asked([]byte(`{"to":"ada"}`)); err == nil {
		t.Error("a stranger's payload is taken for the bench's")
	}
}

func TestMetrics(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`# HELP pgqrsd_settled_total Attempts.
# TYPE pgqrsd_settled_total counter
pgqrsd_settled_total{outcome="done",queue="a"} 1.5e+06
pgqrsd_settled_total{outcome="done",queue="b"} 7
pgqrsd_settled_total{outcome="retry",queue="b"} 3
pgqrsd_store_statements_total 12
go_goroutines 5
`))
	}))
	defer srv.Close()
	s, err := newMetrics(strings.TrimPrefix(srv.URL, "http://")).sample(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.done(); got != 1_500_007 {
		t.Errorf("%d are done", got)
	}
	if n, ok := s.sum(metricStatements, ""); !ok || n != 12 {
		t.Errorf("%f statements, %t", n, ok)
	}
	if _, ok := s.sum(metricLost, ""); ok {
		t.Error("a metric that is not there was found")
	}
}

func TestProcFiguresOfThisProcess(t *testing.T) {
	pid := os.Getpid()
	now, err := memory(pid, memoryNow)
	if err != nil {
		t.Fatal(err)
	}
	peak, err := memory(pid, memoryPeak)
	if err != nil {
		t.Fatal(err)
	}
	if now <= 0 || peak < now {
		t.Errorf("memory is %d, at most %d", now, peak)
	}
	before, err := cpu(pid)
	if err != nil {
		t.Fatal(err)
	}
	x := 1.0
	for after := before; after < before+20*time.Millisecond; {
		for range 1_000_000 {
			x = math.Sqrt(x + 1)
		}
		if after, err = cpu(pid); err != nil {
			t.Fatal(err)
		}
	}
	if !alive(pid) || alive(math.MaxInt32) || x == 0 {
		t.Error("alive does not know who lives")
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d reads %s, want %s", n, got, want)
		}
	}
}

// Gaps are random, and as long as the rate wants on average.
func TestGaps(t *testing.T) {
	for rate, spread := range map[float64]float64{singleRate: 1, 2 * singleRate: 0.29} {
		o := DefaultOptions()
		o.Rate = rate
		g := (&run{Options: &o}).newGenerator()
		const n = 200_000
		sum, squares := 0.0, 0.0
		for range n {
			gap := g.gap()
			sum += gap
			squares += (gap - 1) * (gap - 1)
		}
		if mean := sum / n; math.Abs(mean-1) > 0.02 {
			t.Errorf("at %g/s the gaps are %g on average, want 1", rate, mean)
		}
		if deviation := math.Sqrt(squares / n); math.Abs(deviation-spread) > 0.05 {
			t.Errorf("at %g/s the gaps deviate by %g, want %g", rate, deviation, spread)
		}
	}
}
