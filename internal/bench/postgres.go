//go:build !nopostgres

package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

func addPostgres(all map[string]func(dsn string) (place, error)) {
	all["postgres"] = postgresPlace
	all["postgresql"] = postgresPlace
}

// postgresPlace is a schema of its own. The directory is for the daemon's sockets.
func postgresPlace(string) (place, error) {
	return place{
		parent: os.TempDir(),
		in:     func(_ string, cfg *anystore.Config) { cfg.Schema = schemaPrefix + unique() },
		open:   openPostgres,
	}, nil
}

const (
	schemaPrefix = "pgqrsd_bench_"
	// Taking the lock again is given up after holdTime, and tried again after holdPause.
	holdTime, holdPause = 5 * time.Second, 50 * time.Millisecond
	// schemaComment tells people, and later runs, what the schema is.
	schemaComment = "Scratch tables of pgqrsd bench. The next run removes them if this one died."
)

const (
	sqlTryLock = `select pg_try_advisory_xact_lock($1)`
	// sqlNoLimits keeps the server from ending a transaction that waits.
	sqlNoLimits = `select set_config(name, '0', true) from unnest(array[
    'idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout']) name
    where current_setting(name, true) is not null`
	sqlSchemas = `select nspname from pg_namespace where nspname ~ '^pgqrsd_bench_[0-9a-f]{16}$'
    and obj_description(oid, 'pg_namespace') = $1 and pg_has_role(nspowner, 'USAGE')`
	sqlTables = `select relname from pg_class where relnamespace = $1::text::regnamespace and relkind = 'r' order by relname`
	// sqlTransactions are the whole database's: the server counts no smaller unit.
	sqlTransactions = `select xact_commit + xact_rollback from pg_stat_database where datname = current_database()`
)

// postgresSchema is the scratch schema.
type postgresSchema struct {
	cfg    *pgx.ConnConfig
	name   string
	conn   *pgx.Conn
	holder *pgx.Conn // its transaction holds the schema's lock

	mu    sync.Mutex    // guards holder while keep runs
	ended chan struct{} // closed when the lock is to be let go
	held  chan struct{} // closed when keep has ended; nil before it began
}

func openPostgres(ctx context.Context, cfg anystore.Config) (db database, leftover, err error) {
	pool, err := pgxpool.ParseConfig(cfg.DSN) // knows the pool's parameters, which a connection does not
	if err != nil {
		return nil, nil, fmt.Errorf("%w: it names no PostgreSQL database", store.ErrDSN) // pgx's own text may hold the password
	}
	s := &postgresSchema{cfg: pool.ConnConfig, name: cfg.Schema, ended: make(chan struct{})}
	if cfg.ConnectTimeout > 0 {
		s.cfg.ConnectTimeout = cfg.ConnectTimeout
	}
	s.cfg.RuntimeParams["application_name"] = "pgqrsd bench"
	s.cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared
	// A signal must end a long vacuum at the server, or the schema cannot be dropped.
	s.cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
	}
	defer func() {
		switch {
		case err == nil:
		case s.holder == nil:
			s.close(ctx)
		default: // the schema may be there, if a signal came between
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
			defer cancel()
			err = errors.Join(err, s.remove(ctx))
		}
	}()
	if s.conn, err = s.connect(ctx); err != nil {
		return nil, nil, err
	}
	leftover = s.sweep(ctx)
	if s.holder, err = s.connect(ctx); err != nil {
		return nil, leftover, err
	}
	if err = s.take(ctx, s.holder); err != nil {
		return nil, leftover, err
	}
	s.held = make(chan struct{})
	go s.keep(context.WithoutCancel(ctx))
	if err = s.create(ctx); err != nil {
		return nil, leftover, err
	}
	return s, leftover, nil
}

func (s *postgresSchema) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, s.cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w: %w", store.ErrUnavailable, err)
	}
	return conn, nil
}

// take locks the schema's name until the transaction's end, which is the run's.
// The lock is a transaction's and not a session's because a connection pooler
// may give a session to somebody else. It is taken by the simple protocol: the
// other one leaves the last statement open in an idle transaction, and with it a
// snapshot, which would hold vacuum back.
func (s *postgresSchema) take(ctx context.Context, conn *pgx.Conn) error {
	sql := fmt.Sprintf("begin; %s; select pg_advisory_xact_lock(%d)", sqlNoLimits, lockKey(s.name))
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("lock the scratch schema: %w", err)
	}
	return nil
}

// keep takes the lock again when its connection was cut, before another run can
// take this one for dead. It ends when close cuts the connection. While the
// database is away nobody else can take the lock either.
func (s *postgresSchema) keep(ctx context.Context) {
	defer close(s.held)
	for {
		// Nobody sends any: it returns when the connection breaks.
		if _, err := s.holder.WaitForNotification(ctx); err == nil {
			continue
		}
		if !s.again(ctx) {
			return
		}
	}
}

// again makes a new connection hold the lock. It reports false when the run ends.
func (s *postgresSchema) again(ctx context.Context) bool {
	for {
		select {
		case <-s.ended:
			return false
		default:
		}
		call, cancel := context.WithTimeout(ctx, holdTime)
		conn, err := s.connect(call)
		if err == nil {
			if err = s.take(call, conn); err == nil {
				cancel()
				return s.holdBy(ctx, conn)
			}
			_ = conn.Close(call) // the next one is tried anew
		}
		cancel()
		select {
		case <-s.ended:
		case <-time.After(holdPause):
		}
	}
}

// holdBy has conn hold the lock, unless the run ends.
func (s *postgresSchema) holdBy(ctx context.Context, conn *pgx.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		_ = conn.Close(ctx)
		return false
	default:
		s.holder = conn
		return true
	}
}

func (s *postgresSchema) create(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "create schema "+s.quoted()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "comment on schema "+s.quoted()+" is '"+schemaComment+"'")
		return err
	})
	const insufficientPrivilege = "42501"
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == insufficientPrivilege {
		user := pgx.Identifier{s.cfg.User}.Sanitize()
		return fmt.Errorf("create a scratch schema in database %q: %w; it needs a right that the owner can give: grant create on database %s to %s",
			s.cfg.Database, err, pgx.Identifier{s.cfg.Database}.Sanitize(), user)
	}
	if err != nil {
		return fmt.Errorf("create the scratch schema: %w", err)
	}
	return nil
}

func (s *postgresSchema) quoted() string { return pgx.Identifier{s.name}.Sanitize() }

// lockKey is the number of a schema's advisory lock.
func lockKey(schema string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(schema)) // never fails
	return int64(h.Sum64())
}

// sweep drops the schemas whose lock nobody holds: their runs are dead.
func (s *postgresSchema) sweep(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, sqlSchemas, schemaComment)
	if err != nil {
		return fmt.Errorf("look for what dead runs left: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for what dead runs left: %w", err)
	}
	var errs []error
	for _, name := range names {
		if err := s.dropDead(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("drop schema %s of a dead run: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *postgresSchema) dropDead(ctx context.Context, name string) error {
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		var dead bool
		if err := tx.QueryRow(ctx, sqlTryLock, lockKey(name)).Scan(&dead); err != nil || !dead {
			return err
		}
		return drop(ctx, tx, name)
	})
}

func drop(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, name string) error {
	// A daemon that was not told of the end may be in a transaction.
	for _, sql := range []string{"set local statement_timeout = 0", "set local lock_timeout = '10s'", "set local client_min_messages = warning",
		"drop schema if exists " + pgx.Identifier{name}.Sanitize() + " cascade"} {
		if _, err := db.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func (s *postgresSchema) version(ctx context.Context) (version string, err error) {
	err = s.conn.QueryRow(ctx, "show server_version").Scan(&version)
	return version, err
}

// asking asks on the connection, and once more on a new one if that broke:
// between two questions it lies idle for as long as the run measures, and a
// restart of the server or a time-out may have cut it. It must do no harm to
// ask twice.
func (s *postgresSchema) asking(ctx context.Context, ask func() error) error {
	if !s.conn.IsClosed() {
		err := ask()
		if err == nil || !s.conn.IsClosed() || ctx.Err() != nil {
			return err
		}
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.conn = conn
	return ask()
}

// calm vacuums and analyzes the tables, and asks for a checkpoint, which the
// server allows to few.
func (s *postgresSchema) calm(ctx context.Context) error {
	return s.asking(ctx, func() error { return s.calmTables(ctx) })
}

func (s *postgresSchema) calmTables(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, sqlTables, s.quoted())
	if err != nil {
		return fmt.Errorf("list the scratch tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the scratch tables: %w", err)
	}
	for _, table := range tables {
		sql := "vacuum (analyze) " + pgx.Identifier{s.name, table}.Sanitize()
		if _, err := s.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	_, err = s.conn.Exec(ctx, "checkpoint")
	if _, refused := errors.AsType[*pgconn.PgError](err); err != nil && (!refused || ctx.Err() != nil) {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// clock compares the clocks by the quickest of a few questions.
func (s *postgresSchema) clock(ctx context.Context) (ahead time.Duration, err error) {
	quickest := time.Hour
	for range 5 {
		var there, asked time.Time
		err := s.asking(ctx, func() error {
			asked = time.Now()
			return s.conn.QueryRow(ctx, "select clock_timestamp()").Scan(&there)
		})
		if err != nil {
			return 0, fmt.Errorf("ask for the database's time: %w", err)
		}
		if took := time.Since(asked); took < quickest {
			quickest, ahead = took, there.Sub(asked.Add(took/2))
		}
	}
	return ahead, nil
}

func (s *postgresSchema) transactions(ctx context.Context) (n int64, err error) {
	err = s.asking(ctx, func() error { return s.conn.QueryRow(ctx, sqlTransactions).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count the database's transactions: %w", err)
	}
	return n, nil
}

// holdSnapshot opens a connection whose transaction sees the database as it is now.
func (s *postgresSchema) holdSnapshot(ctx context.Context) (func(context.Context) error, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{"begin isolation level repeatable read", sqlNoLimits, "select count(*) from pg_class"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, errors.Join(fmt.Errorf("hold a snapshot: %w", err), conn.Close(ctx))
		}
	}
	return conn.Close, nil
}

// remove drops the schema, on a new connection if a signal or the server broke
// the old one.
func (s *postgresSchema) remove(ctx context.Context) error {
	defer s.close(ctx)
	err := s.asking(ctx, func() error {
		return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error { return drop(ctx, tx, s.name) })
	})
	if err != nil {
		return fmt.Errorf("drop schema %s: %w", s.name, err)
	}
	return nil
}

// close lets go of the lock last.
func (s *postgresSchema) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if s.conn != nil {
		_ = s.conn.Close(ctx) // one that was cut cannot say goodbye, and is gone all the same
	}
	close(s.ended)
	if s.held != nil {
		// Cut, because keep reads from it; the server ends the transaction.
		s.mu.Lock()
		_ = s.holder.PgConn().Conn().Close()
		s.mu.Unlock()
		<-s.held
	}
	if s.holder != nil {
		_ = s.holder.Close(ctx)
	}
}
