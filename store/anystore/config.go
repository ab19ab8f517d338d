// Package anystore opens a store by its DSN's scheme. Build tags nopostgres
// and nosqlite compile a backend out.
package anystore

import (
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// DefaultSchema is the PostgreSQL schema where none is configured.
const DefaultSchema = "pgqrs"

// Config opens a store. Zero fields take their defaults.
type Config struct {
	// DSN names the database: postgres://user:password@host/db or sqlite:path.
	DSN string
	// Schema is the PostgreSQL schema that holds the tables; default "pgqrs".
	// SQLite has none.
	Schema string
	// PoolSize is the most connections to PostgreSQL; default 10. SQLite
	// keeps one writer and a few readers.
	PoolSize int
	// ConnectTimeout limits one attempt to connect; default 5s.
	ConnectTimeout time.Duration
	// StatementTimeout limits one statement; default 30s.
	StatementTimeout time.Duration
	// PgBouncer makes the store work behind PgBouncer's transaction pooling: no
	// prepared statements are kept on the server and nothing is listened for.
	PgBouncer bool
	// MustExist says that a missing SQLite file is an error instead of
	// being created.
	MustExist bool
	// Clock replaces the database's clock in tests.
	Clock store.Clock
}
