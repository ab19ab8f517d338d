package daemon

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// refusing makes a table refuse new rows with this SQLSTATE while condition,
// which may use the number of the try as n, is true.
func (f *fixture) refusing(schema, table, code, condition string) *pgx.Conn {
	f.Helper()
	conn, err := pgx.Connect(f.Context(), pgtest.DSN(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close(f.Context()) })
	f.exec(conn, `set search_path to `+pgx.Identifier{schema}.Sanitize())
	f.exec(conn, `create sequence tries`)
	f.exec(conn, `create function refuse() returns trigger language plpgsql set search_path from current as $$
		declare n bigint := nextval('tries');
		begin
			if `+condition+` then raise 'as told' using errcode = '`+code+`'; end if;
			return new;
		end $$`)
	f.exec(conn, `create trigger refuse before insert on `+table+` for each row execute function refuse()`)
	return conn
}

func (f *fixture) exec(conn *pgx.Conn, sql string) {
	f.Helper()
	if _, err := conn.Exec(f.Context(), sql); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
}

// A database that answers with an error that is not the jobs' fault costs them nothing.
func TestARefusingDatabaseCostsNoAttempt(t *testing.T) {
	schema := pgtest.Schema(t)
	f := run(t, testConfig(t, openPostgres(t, pgtest.DSN(t), schema)))
	conn := f.refusing(schema, "archive", "P0001", "true")
	ids := f.enqueue(make([]order, 5)...)
	f.eventually("the results were refused several times", func() bool {
		var tries int
		if err := conn.QueryRow(t.Context(), `select last_value from tries`).Scan(&tries); err != nil {
			t.Fatal(err)
		}
		return tries >= 4
	})
	f.exec(conn, `drop trigger refuse on archive`)
	for _, id := range ids {
		if m := f.becomes(id, store.Done); m.Attempts != 0 || len(m.Errors) != 0 {
			t.Errorf("message %d: attempts %d, errors %+v", id, m.Attempts, m.Errors)
		}
	}
	if n := f.metric("pgqrsd_settled_total", "queue", "work", "outcome", "retry"); n != 0 {
		t.Errorf("%v attempts were recorded as failed", n)
	}
}

// A result that the database cannot hold is a failed attempt of its job alone.
func TestAResultAtFaultIsAFailedAttempt(t *testing.T) {
	schema := pgtest.Schema(t)
	f := run(t, testConfig(t, openPostgres(t, pgtest.DSN(t), schema)))
	f.refusing(schema, "archive", "22P02", "n = 1")
	if m := f.becomes(f.enqueue(order{})[0], store.Done); m.Attempts != 1 {
		t.Errorf("attempts %d, want 1", m.Attempts)
	}
	f.becomes(f.enqueue(order{})[0], store.Done)
}

// words keeps what is logged.
type words struct {
	mu   sync.Mutex
	said strings.Builder
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.Write(p)
}

func (w *words) has(s string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.said.String(), s)
}

// overheard is the configuration of a daemon on PostgreSQL, in a schema of its
// own, and the log that it writes.
func overheard(t *testing.T) (schema string, cfg Config, log *words) {
	t.Helper()
	schema, log = pgtest.Schema(t), &words{}
	cfg = testConfig(t, openPostgres(t, pgtest.DSN(t), schema))
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	return schema, cfg, log
}

// A policy that cannot be set after a reload is said, and tried again.
func TestAFailedReloadIsSaidAndTriedAgain(t *testing.T) {
	schema, cfg, log := overheard(t)
	f := run(t, cfg)
	conn := f.refusing(schema, "queues", "P0001", "new.name = 'fresh'")
	cfg.Queues = map[string]QueueConfig{"fresh": {}}
	if err := f.d.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	f.eventually("the log names the queue", func() bool { return log.has("set the policy of queue fresh") })
	f.exec(conn, `drop trigger refuse on queues`)
	f.eventually("the new queue is there", func() bool {
		_, err := f.store.Queues().Get(t.Context(), "fresh")
		return err == nil
	})
}
