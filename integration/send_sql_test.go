package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgqrs/pgqrsd/store"
)

// sender is an application that sends signals by SQL, each in the transaction
// that notes in a table of its own that it did.
type sender struct {
	*flows
	admin *pgx.Conn
}

// An application that dies within its transaction has sent no signal, and one
// that committed has sent it, whether it lived to hear of that or not, and
// whether the run waited already. No run misses its signal or gets it twice.
func TestSignalsOfTransactionsThatDie(t *testing.T) {
	t.Parallel()
	w := newFlows(t, newPostgresWorld(t))
	s := &sender{w, w.connectTo(t.Context())}
	_, err := s.admin.Exec(t.Context(), s.inSchema("create table %s.noted (run bigint primary key)"))
	must(t, err)
	d := w.up("a", w.settings(""))
	rng := rand.New(rand.NewPCG(matrixSeed(t), 5))
	deaths := []func(tx pgx.Tx, id int64){s.quitBefore, s.quit, s.terminate}
	ids := make([]int64, 24)
	for i := range ids {
		id := w.createMany(1, step("a"), receive("go").with("ms", 600_000), step("b"))[0]
		ids[i] = id
		if i%2 == 0 {
			w.waitsFor(id, store.WaitSignal, "go")
		} // else it is on its way there
		for range 1 + rng.IntN(3) {
			s.begin(id, deaths[rng.IntN(len(deaths))])
		}
		if n := s.rows("noted", "run", id) + s.rows("signals", "run_id", id); n != 0 {
			t.Errorf("run %d has %d rows of transactions that died", id, n)
		}
		if i%4 < 2 {
			w.waitsFor(id, store.WaitSignal, "go") // still
		}
		if i%3 == 0 {
			s.begin(id, s.quitAtCommit)
		}
		if s.rows("noted", "run", id) == 1 {
			continue // it is told by its own table
		}
		s.begin(id, func(tx pgx.Tx, id int64) {
			s.send(tx, id)
			must(t, tx.Commit(t.Context()))
		})
	}
	for _, id := range ids {
		if out := w.output(id); out[1] != fmt.Sprint(id) {
			t.Errorf("run %d received something else than its signal: %v", id, out)
		}
		if noted, sent := s.rows("noted", "run", id), s.rows("signals", "run_id", id); noted != 1 || sent != 1 {
			t.Errorf("run %d was sent %d signals and noted %d times", id, sent, noted)
		}
	}
	d.stop()
}

func (w *world) connectTo(ctx context.Context) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(ctx, w.dsn)
	must(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
	return conn
}

// inSchema fills the schema's name in.
func (w *world) inSchema(sql string) string {
	return fmt.Sprintf(sql, pgx.Identifier{w.schema}.Sanitize())
}

// begin does its in a transaction of a connection of its own, and waits until the
// server is rid of that.
func (s *sender) begin(id int64, its func(tx pgx.Tx, id int64)) {
	s.t.Helper()
	conn := s.connectTo(s.t.Context())
	pid := conn.PgConn().PID()
	tx, err := conn.Begin(s.t.Context())
	must(s.t, err)
	_, err = tx.Exec(s.t.Context(), s.inSchema("insert into %s.noted values ($1) on conflict do nothing"), id)
	must(s.t, err)
	its(tx, id)
	_ = conn.Close(s.t.Context()) // it may be closed
	s.eventually("the application's connection to be gone", func() bool {
		var there bool
		must(s.t, s.admin.QueryRow(s.t.Context(), "select exists (select from pg_stat_activity where pid = $1)", pid).Scan(&there))
		return !there
	})
}

func (s *sender) send(tx pgx.Tx, id int64) {
	s.t.Helper()
	_, err := tx.Exec(s.t.Context(), s.inSchema("select %s.send_signal($1, 'go', $2::text::json, 'once')"), id, fmt.Sprint(id))
	must(s.t, err)
}

func (s *sender) rows(table, column string, id int64) (n int) {
	s.t.Helper()
	sql := s.inSchema("select count(*) from %s." + pgx.Identifier{table}.Sanitize() + " where " + pgx.Identifier{column}.Sanitize() + " = $1")
	must(s.t, s.admin.QueryRow(s.t.Context(), sql, id).Scan(&n))
	return n
}

// quit is the end of an application's process, after it has sent; quitBefore
// before that.
func (s *sender) quit(tx pgx.Tx, id int64) {
	s.t.Helper()
	s.send(tx, id)
	s.quitBefore(tx, id)
}

func (s *sender) quitBefore(tx pgx.Tx, _ int64) {
	s.t.Helper()
	must(s.t, tx.Conn().PgConn().Conn().Close())
}

// quitAtCommit has sent the commit off and does not hear of its end.
func (s *sender) quitAtCommit(tx pgx.Tx, id int64) {
	s.t.Helper()
	s.send(tx, id)
	commit, err := (&pgproto3.Query{String: "commit"}).Encode(nil)
	must(s.t, err)
	_, err = tx.Conn().PgConn().Conn().Write(commit)
	must(s.t, err)
	s.quitBefore(tx, id)
}

// terminate is the server's end of the application's connection.
func (s *sender) terminate(tx pgx.Tx, id int64) {
	s.t.Helper()
	s.send(tx, id)
	var gone bool
	must(s.t, s.admin.QueryRow(s.t.Context(), "select pg_terminate_backend($1, 60000)", tx.Conn().PgConn().PID()).Scan(&gone))
	if err := tx.Commit(s.t.Context()); err == nil || !gone {
		s.t.Errorf("a terminated transaction was committed: %v; its connection is gone: %t", err, gone)
	}
}
