package daemon

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// What one message may cost between the queue and the archive. These are counts,
// the same on every machine but for how many messages a batch holds, for which
// there is room; docs/performance.md has what they are at full speed.
const (
	budgetStatements = 0.2 // to the server: it is some eight for each batch
	budgetWALBytes   = 750 // without full page images
	budgetRows       = 1.1 // inserted, and deleted: a message's one, and claims
	budgetUpdates    = 0.1 // of rows: renewals and heartbeats
	// Allocations in the daemon. SQLite's engine is in its process; there is room
	// for the race detector, with which a sync.Pool forgets some of what it keeps.
	budgetAllocs, budgetAllocsSQLite = 15, 60
)

const budgetMessages = 20_000

func TestBudgetOfAMessage(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		// A server of its own: its counters are the test's alone.
		server := pgtest.Start(t, pgtest.Fast(), pgtest.Setting("autovacuum", "off"))
		conn, err := pgx.Connect(t.Context(), server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		filler := openPostgres(t, server.DSN(), "pgqrs")
		fill(t, filler)
		// A connection's counters are all published when it has closed.
		if err := filler.Close(); err != nil {
			t.Fatal(err)
		}
		before := awaitUsage(t, conn, func(u usage) bool { return u.inserted >= budgetMessages })
		s := openPostgres(t, server.DSN(), "pgqrs")
		allocs := spend(t, s, "work", budgetMessages)
		sent := s.(store.StatementCounter).Statements()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		after := awaitUsage(t, conn, func(u usage) bool { return u.deleted >= budgetMessages })
		within(t, "statements", float64(sent), budgetMessages, budgetStatements)
		within(t, "bytes of WAL", float64(after.wal-before.wal), budgetMessages, budgetWALBytes)
		within(t, "rows inserted", float64(after.inserted-before.inserted), budgetMessages, budgetRows)
		within(t, "rows deleted", float64(after.deleted-before.deleted), budgetMessages, budgetRows)
		within(t, "rows updated", float64(after.updated-before.updated), budgetMessages, budgetUpdates)
		within(t, "allocations", float64(allocs), budgetMessages, budgetAllocs)
	})
	t.Run("sqlite", func(t *testing.T) {
		s := openSQLite(t)
		fill(t, s)
		within(t, "allocations", float64(spend(t, s, "work", budgetMessages)), budgetMessages, budgetAllocsSQLite)
	})
}

// within checks what n took together against the budget of one.
func within(t *testing.T, what string, total float64, n int, budget float64) {
	t.Helper()
	if each := total / float64(n); each > budget {
		t.Errorf("each takes %.2f %s, more than its budget of %g", each, what, budget)
	} else {
		t.Logf("each takes %.3f %s of its budget of %g", each, what, budget)
	}
}

// fill puts the messages on the queue.
func fill(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Ensure(t.Context(), "work", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	payload := fmt.Appendf(nil, `{"file":%q}`, strings.Repeat("x", 180))
	batch := slices.Repeat([]store.NewMessage{{Queue: "work", Payload: payload}}, 5000)
	for range budgetMessages / len(batch) {
		if _, err := s.Messages().Insert(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
}

// spend has a daemon work n messages of a queue off, and returns its allocations.
func spend(t *testing.T, s store.Store, queue string, n float64) uint64 {
	t.Helper()
	cfg := testConfig(t, s)
	cfg.Defaults = QueueConfig{}
	cfg.Registry = prometheus.NewRegistry() // without the process's own metrics, which are slow to gather
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, d: d, store: s}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	tick := time.NewTicker(50 * time.Millisecond) // looking allocates too
	defer tick.Stop()
	late := time.After(limit)
	for f.metric("pgqrsd_settled_total", "queue", queue, "outcome", "done") < n {
		select {
		case err := <-ended:
			t.Fatalf("the daemon ended: %v", err)
		case <-late:
			t.Fatalf("not done in %s", limit)
		case <-tick.C:
		}
	}
	runtime.ReadMemStats(&after)
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return after.Mallocs - before.Mallocs
}

// usage is what the server has counted.
type usage struct{ wal, inserted, updated, deleted int64 }

// awaitUsage reads the counters once the server has published enough.
func awaitUsage(t *testing.T, conn *pgx.Conn, enough func(usage) bool) usage {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for {
		var others int
		u := usage{}
		err := conn.QueryRow(t.Context(), `select (pg_current_wal_insert_lsn() - '0/0')::bigint,
			coalesce(sum(n_tup_ins), 0)::bigint, coalesce(sum(n_tup_upd), 0)::bigint, coalesce(sum(n_tup_del), 0)::bigint,
			(select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid())
			from pg_stat_user_tables where schemaname = 'pgqrs'`).Scan(&u.wal, &u.inserted, &u.updated, &u.deleted, &others)
		if err != nil {
			t.Fatal(err)
		}
		if others == 0 && enough(u) {
			return u
		}
		select {
		case <-late:
			t.Fatalf("in %s the server has counted %+v, and has %d other connections", limit, u, others)
		case <-tick.C:
		}
	}
}
