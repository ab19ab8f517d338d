//go:build !nosqlite

package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pgqrs/pgqrsd/store/anystore"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

func addSQLite(all map[string]func(dsn string) (place, error)) { all[sqlite.Scheme] = sqlitePlace }

// sqlitePlace is the directory of the configured file, for it is its disk that
// matters, or the system's place for temporary files when there is none yet.
func sqlitePlace(dsn string) (place, error) {
	path, err := sqlite.PathFromDSN(dsn)
	if err != nil {
		return place{}, err
	}
	parent, exists := directoryOf(path)
	note := ""
	if !exists {
		note = fmt.Sprintf("the directory %s does not exist; measuring in %s instead", parent, os.TempDir())
		parent = os.TempDir()
	}
	return place{
		parent: parent, note: note,
		in: func(dir string, cfg *anystore.Config) {
			cfg.DSN, cfg.Schema = sqlite.Scheme+":"+filepath.Join(dir, "bench.db"), ""
		},
		open: openSQLite,
	}, nil
}

// sqliteFile is the scratch file. Removing the run's directory removes it.
type sqliteFile struct{ db *sql.DB }

func openSQLite(_ context.Context, cfg anystore.Config) (database, error, error) {
	path, err := sqlite.PathFromDSN(cfg.DSN)
	if err != nil {
		return nil, nil, err
	}
	// A bare path would end at a question mark in a directory's name.
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=rw")
	if err != nil {
		return nil, nil, fmt.Errorf("open the scratch file: %w", err)
	}
	return &sqliteFile{db}, nil, nil
}

func (f *sqliteFile) version(ctx context.Context) (version string, err error) {
	err = f.db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version)
	return version, err
}

// calm moves what was written from the log into the file, and syncs it.
func (f *sqliteFile) calm(ctx context.Context) error {
	var busy, log, moved int
	if err := f.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil {
		return fmt.Errorf("checkpoint the scratch file: %w", err)
	}
	return nil
}

func (*sqliteFile) clock(context.Context) (time.Duration, error) { return 0, nil }

func (*sqliteFile) transactions(context.Context) (int64, error) { return -1, nil }

func (*sqliteFile) holdSnapshot(context.Context) (func(context.Context) error, error) {
	return nil, errors.New("--hold-snapshot needs PostgreSQL")
}

func (f *sqliteFile) remove(context.Context) error { return f.db.Close() }
