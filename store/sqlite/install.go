package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/pgqrs/pgqrsd/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is where goose records the migrations that were applied.
const versionTable = "schema_versions"

const (
	sqlHasVersions   = `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_versions'`
	sqlSchemaVersion = `SELECT coalesce(max(version_id), 0) FROM schema_versions WHERE is_applied`
)

func (d *database) Install(ctx context.Context) error {
	if err := d.install(ctx); err != nil {
		return fmt.Errorf("install the schema in %s: %w", d.cfg.Path, err)
	}
	return nil
}

func (d *database) install(ctx context.Context) (err error) {
	// SQLite's own lock covers one migration at a time; the file's covers
	// looking at the version and all that follows from it.
	lock, err := waitForFile(ctx, d.cfg.Path+".install")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlockFile(lock)) }()

	have, err := d.schemaVersion(ctx)
	if err != nil {
		return err
	}
	db, err := pool(d.cfg.Path, 1, "synchronous(FULL)")
	if err != nil {
		return translate(err)
	}
	defer func() { err = errors.Join(err, translate(db.Close())) }()
	provider, want, err := migrator(db)
	if err != nil {
		return err
	}
	if have == want {
		return nil
	}
	if have > want {
		return &store.SchemaVersionError{Schema: d.cfg.Path, Have: have, Want: want}
	}
	if _, err := provider.Up(ctx); err != nil {
		return translate(err)
	}
	return nil
}

// migrator returns goose and the newest version that it knows.
func migrator(db *sql.DB) (*goose.Provider, int64, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, 0, err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, 0, err
	}
	sources := provider.ListSources()
	return provider, sources[len(sources)-1].Version, nil
}

// schemaVersion is 0 where nothing is installed.
func (d *database) schemaVersion(ctx context.Context) (version int64, err error) {
	err = d.view(ctx, func(v view) error {
		var tables int64
		if err := v.row(sqlHasVersions, nil, &tables); err != nil || tables == 0 {
			return err
		}
		return v.row(sqlSchemaVersion, nil, &version)
	})
	return version, err
}

func (d *database) Verify(ctx context.Context) error {
	have, err := d.schemaVersion(ctx)
	if err != nil {
		return fmt.Errorf("verify the schema in %s: %w", d.cfg.Path, err)
	}
	if have == 0 {
		return fmt.Errorf("verify the schema in %s: %w", d.cfg.Path, errNotInstalled)
	}
	_, want, err := migrator(d.reader.db)
	if err != nil {
		return fmt.Errorf("verify the schema in %s: %w", d.cfg.Path, err)
	}
	if have != want {
		return &store.SchemaVersionError{Schema: d.cfg.Path, Have: have, Want: want}
	}
	return nil
}
