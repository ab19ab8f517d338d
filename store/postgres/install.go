package postgres

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/pgqrs/pgqrsd/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

const versionTable = "schema_version"

const (
	// sqlInstallLock makes installations take turns. It is held by a
	// transaction beside goose's, not by a session, so that it also works
	// behind PgBouncer.
	sqlInstallLock = `select pg_advisory_xact_lock($1, 0), set_config('idle_in_transaction_session_timeout', '0', true),
	set_config('statement_timeout', '0', true)`
	// sqlSchemaExists keeps Install from asking for a right that a role with a
	// ready-made schema may not have.
	sqlSchemaExists = `select exists (select from pg_namespace where nspname = $1)`
	sqlTableExists  = `select exists (select from pg_tables where schemaname = $1 and tablename = $2)`
	sqlVersion      = `select coalesce(max(version_id), 0) from {{schema}}.schema_version`
)

// Install creates the schema or brings it up to date.
func (s *Store) Install(ctx context.Context) error {
	const op = "install"
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlInstallLock, s.claimLock); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, sqlSchemaExists, s.schemaName).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if _, err := s.pool.Exec(ctx, "create schema "+s.schema); err != nil {
				return err
			}
		}
		return s.migrate(ctx)
	})
	return s.fail(ctx, op, err)
}

func (s *Store) migrate(ctx context.Context) error {
	db := stdlib.OpenDBFromPool(s.pool)
	defer func() { _ = db.Close() }() // leaves the pool open
	p, err := s.provider(db)
	if err != nil {
		return err
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	if want := latest(p); have > want {
		return &store.SchemaVersionError{Schema: s.schemaName, Have: have, Want: want}
	}
	_, err = p.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		return partial.Err
	}
	return err
}

func (s *Store) provider(db *sql.DB) (*goose.Provider, error) {
	versions, err := database.NewStore(goose.DialectPostgres, s.schema+"."+versionTable)
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectCustom, db, schemaFS{files, s.schema},
		goose.WithStore(versionStore{versions, s.schemaName}), goose.WithDisableGlobalRegistry(true))
}

func latest(p *goose.Provider) int64 {
	var v int64
	for _, m := range p.ListSources() {
		v = max(v, m.Version)
	}
	return v
}

// schemaVersion is the version that this binary installs.
func schemaVersion() int64 {
	names, _ := fs.Glob(migrations, "migrations/*.sql") // the pattern is well formed
	var v int64
	for _, name := range names {
		if n, err := goose.NumericComponent(name); err == nil {
			v = max(v, n)
		}
	}
	return v
}

// Verify checks that the schema is there and of this binary's version.
func (s *Store) Verify(ctx context.Context) error {
	const op = "verify"
	have, err := s.installedVersion(ctx, op)
	if err != nil {
		return err
	}
	if want := schemaVersion(); have != want {
		return s.fail(ctx, op, &store.SchemaVersionError{Schema: s.schemaName, Have: have, Want: want})
	}
	return nil
}

func (s *Store) installedVersion(ctx context.Context, op string) (int64, error) {
	var v int64
	if err := s.row(ctx, op, sqlVersion, nil, &v); err != nil {
		return 0, err
	}
	if v == 0 { // an installation that failed before its first migration
		return 0, s.fail(ctx, op, s.notInstalled())
	}
	return v, nil
}

// versionStore finds goose's table in schemas whose name needs quotes.
type versionStore struct {
	database.Store
	schema string
}

func (v versionStore) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	var found bool
	err := db.QueryRowContext(ctx, sqlTableExists, v.schema, versionTable).Scan(&found)
	return found, err
}

// schemaFS fills in the schema's name as the migrations are read.
type schemaFS struct {
	fs.FS
	schema string
}

func (f schemaFS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		return file, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(f.FS, name)
	if err != nil {
		return nil, err
	}
	text = []byte(expand(string(text), f.schema))
	return &memFile{Reader: bytes.NewReader(text), name: info.Name(), size: int64(len(text))}, nil
}

// memFile is a file in memory that is its own fs.FileInfo.
type memFile struct {
	*bytes.Reader
	name string
	size int64
}

func (f *memFile) Stat() (fs.FileInfo, error) { return memInfo{f}, nil }
func (f *memFile) Close() error               { return nil }

type memInfo struct{ f *memFile }

func (i memInfo) Name() string       { return i.f.name }
func (i memInfo) Size() int64        { return i.f.size }
func (i memInfo) Mode() fs.FileMode  { return 0o444 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return nil }
