package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test binary be the child processes too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) is %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("median changed its argument from %v to %v", before, c.values)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestQuantile(t *testing.T) {
	var values []float64
	for i := 200; i >= 1; i-- {
		values = append(values, float64(i))
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 100, 0.99: 198, 1: 200} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v of 1 to 200 is %v, want %v", q, got, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.994: "0.99", 12.34: "12.3", 123.4: "123", 1234567: "1,234,567", -39600: "-39,600", 999.6: "1000", math.NaN(): "-",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %q, want %q", v, got, want)
		}
	}
}

// steadyJSON is what `pgqrsd bench steady -o json` prints, but shorter.
const steadyJSON = `{"mode": "steady", "backend": "postgres", "server_version": "15.4", "cores": 2,
 "settings": {"rate": 2000, "duration_seconds": 30, "hold_snapshot": true},
 "messages": 59899, "seconds": 30.1, "jobs_per_second": 1990, "start_p99_ms": 6.5, "daemon_peak_memory_bytes": 40000000,
 "windows": [
  {"start_seconds": 0, "messages": 10000, "start_p99_ms": 4, "done_p99_ms": 10, "ready": 10},
  {"start_seconds": 5, "messages": 10000, "start_p99_ms": 6, "done_p99_ms": 10, "ready": 30},
  {"start_seconds": 10, "messages": 10000, "start_p99_ms": 100, "done_p99_ms": 100, "ready": 900},
  {"start_seconds": 15, "messages": 10000, "start_p99_ms": 100, "done_p99_ms": 100, "ready": 900},
  {"start_seconds": 20, "messages": 10000, "start_p99_ms": 7, "done_p99_ms": 30, "ready": 40},
  {"start_seconds": 25, "messages": 9700, "start_p99_ms": 8, "done_p99_ms": 30, "ready": 60}],
 "memory_samples": [{"messages_done": 1, "bytes": 20}, {"messages_done": 2, "bytes": 30},
  {"messages_done": 3, "bytes": 30}, {"messages_done": 4, "bytes": 24}]}`

func TestPgqrsdReport(t *testing.T) {
	r, err := parsePgqrsd([]byte(steadyJSON))
	if err != nil {
		t.Fatal(err)
	}
	got := r.derived()
	want := figures{
		figMessages: 59899, figJobs: 1990, figStartP99: 6.5, figPeakMemory: 40e6, "cores": 2,
		figStartP99Thirds: 1.5, figDoneP99Thirds: 3, figReadyFirst: 20, figReadyGrowth: 30,
		figKeptUp: 0.995, figMemoryGrowth: 1.2,
	}
	for name, want := range want {
		if v, ok := got[name]; !ok || math.Abs(v-want) > 1e-9 {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
}

func TestPgqrsdReportWithoutLists(t *testing.T) {
	r, err := parsePgqrsd([]byte(`{"mode": "idle", "statements_per_second": 0.5, "windows": [{"start_p99_ms": 1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.derived(); len(got) != 1 || got[figStatements] != 0.5 {
		t.Errorf("the figures are %v", got)
	}
	r, err = parsePgqrsd([]byte(`{"mode": "steady", "windows": [{}, {}, {}], "memory_samples": [{}, {}, {}, {}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(r.derived()); err != nil {
		t.Errorf("windows and samples of zero: %v", err)
	}
	for _, bad := range []string{"", "null", "[]", "{}", `{"mode": 1}`} {
		if _, err := parsePgqrsd([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestJudge(t *testing.T) {
	o := outcome{
		rounds: map[string][]figures{
			"a": {{figJobs: 90}, {figJobs: 30}, {figJobs: 60}},
			"b": {{figJobs: 30}, {figJobs: 10}, {figJobs: 20}},
		},
		failures: map[string][]string{"c": {"round 1: it\nbroke"}},
		skipped:  map[string]string{"d": "node is not installed"},
	}
	for _, c := range []struct {
		other        string
		goal         goal
		status, note string
		value        float64
	}{
		{"b", goal{atLeast, 3, 0}, pass, "", 3},
		{"b", goal{atLeast, 3.1, 0}, short, "", 3},
		{"b", goal{atMost, 3, 0}, pass, "", 3},
		{"b", goal{under, 3, 0}, short, "", 3},
		{"b", goal{}, informal, "", 3},
		{"c", goal{atLeast, 3, 0}, failed, "c: round 1: it broke", 0},
		{"d", goal{atLeast, 3, 0}, skipped, "d: node is not installed", 0},
		{"e", goal{atLeast, 3, 0}, failed, "e: not measured", 0},
	} {
		r := row{name: "r", goal: c.goal, needs: []string{"a", c.other}, value: ratio(figJobs, "a", c.other)}
		got := r.judge(o, o.medians())
		if got.Status != c.status || got.Note != c.note {
			t.Errorf("a / %s %v: %s %q, want %s %q", c.other, c.goal, got.Status, got.Note, c.status, c.note)
		}
		if measured := got.Value != nil; measured != (c.value != 0) || measured && *got.Value != c.value {
			t.Errorf("a / %s: %v, want %v", c.other, got.Value, c.value)
		}
	}
}

// fake is a contender that gives 1, 2, 3... and writes down its turns.
func fake(name string, turns *[]string, fail func(round int) error) contender {
	round := 0
	return contender{name, "settings of " + name, func(context.Context) (figures, error) {
		round++
		*turns = append(*turns, name)
		if err := fail(round); err != nil {
			return nil, err
		}
		return figures{figJobs: float64(round)}, nil
	}}
}

func never(int) error { return nil }

func TestContendersTakeTurns(t *testing.T) {
	var turns []string
	e := experiment{name: "e", contenders: []contender{
		fake("a", &turns, never),
		fake("b", &turns, func(round int) error {
			if round == 2 {
				return errors.New("broken")
			}
			return nil
		}),
		fake("c", &turns, func(int) error { return &skipError{"not here"} }),
	}}
	o := e.run(t.Context(), &lab{rounds: 3})
	if got := strings.Join(turns, " "); got != "a b c a b a b" {
		t.Errorf("the turns were %s", got)
	}
	m := o.medians()
	if m.of("a", figJobs) != 2 || m.of("b", figJobs) != 2 || len(o.rounds["b"]) != 2 {
		t.Errorf("the rounds were %v", o.rounds)
	}
	if f := o.failures["b"]; len(f) != 1 || f[0] != "round 2: broken" {
		t.Errorf("the failures are %v", o.failures)
	}
	if o.skipped["c"] != "not here" || len(o.failures) != 1 {
		t.Errorf("skipped is %v, failures %v", o.skipped, o.failures)
	}
}

func TestInterruptIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var turns []string
	e := experiment{contenders: []contender{
		fake("a", &turns, never),
		fake("b", &turns, func(int) error { cancel(); return errors.New("killed") }),
	}}
	o := e.run(ctx, &lab{rounds: 3})
	if strings.Join(turns, " ") != "a b" || len(o.rounds["a"]) != 1 || len(o.failures) > 0 {
		t.Errorf("turns %v, outcome %v", turns, o)
	}
}

// TestExperiments holds that each row is made of its own experiment's
// contenders, and that names are unique.
func TestExperiments(t *testing.T) {
	rows, names := map[string]bool{}, map[string]bool{}
	for _, e := range experiments(&lab{scale: 1, rounds: 1}) {
		if names[e.name] || e.suite != suiteTargets && e.suite != suiteLatency {
			t.Errorf("experiment %q of suite %q is there twice or in no suite", e.name, e.suite)
		}
		names[e.name] = true
		var contenders []string
		for _, c := range e.contenders {
			if slices.Contains(contenders, c.name) || c.settings == "" {
				t.Errorf("%s: contender %q is there twice or without settings", e.name, c.name)
			}
			contenders = append(contenders, c.name)
		}
		needed := map[string]bool{}
		for _, r := range e.rows {
			if rows[r.name] {
				t.Errorf("row %q is there twice", r.name)
			}
			rows[r.name] = true
			for _, c := range r.needs {
				needed[c] = true
				if !slices.Contains(contenders, c) {
					t.Errorf("row %s needs %q, which is not in %v", r.name, c, contenders)
				}
			}
		}
		if len(needed) != len(contenders) {
			t.Errorf("%s: of the contenders %v its rows need %v", e.name, contenders, needed)
		}
	}
}

func TestChoose(t *testing.T) {
	all := experiments(&lab{scale: 1, rounds: 1})
	describe := func(es []experiment) string {
		var parts []string
		for _, e := range es {
			var names []string
			for _, c := range e.contenders {
				names = append(names, c.name)
			}
			parts = append(parts, e.name+"("+strings.Join(names, " ")+")")
		}
		return strings.Join(parts, " ")
	}
	for only, want := range map[string]string{
		"drain-river":         "drain(pgqrsd river)",
		"idle-cpu,drain-bare": "drain(pgqrsd bare-1000 bare-2000) idle(pgqrsd)",
		"sqlite":              "sqlite(pgqrsd-sqlite river-sqlite)",
		"river-latency":       "river-latency(pgqrsd-idle river-idle pgqrsd-every-20ms river-every-20ms)",
	} {
		got, err := choose(all, strings.Split(only, ","), suiteTargets)
		if err != nil || describe(got) != want {
			t.Errorf("-only %s: %s, %v; want %s", only, describe(got), err, want)
		}
	}
	targets, err := choose(all, nil, suiteTargets)
	if err != nil || len(targets) != len(all)-1 {
		t.Errorf("the targets are %s, %v", describe(targets), err)
	}
	if _, err := choose(all, []string{"drain", "drian"}, suiteTargets); err == nil || !strings.Contains(err.Error(), "drian") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-only", "drain, idle", "-rounds", "1", "-scale", "0.5", "-o", "json"})
	if err != nil || !slices.Equal(o.only, []string{"drain", "idle"}) || o.rounds != 1 || o.scale != 0.5 || o.output != outputJSON {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"-scale", "0"}, {"-scale", "NaN"}, {"-o", "xml"}, {"drain"}} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestReport(t *testing.T) {
	var turns []string
	e := experiment{
		name:       "race",
		contenders: []contender{fake("a", &turns, never), fake("b", &turns, func(int) error { return errors.New("no luck") })},
		rows: []row{
			{name: "fast", what: "how fast a is", unit: "ms", goal: goal{atLeast, 1, 3}, needs: []string{"a"}, value: figure("a", figJobs)},
			{name: "ratio", what: "a to b", goal: goal{atLeast, 1, 0}, needs: []string{"a", "b"}, value: ratio(figJobs, "a", "b")},
		},
	}
	r := report{Settings: settings{Cores: 2, Rounds: 3, Scale: 1}}
	r.add(e, e.run(t.Context(), &lab{rounds: 3}))
	if got := r.failed(); !slices.Equal(got, []string{"race/b", "ratio"}) {
		t.Errorf("failed: %v", got)
	}
	var table, encoded bytes.Buffer
	if err := errors.Join(r.write(&table, outputTable), r.write(&encoded, outputJSON)); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(table.String()), " ")
	for _, want := range []string{
		"a jobs_per_second 2.00 1.00 3.00 3", "b FAILED in round 2: no luck",
		"how fast a is 2.00 ms at least 1 ms 3 pass", "a to b - at least 1 failed: b: round 1: no luck",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not have %q:\n%s", want, table.String())
		}
	}
	var back report
	if err := json.Unmarshal(encoded.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 2 || *back.Rows[0].Value != 2 || back.Rows[1].Value != nil || len(back.Experiments[0].Contenders[0].Rounds) != 3 {
		t.Errorf("the JSON is %s", encoded.String())
	}
}
