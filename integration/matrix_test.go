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
)

// matrix kills one victim after the other, each at one place, and keeps the
// daemon running in between, as systemd would.
type matrix struct {
	*world
	work workload
	rng  *rand.Rand
	dir  string // what internal/failpoint looks into
	s    settings
	d    *process
	// times is how often the daemon was started again.
	times int
}

// workload is the runs that go on while somebody is killed.
type workload interface {
	eventually(what string, holds func() bool)
	// open waits until runs can be started.
	open()
	// load starts runs, also when the database is away for a moment.
	load() []int64
	// progress grows as they go on.
	progress() int
	// unfinishedRuns counts those that have not ended; -1 while the database is away.
	unfinishedRuns() int64
	// check checks runs that have ended, and all that was to come of them.
	check(what string, ids []int64)
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
		flowMatrix(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "pgqrs.db"), "")).kill("daemon", "handler")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		cluster := pgtest.Start(t)
		flowMatrix(t, newWorld(t, cluster.DSN(), "pgqrs")).kill("daemon", "handler", "postgres")
	})
}

// kill works through the places that the flows' runs pass.
func (m *matrix) kill(victims ...string) {
	m.t.Helper()
	m.killAt(nil, victims, "host-sends.jobs", "host-sent.replies", "host-got.calls", "host-took.results", "host-sends.drain",
		"handler-got.replies", "handler-took.jobs", "handler-sends.calls", "handler-sent.results")
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

// newMatrix makes w's daemons such that can be killed at a place. The handler
// is to have the variable FAILPOINTS with the directory too.
func newMatrix(w *world) *matrix {
	w.t.Helper()
	m := &matrix{world: w, dir: w.t.TempDir(), rng: rand.New(rand.NewPCG(matrixSeed(w.t), 4))}
	must(w.t, os.Mkdir(filepath.Join(m.dir, "seen"), 0o755))
	w.binary, w.environ = "failing-pgqrsd", []string{"FAILPOINTS=" + m.dir}
	return m
}

// killAt works through the matrix of the places that a run of everything
// passes, among which those of expected must be, and always those of every.
func (m *matrix) killAt(every []string, victims []string, expected ...string) {
	m.t.Helper()
	m.s.daemon = quickFleet // the worker of a daemon that died is soon given up
	m.d = m.start("first", m.s)
	m.work.open()
	m.work.load()
	m.finish("nothing", m.work.load(), true)
	points := m.seen()
	for _, must := range append(expected, every...) {
		if !slices.Contains(points, must) {
			m.t.Errorf("no run passes %s, but %v", must, points)
		}
	}
	var part, rest []fatality
	for _, point := range points {
		for _, victim := range victims {
			f := fatality{point, 1, victim}
			if isOften(point) {
				f.passes += m.rng.IntN(3)
			}
			if slices.Contains(every, point) {
				part = append(part, f)
			} else {
				rest = append(rest, f)
			}
		}
	}
	m.rng.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	m.rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	all := len(part) + len(rest)
	if os.Getenv("PGQRS_TEST_MATRIX") != "all" {
		rest = rest[:min(len(rest), max(16-len(part), 0))]
	}
	part = append(part, rest...)
	m.t.Logf("%d places, %d of %d kills, PGQRS_TEST_SEED=%d", len(points), len(part), all, matrixSeed(m.t))
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
	m.t.Logf("%d kills came about", fired)
	if 4*fired < 3*len(part) {
		m.t.Errorf("only %d of %d kills came about", fired, len(part))
	}
	m.keep()
	m.d.waitFor("READY=1") // one that only just began would die of the signal
	m.d.stop()
	m.noneLeased()
}

// isOften says that a place is passed more than once by each load, without a
// stop or a start of the daemon.
func isOften(point string) bool {
	_, what, _ := strings.Cut(point, ".")
	return slices.Contains([]string{"jobs", "started", "calls", "replies", "results", "dequeue", "load", "settle", "transaction", "step-tx"}, what)
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
	m.finish(fmt.Sprintf("%+v", f), m.work.load(), !isOften(f.point))
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
		m.work.eventually("a handler to be there", func() bool {
			m.keep()
			pids := m.d.children()
			if len(pids) > 0 {
				pid = pids[0]
			}
			return pid != 0
		})
		return pid
	}
	m.work.eventually("Postgres to say who its checkpointer is", func() bool {
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

// finish waits until the runs have ended, keeping the daemon up, and checks
// them. With again it is stopped as in a deploy in the middle.
func (m *matrix) finish(what string, ids []int64, again bool) {
	m.t.Helper()
	if again {
		until := m.work.progress() + 5
		m.work.eventually("the runs to go on, "+what, func() bool {
			m.keep()
			return m.work.progress() >= until || m.work.unfinishedRuns() == 0
		})
		_ = m.d.cmd.Process.Signal(syscall.SIGTERM) // it may have died
		m.work.eventually("the daemon to end, "+what, func() bool {
			select {
			case <-m.d.exited:
				return true
			default:
				return false
			}
		})
	}
	m.work.eventually("every run to end, "+what, func() bool {
		m.keep()
		return m.work.unfinishedRuns() == 0
	})
	m.work.check(what, ids)
}
