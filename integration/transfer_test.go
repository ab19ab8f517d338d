package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// bank is a world of the example transfer, in a cluster of its own, for the
// bank's tables are always in the schema "transfer".
type bank struct {
	*world
	settings settings
	want     map[string]int64 // by "table account"
	booked   int              // transfers
}

const (
	accounts = 10
	capital  = 1_000_000 // of each current account
)

// newBank serves the bank's database to a handler, which gets env besides.
func newBank(t *testing.T, w *world, dsn string, env ...string) *bank {
	t.Helper()
	must(t, os.Remove(filepath.Join(w.dir, "plugins", "testhandler")))
	w.plugin("transfer", "transfer")
	b := &bank{world: w, want: make(map[string]int64)}
	b.settings.extra = fmt.Sprintf("[queues.transfer]\nconcurrency = 20\nmax_attempts = 1000\n"+
		"[queues.transfer.backoff]\ndelay = \"10ms\"\ncap = \"20ms\"\n[handlers.transfer.env]\nTRANSFER_DSN = %q\nTRANSFER_SCHEMA = %q\n", dsn, w.schema)
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		b.settings.extra += fmt.Sprintf("%s = %q\n", name, value)
	}
	return b
}

// start starts a daemon and waits until the workflow's queue is there, and with
// it the bank's tables.
func (b *bank) start(name string) *process {
	b.t.Helper()
	p := b.world.start(name, b.settings)
	b.queueThere("transfer")
	return p
}

// eventually waits until what holds, and otherwise says how the transfers are.
func (b *bank) eventually(what string, holds func() bool) {
	b.t.Helper()
	eventually(b.t, what, holds, b.openRuns)
}

// create starts a transfer. Postgres may be away for a moment.
func (b *bank) create(from, to string, cents int64) (id int64) {
	b.t.Helper()
	b.booked++
	run := store.NewRun{
		Workflow: "transfer", Key: fmt.Sprint("transfer ", b.booked),
		Input: fmt.Appendf(nil, `{"from":%q,"to":%q,"cents":%d}`, from, to, cents),
	}
	b.eventually("a transfer to be started", func() bool {
		var err error
		id, _, err = b.store.CreateWorkflow(b.t.Context(), run)
		return err == nil
	})
	return id
}

// fund gives the current accounts their capital.
func (b *bank) fund() {
	b.t.Helper()
	conn := b.connect()
	defer func() { _ = conn.Close(b.t.Context()) }()
	for i := range accounts {
		_, err := conn.Exec(b.t.Context(), "insert into transfer.current values ($1, $2)", fmt.Sprint(i), capital)
		must(b.t, err)
		b.want[fmt.Sprintf("current %d", i)] = capital
	}
}

// book starts a transfer of some cents to a savings account.
func (b *bank) book(rng *rand.Rand, to string) int64 {
	b.t.Helper()
	from, cents := fmt.Sprint(rng.IntN(accounts)), 1+rng.Int64N(100)
	b.want["current "+from] -= cents
	b.want["savings "+to] += cents
	return b.create(from, to, cents)
}

// allBooked checks that transfers have ended right, and all balances.
func (b *bank) allBooked(what string, ids []int64) {
	b.t.Helper()
	for _, id := range ids {
		if r := b.run(id); r.Status != store.RunSucceeded {
			b.t.Errorf("%s: transfer %d is %s: %v", what, id, r.Status, r.Errors)
		}
	}
	got := b.balances()
	for name, want := range b.want {
		if cents, there := got[name]; cents != want {
			b.t.Errorf("%s: %s has %d cents, want %d; it is there: %t", what, name, cents, want, there)
		}
	}
	if len(got) != len(b.want) {
		b.t.Errorf("%s: there are %d accounts, want %d", what, len(got), len(b.want))
	}
}

func (b *bank) unfinishedRuns() int64 { return b.unfinishedOf("transfer") }

// balances are those of the bank's tables.
func (b *bank) balances() (got map[string]int64) {
	b.t.Helper()
	b.eventually("the bank to answer", func() bool {
		var err error
		got, err = b.readBalances()
		return err == nil
	})
	return got
}

func (b *bank) readBalances() (map[string]int64, error) {
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(b.t.Context()) }()
	rows, err := conn.Query(b.t.Context(), `select 'current ' || account, cents from transfer.current
		union all select 'savings ' || account, cents from transfer.savings`)
	if err != nil {
		return nil, err
	}
	got := make(map[string]int64)
	var name string
	var cents int64
	_, err = pgx.ForEachRow(rows, []any{&name, &cents}, func() error {
		got[name] = cents
		return nil
	})
	return got, errors.Join(err, rows.Err())
}

func (b *bank) connect() *pgx.Conn {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.dsn)
	must(b.t, err)
	return conn
}

// Money moves between two tables while handlers, daemons and Postgres are
// killed at random moments: each transfer happens once, to the cent.
func TestTransfersThroughKills(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	w := newWorld(t, cluster.DSN(), "queues") // another schema than the one by default
	b := newBank(t, w, cluster.DSN())
	d := b.start("first")
	b.fund()
	rng := rand.New(rand.NewPCG(seed, 3))
	n := 5 * killRuns(t)
	var ids []int64
	for range n {
		ids = append(ids, b.book(rng, fmt.Sprint(rng.IntN(accounts))))
	}
	for kill := 0; b.unfinishedRuns() > int64(n/10); kill++ {
		until := b.unfinishedRuns() - 1 - rng.Int64N(int64(n/12))
		b.eventually("some transfers to end", func() bool { left := b.unfinishedRuns(); return left >= 0 && left <= until })
		switch rng.IntN(4) {
		case 0:
			d.kill()
			d = b.start(fmt.Sprint("after kill ", kill))
		case 1:
			cluster.StopImmediate()
			cluster.Start()
			b.eventually("the database to be back", func() bool { return b.unfinishedRuns() >= 0 })
		default:
			for _, pid := range d.children() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have died by itself
			}
		}
	}
	b.eventually("every transfer to end", func() bool { return b.unfinishedRuns() == 0 })
	d.stop()
	b.allBooked("at the end", ids)
}

// A step that fails leaves nothing of its transaction, and its failure is the
// step's.
func TestTransferThatFails(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	b := newBank(t, newWorld(t, cluster.DSN(), "pgqrs"), cluster.DSN())
	d := b.start("a")
	conn := b.connect()
	defer func() { _ = conn.Close(t.Context()) }()
	_, err := conn.Exec(t.Context(), "insert into transfer.current values ('poor', 5)")
	must(t, err)
	for input, want := range map[string]string{"poor": "current_cents_check", "nobody": `there is no current account "nobody"`} {
		id := b.create(input, "rich", 6)
		b.fails(id, want)
		steps := b.steps(id)
		if len(steps) != 1 || steps[0].State != store.StepFailed || !strings.Contains(steps[0].Error, want) {
			t.Errorf("the steps are %+v", steps)
		}
	}
	d.stop()
	if got := b.balances(); len(got) != 1 || got["current poor"] != 5 {
		t.Errorf("the balances are %v", got)
	}
}

// On SQLite there is no transaction to share: the run says so, and moves nothing.
func TestTransferWantsPostgres(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	b := newBank(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "pgqrs.db"), ""), cluster.DSN())
	d := b.start("a")
	b.fails(b.create("a", "b", 1), "wants a daemon that runs on PostgreSQL")
	d.stop()
}

// fails waits for a run's failure.
func (b *bank) fails(id int64, why string) {
	b.t.Helper()
	var r store.Run
	b.eventually(fmt.Sprintf("transfer %d to end", id), func() bool {
		r = b.run(id)
		return r.Status.Terminal()
	})
	if r.Status != store.RunFailed || !strings.Contains(fmt.Sprint(r.Errors), why) {
		b.t.Errorf("transfer %d is %s: %v, want a failure that says %q", id, r.Status, r.Errors, why)
	}
}
