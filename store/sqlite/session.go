package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net/url"
	"sync"

	driversqlite "modernc.org/sqlite"
)

// busyTimeout is how many milliseconds a statement waits for another process's
// lock. The writer's transactions wait otherwise (see writer.begin).
const busyTimeout = "5000"

// useFdatasync makes commits flush with fdatasync, as SQLite does on every
// Linux distribution: as durable as fsync, and up to twice as fast. The
// driver's switch is one for the whole process.
var useFdatasync = sync.OnceFunc(func() {
	// Where there is no fdatasync, fsync stays.
	_, _ = driversqlite.Fdatasync(true)
})

// pool opens the file for at most n connections, each set by the pragmas.
func pool(path string, n int, pragmas ...string) (*sql.DB, error) {
	useFdatasync()
	q := url.Values{"mode": {"rw"}, "_dqs": {"0"}}
	for _, p := range append(pragmas, "busy_timeout("+busyTimeout+")", "temp_store(MEMORY)") {
		q.Add("_pragma", p)
	}
	connector, err := driversqlite.NewConnector("file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// session is one connection with the statements prepared on it. One goroutine
// uses it at a time.
type session struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	// ran counts the statements that were run, so that a test can hold that
	// they do not grow with a batch.
	ran int
}

func openSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, stmts: make(map[string]*sql.Stmt)}, nil
}

func (s *session) close() error {
	var errs []error
	for _, stmt := range s.stmts {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, s.conn.Close())...)
}

// discard closes a connection whose state is unknown, instead of giving it
// back to the pool.
func (s *session) discard() {
	for _, stmt := range s.stmts {
		_ = stmt.Close()
	}
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.conn.Close()
}

// stmt prepares a statement once, for one run.
func (s *session) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	s.ran++
	if stmt := s.stmts[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.stmts[query] = stmt
	return stmt, nil
}

func (s *session) exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	stmt, err := s.stmt(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// transaction is what a reading and a writing one have in common.
type transaction struct {
	ctx context.Context
	s   *session
}

// row scans the only row of a query; sql.ErrNoRows when there is none.
func (t transaction) row(query string, args []any, dest ...any) error {
	stmt, err := t.s.stmt(t.ctx, query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(t.ctx, args...).Scan(dest...)
}

// rows calls scan for each row.
func (t transaction) rows(query string, args []any, scan func(*sql.Rows) error) error {
	stmt, err := t.s.stmt(t.ctx, query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(t.ctx, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// querier is a transaction of either kind.
type querier interface {
	row(query string, args []any, dest ...any) error
	rows(query string, args []any, scan func(*sql.Rows) error) error
}
