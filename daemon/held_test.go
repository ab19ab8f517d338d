package daemon

import (
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// An application's transaction that stays open holds up the result of the run
// that it concerns until it ends, and no other.
func TestAnOpenTransactionHoldsUpItsRunAlone(t *testing.T) {
	schema := pgtest.Schema(t)
	cfg := testConfig(t, openPostgres(t, pgtest.DSN(t), schema))
	log := &words{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	f := run(t, cfg)
	parent := f.begin(plan{Do: "child", Child: &plan{Do: "wait", File: f.path("go")}})
	f.reaches(parent, store.RunWaiting)

	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	f.exec(conn, `begin`)
	if _, err := conn.Exec(t.Context(), `select `+pgx.Identifier{schema}.Sanitize()+`.send_signal($1, 'unasked', 'null')`, parent); err != nil {
		t.Fatal(err)
	}
	f.touch("go")
	f.eventually("the child's result is held up", func() bool { return log.has("results wait for rows") })
	for range 3 {
		f.reaches(f.begin(plan{Do: "steps", N: 2}), store.RunSucceeded)
	}
	if n := f.metric("pgqrsd_unsettled", "queue", "flow"); n != 1 {
		t.Errorf("%v results are unsettled, want the child's", n)
	}
	f.exec(conn, `commit`)
	if r := f.reaches(parent, store.RunSucceeded); r.Attempts != 0 {
		t.Errorf("it cost the parent %d attempts", r.Attempts)
	}
	f.eventually("nothing is unsettled", func() bool { return f.metric("pgqrsd_unsettled", "queue", "flow") == 0 })
}
