package daemon

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// What one step may cost, its share of a run of ten included. With 100 runs in
// flight a batch holds tens of steps.
const (
	budgetStepStatements = 0.3
	budgetStepWALBytes   = 500
	budgetStepRows       = 1.4 // inserted: its own, and a share of the run's
	budgetStepUpdates    = 0.1
	// Allocations in the daemon. SQLite's engine is in its process, and on a busy
	// machine its batches are small.
	budgetStepAllocs, budgetStepAllocsSQLite = 60, 100
)

const (
	budgetRuns = 1000
	stepsEach  = 10
)

func TestBudgetOfAStep(t *testing.T) {
	const steps = budgetRuns * stepsEach
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t, pgtest.Fast(), pgtest.Setting("autovacuum", "off"))
		conn, err := pgx.Connect(t.Context(), server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		filler := openPostgres(t, server.DSN(), "pgqrs")
		fillRuns(t, filler)
		if err := filler.Close(); err != nil {
			t.Fatal(err)
		}
		before := awaitUsage(t, conn, func(u usage) bool { return u.inserted >= budgetRuns })
		s := openPostgres(t, server.DSN(), "pgqrs")
		allocs := spend(t, s, "flow", budgetRuns)
		sent := s.(store.StatementCounter).Statements()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		after := awaitUsage(t, conn, func(u usage) bool { return u.inserted-before.inserted >= steps })
		within(t, "statements", float64(sent), steps, budgetStepStatements)
		within(t, "bytes of WAL", float64(after.wal-before.wal), steps, budgetStepWALBytes)
		within(t, "rows inserted", float64(after.inserted-before.inserted), steps, budgetStepRows)
		within(t, "rows updated", float64(after.updated-before.updated), steps, budgetStepUpdates)
		within(t, "allocations", float64(allocs), steps, budgetStepAllocs)
	})
	t.Run("sqlite", func(t *testing.T) {
		s := openSQLite(t)
		fillRuns(t, s)
		within(t, "allocations", float64(spend(t, s, "flow", budgetRuns)), steps, budgetStepAllocsSQLite)
	})
}

// fillRuns starts the runs.
func fillRuns(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Queues().Ensure(t.Context(), "flow", store.QueuePolicy{Kind: store.WorkflowQueue}); err != nil {
		t.Fatal(err)
	}
	runs := make([]store.NewMessage, budgetRuns)
	for i := range runs {
		runs[i] = store.NewMessage{Queue: "flow", Payload: []byte(`{"do":"steps","n":8}`)} // and two around them
	}
	if _, err := s.Messages().Insert(t.Context(), runs); err != nil {
		t.Fatal(err)
	}
}
