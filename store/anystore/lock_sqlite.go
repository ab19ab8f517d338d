//go:build !nosqlite

package anystore

import (
	"strings"

	"github.com/pgqrs/pgqrsd/store/sqlite"
)

// LockForRun takes the lock that makes a daemon the only one on the database,
// where the backend has such a lock, and returns what gives it back. It does
// not wait, and creates no database.
func LockForRun(dsn string) (release func() error, err error) {
	if !strings.HasPrefix(dsn, sqlite.Scheme+":") {
		return func() error { return nil }, nil
	}
	path, err := sqlite.PathFromDSN(dsn)
	if err != nil {
		return nil, err
	}
	return sqlite.LockForRun(path)
}
