package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// matrix kills one victim after the other, each at one place, and keeps the
// daemon running in between, as systemd would.
type matrix struct {
	*flows
	rng *rand.Rand
	dir string // what internal/failpoint looks into
	s   settings
	d   *process
	// How often the daemon was started again, and runs were created.
	times, created int
}

// fatality is one cell of the matrix.
type fatality struct {
	point  string
	passes int
	victim string // daemon, handler or postgres
}

// Every run ends right, no recorded step's body runs again and no signal is
// lost when the daemon, the handler or Postgres dies by SIGKILL at each commit
// and each frame. By default a part of the places, chosen by PGQRS_TEST_SEED;
// all of them with PGQRS_TEST_MATRIX=all.
func TestKillMatrix(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		newMatrix(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "pgqrs.db"), "")).kill("daemon", "handler")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		cluster := pgtest.Start(t)
		newMatrix(t, newWorld(t, cluster.DSN(), "pgqrs")).kill("daemon", "handler", "postgres")
	})
}

// matrixSeed is PGQRS_TEST_SEED, or the one by default.
func matrixSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("PGQRS_TEST_SEED")
	if text == "" {
		return seed
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

func newMatrix(t *testing.T, w *world) *matrix {
	t.Helper()
	m := &matrix{flows: newFlows(t, w), dir: t.TempDir(), rng: rand.New(rand.NewPCG(matrixSeed(t), 4))}
	w.plugin("failing-testworkflow", "testworkflow")
	w.binary, w.environ = "failing-pgqrsd", []string{"FAILPOINTS=" + m.dir}
	must(t, os.Mkdir(filepath.Join(m.dir, "seen"), 0o755))
	m.s = m.settings("concurrency = 20\nmax_attempts = 1000", "FAILPOINTS="+m.dir)
	m.s.daemon = quickFleet // the worker of a daemon that died is soon given up
	return m
}

// kill works through the matrix of the places that a run of everything passes.
func (m *matrix) kill(victims ...string) {
	m.d = m.up("first", m.s)
	m.load()
	m.finish("nothing", m.load(), true)
	points := m.seen()
	for _, must := range []string{"host-sends.jobs", "host-sent.replies", "host-got.calls", "host-took.results", "host-sends.drain",
		"handler-got.replies", "handler-took.jobs", "handler-sends.calls", "handler-sent.results"} {
		if !slices.Contains(points, must) {
			m.t.Errorf("no run passes %s, but %v", must, points)
		}
	}
	var all []fatality
	for _, point := range points {
		for _, victim := range victims {
			passes := 1
			if isOften(point) {
				passes += m.rng.IntN(3)
			}
			all = append(all, fatality{point, passes, victim})
		}
	}
	m.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	part := all
	if os.Getenv("PGQRS_TEST_MATRIX") != "all" {
		part = all[:min(len(all), 16)]
	}
	m.t.Logf("%d places, %d of %d kills, PGQRS_TEST_SEED=%d", len(points), len(part), len(all), matrixSeed(m.t))
	fired := 0
	for _, f := range part {
		if m.one(f) {
			fired++
		} else {
			m.t.Logf("it did not come to %+v", f)
		}
		if m.t.Failed() {
			m.t.Fatalf("after %+v", f)
		}
	}
	if 4*fired < 3*len(part) {
		m.t.Errorf("only %d of %d kills came about", fired, len(part))
	}
	m.keep()
	m.d.stop()
	m.noneLeased()
}

// isOften says that a place is passed more than once by each load, without a
// stop or a start of the daemon.
func isOften(point string) bool {
	_, what, _ := strings.Cut(point, ".")
	return slices.Contains([]string{"jobs", "started", "calls", "replies", "results", "dequeue", "load", "settle", "transaction"}, what)
}

// seen are the places that were passed.
func (m *matrix) seen() []string {
	m.t.Helper()
	files, err := os.ReadDir(filepath.Join(m.dir, "seen"))
	must(m.t, err)
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name()
	}
	return names
}

// one kills one victim at one place while runs go on, and says whether it came to that.
func (m *matrix) one(f fatality) bool {
	m.t.Helper()
	m.keep()
	order := fmt.Sprintf("%s %d %d", f.point, f.passes, m.pid(f.victim))
	tmp := filepath.Join(m.dir, "order")
	must(m.t, os.WriteFile(tmp, []byte(order), 0o600))
	must(m.t, os.Rename(tmp, filepath.Join(m.dir, "armed")))
	m.finish(fmt.Sprintf("%+v", f), m.load(), !isOften(f.point))
	must(m.t, errOr(os.Remove(filepath.Join(m.dir, "armed")), os.ErrNotExist))
	return os.Remove(filepath.Join(m.dir, "fired")) == nil
}

// errOr is err, unless it is one that is expected.
func errOr(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// pid finds a victim. Of Postgres it is the checkpointer: at its death all of
// Postgres crashes, and recovers.
func (m *matrix) pid(victim string) (pid int) {
	m.t.Helper()
	switch victim {
	case "daemon":
		return m.d.cmd.Process.Pid
	case "handler":
		m.eventually("a handler to be there", func() bool {
			m.keep()
			pids := m.d.children()
			if len(pids) > 0 {
				pid = pids[0]
			}
			return pid != 0
		})
		return pid
	}
	m.eventually("Postgres to say who its checkpointer is", func() bool {
		conn, err := pgx.Connect(m.t.Context(), m.dsn)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(context.WithoutCancel(m.t.Context())) }()
		return conn.QueryRow(m.t.Context(), `select pid from pg_stat_activity where backend_type = 'checkpointer'`).Scan(&pid) == nil
	})
	return pid
}

// keep starts the daemon again if it has died.
func (m *matrix) keep() {
	select {
	case <-m.d.exited:
		m.times++
		m.d = m.spawn(fmt.Sprint("again ", m.times), m.s)
	default:
	}
}

// load starts runs of everything: steps, tries, sleeps, branches, children,
// events, and signals to those in the returned list that receive them.
func (m *matrix) load() (ids []int64) {
	m.t.Helper()
	create := func(ops ...op) int64 {
		var id int64
		m.created++
		// Postgres may be away for a moment.
		m.eventually("a run to be started", func() bool {
			made, err := m.tryCreate(fmt.Sprint("run ", m.created), ops...)
			id = made
			return err == nil
		})
		ids = append(ids, id)
		return id
	}
	for i := range 3 {
		receiver := create(step("a"), receive("go").with("ms", 600_000), step("b"))
		create(step("c"), op{"op": "send", "name": "go", "run": receiver, "payload": i}, step("d"))
		create(step("e").with("fail", 1).with("tries", 3), op{"op": "sleep", "name": "nap", "ms": 1 + m.rng.IntN(40)}, op{"op": "event", "name": "ev", "payload": i}, step("f"))
		create(op{"op": "child", "name": "kid", "ops": []op{step("k")}}, step("g"),
			op{"op": "branches", "name": "fork", "ops": []op{step("h"), step("i"), {"op": "sleep", "name": "j", "ms": 5}}}, step("l"))
	}
	return ids
}

// finish waits until the runs have ended, keeping the daemon up, and checks
// them. With again it is stopped as in a deploy in the middle.
func (m *matrix) finish(what string, ids []int64, again bool) {
	m.t.Helper()
	if again {
		until := len(m.lines()) + 5
		m.eventually("the runs to go on, "+what, func() bool {
			m.keep()
			return len(m.lines()) >= until || m.unfinishedRuns() == 0
		})
		_ = m.d.cmd.Process.Signal(syscall.SIGTERM) // it may have died
		m.eventually("the daemon to end, "+what, func() bool {
			select {
			case <-m.d.exited:
				return true
			default:
				return false
			}
		})
	}
	m.eventually("every run to end, "+what, func() bool {
		m.keep()
		return m.unfinishedRuns() == 0
	})
	for _, id := range ids {
		r := m.run(id)
		if r.Status != store.RunSucceeded {
			m.t.Errorf("%s: run %d is %s: %v", what, id, r.Status, r.Errors)
		}
	}
	for i := 0; i < len(ids); i += 4 { // the receivers
		if out := string(m.run(ids[i]).Output); !strings.Contains(out, fmt.Sprintf("%q", fmt.Sprint(i/4))) {
			m.t.Errorf("%s: run %d received something else than %d: %s", what, ids[i], i/4, out)
		}
	}
	m.noneRanAgain(ids...)
}
