package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
)

// TestContendersMeasure lets every contender of this program work a few
// messages off, in its own process and on a real database.
func TestContendersMeasure(t *testing.T) {
	l := testLab(t)
	for _, c := range []struct {
		task
		want string
	}{
		{task{Kind: kindBare, DSN: l.dsn, Messages: 1500, Batch: 1000}, figJobs},
		{task{Kind: kindRiver, DSN: l.dsn, Messages: 1500}, figJobs},
		{task{Kind: kindRiverSQLite, File: filepath.Join(t.TempDir(), "river.db"), Messages: 200}, figJobs},
		{task{Kind: kindEnqueue, DSN: l.dsn, Messages: 1500}, figEnqueue},
		{task{Kind: kindRiverEnqueue, DSN: l.dsn, Messages: 1500}, figEnqueue},
		{task{Kind: kindRiverLatency, DSN: l.dsn, Messages: 5, Every: 20 * time.Millisecond}, figStartP50},
		{task{Kind: kindDBOS, DSN: l.dsn, Messages: 30}, figWorkflows},
		{task{Kind: kindDBOSAlone, DSN: l.dsn, Messages: 3, Steps: 20}, figStepP50},
		{task{Kind: kindDBOSQueue, DSN: l.dsn, Messages: 30, Steps: 2}, figSteps},
		{task{Kind: kindCommit, DSN: l.dsn, Messages: 50}, figCommitP50},
	} {
		t.Run(c.Kind, func(t *testing.T) {
			f, err := l.child(t.Context(), c.task)
			if err != nil {
				t.Fatal(err)
			}
			if !(f[c.want] > 0) {
				t.Errorf("the figures are %v", f)
			}
			nothingLeft(t, l)
		})
	}
}

func TestGraphileMeasures(t *testing.T) {
	l := testLab(t)
	// Node is optional on a machine that measures, and so is this row.
	if _, err := exec.LookPath("node"); err != nil || !graphileInstalled(l.graphile) {
		t.Skip("needs node, and npm ci in bench/graphile")
	}
	f, err := l.graphileDrain(t.Context(), 500)
	if err != nil {
		t.Fatal(err)
	}
	if !(f[figJobs] > 0) {
		t.Errorf("the figures are %v", f)
	}
	nothingLeft(t, l)
}

func TestGraphileIsSkippedWithoutNode(t *testing.T) {
	l := testLab(t)
	t.Setenv("PATH", t.TempDir())
	_, err := l.graphileDrain(t.Context(), 500)
	if skip, ok := errors.AsType[*skipError](err); !ok || skip.reason != "node is not installed" {
		t.Errorf("without node: %v", err)
	}
}

// TestCancelledContenderCleansUp holds that a contender that is cut short ends
// its process and leaves no schema.
func TestCancelledContenderCleansUp(t *testing.T) {
	l := testLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := l.child(ctx, task{Kind: kindRiverLatency, DSN: l.dsn, Messages: 1000, Every: 10 * time.Second})
	if err == nil {
		t.Error("it measured in no time")
	}
	nothingLeft(t, l)
}

func TestChildErrorsSayWhatFailed(t *testing.T) {
	l := testLab(t)
	_, err := l.child(t.Context(), task{Kind: kindBare, DSN: "postgres://bench:secret@127.0.0.1:1/none", Messages: 1, Batch: 1})
	if err == nil || !strings.Contains(err.Error(), kindBare) || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error is %v", err)
	}
}

// TestPgqrsdMeasures runs the whole program on the real binary at a small size.
func TestPgqrsdMeasures(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "pgqrsd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/pgqrsd")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pgqrsd: %v\n%s", err, out)
	}
	l := testLab(t)
	l.pgqrsd, l.rounds, l.scale = binary, 1, 0.005
	chosen, err := choose(experiments(l), []string{"drain-bare", "latency", "idle", "sqlite-river", "step"}, suiteTargets)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	for _, e := range chosen {
		r.add(e, e.run(t.Context(), l))
	}
	for _, v := range r.Rows {
		if v.Value == nil {
			t.Errorf("%s: %s: %s", v.Name, v.Status, v.Note)
		}
	}
	nothingLeft(t, l)
}

func testLab(t *testing.T) *lab {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	graphile, err := filepath.Abs("graphile")
	if err != nil {
		t.Fatal(err)
	}
	return &lab{dsn: pgtest.DSN(t), self: self, graphile: graphile, rounds: 1, scale: 1}
}

func nothingLeft(t *testing.T, l *lab) {
	t.Helper()
	n, err := count(t.Context(), l.dsn, `select count(*) from pg_namespace where nspname ~ '^(sidebyside|pgqrsd_bench)_'`)
	if err != nil || n != 0 {
		t.Errorf("%d schemas are left, %v", n, err)
	}
}
