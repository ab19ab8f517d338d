package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pgqrs/pgqrsd/store"
)

// translate turns the driver's errors into the store's, with what to do about
// them. It is the only place that knows the driver's.
func translate(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || strings.Contains(err.Error(), "database is closed") {
		return fmt.Errorf("the store is closed: %w", store.ErrUnavailable)
	}
	e, found := errors.AsType[*driversqlite.Error](err)
	if !found {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("another process holds the database's write lock; try again: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("the disk is full; make room for the database: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_IOERR:
		return fmt.Errorf("the disk failed or is full; check it and its free space: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_READONLY:
		return fmt.Errorf("the database cannot be written; the file and its directory must belong to the user that runs this: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return fmt.Errorf("the database cannot be opened; check the permissions of the file and its directory: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT:
		return fmt.Errorf("%w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("the file is not a SQLite database; name another: %w: %w", err, store.ErrDSN)
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("the database file is damaged; restore it from a backup, or save what is left with sqlite3's .recover: %w: %w", err, store.ErrUnavailable)
	case sqlite3.SQLITE_TOOBIG:
		return store.Invalidf("the batch is too large for one statement; send smaller ones: %w", err)
	case sqlite3.SQLITE_ERROR:
		if strings.Contains(err.Error(), "no such table") {
			return errNotInstalled
		}
	}
	return err
}

// isBusy reports whether another connection held the lock.
func isBusy(err error) bool {
	e, found := errors.AsType[*driversqlite.Error](err)
	return found && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

var errNotInstalled = fmt.Errorf("the database has no tables of pgqrsd; run `pgqrsd install`: %w", store.ErrNotInstalled)

// timedOut tells the statement timeout from the caller's own deadline.
func timedOut(caller context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && caller.Err() == nil {
		return fmt.Errorf("the database is busy, and the statement timeout passed; try again: %w", store.ErrUnavailable)
	}
	return err
}
