package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// sqlInstallLock makes installations take turns.
	sqlInstallLock = `
select pg_advisory_xact_lock($1, 0), set_config('statement_timeout', '0', true), set_config('client_min_messages', 'warning', true)`
	// sqlSchemaExists keeps Install from asking for a right that a role with a
	// ready-made schema may not have.
	sqlSchemaExists = `select exists (select from pg_namespace where nspname = $1)`
	sqlSchemaCreate = `create schema {{schema}}`
	sqlVersionTable = `
create table if not exists {{schema}}.schema_version (
    version      bigint primary key,
    installed_at timestamptz not null default now()
)`
	sqlVersion    = `select coalesce(max(version), 0) from {{schema}}.schema_version`
	sqlVersionAdd = `insert into {{schema}}.schema_version (version) values ($1)`
)

// Install creates the schema or brings it up to date.
//
// All of it is one transaction on one connection, which also holds the lock:
// a half-done installation leaves nothing, it works behind PgBouncer, and
// installers that wait for each other cannot use up a pool among them. That is
// why it is no library's.
func (s *Store) Install(ctx context.Context) error {
	const op = "install"
	err := s.Verify(ctx)
	switch version, _ := errors.AsType[*store.SchemaVersionError](err); {
	case err == nil:
		return nil // asks for no rights and no lock
	case version != nil && version.Have > version.Want, errors.Is(err, store.ErrUnavailable):
		return err
	}
	return s.fail(ctx, op, pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.migrate(ctx, tx) }))
}

func (s *Store) migrate(ctx context.Context, tx pgx.Tx) error {
	var exists bool
	b := s.batch()
	b.add(sqlInstallLock, s.claimLock)
	b.add(sqlSchemaExists, s.schemaName).QueryRow(func(r pgx.Row) error { return r.Scan(&exists) })
	if err := b.sendIn(ctx, tx); err != nil {
		return err
	}
	if !exists {
		if _, err := tx.Exec(ctx, s.sql(sqlSchemaCreate)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, s.sql(sqlVersionTable)); err != nil {
		return err
	}
	var have int64
	if err := tx.QueryRow(ctx, s.sql(sqlVersion)).Scan(&have); err != nil {
		return err
	}
	all, err := numbered()
	if err != nil {
		return err
	}
	if want := all[len(all)-1].version; have > want {
		return &store.SchemaVersionError{Schema: s.schemaName, Have: have, Want: want}
	}
	for _, m := range all {
		if m.version <= have {
			continue
		}
		// Without arguments a file of several statements is sent as it is.
		if _, err := tx.Exec(ctx, strings.ReplaceAll(expand(m.text, s.schema), "{{channel}}", s.channel)); err != nil {
			return fmt.Errorf("migration %d: %w", m.version, err)
		}
		if _, err := tx.Exec(ctx, s.sql(sqlVersionAdd), m.version); err != nil {
			return err
		}
	}
	return nil
}

// migration is one file of migrations/, named by its number.
type migration struct {
	version int64
	text    string
}

// numbered returns all migrations in order. A file without a number is an error
// that the first test finds.
func numbered() ([]migration, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version, string(text)})
	}
	slices.SortFunc(all, func(a, b migration) int { return int(a.version - b.version) })
	return all, nil
}

// Verify checks that the schema is there and of this binary's version.
func (s *Store) Verify(ctx context.Context) error {
	const op = "verify"
	have, err := s.installedVersion(ctx, op)
	if err != nil {
		return err
	}
	all, err := numbered()
	if err != nil {
		return err
	}
	if want := all[len(all)-1].version; have != want {
		return s.fail(ctx, op, &store.SchemaVersionError{Schema: s.schemaName, Have: have, Want: want})
	}
	return nil
}

func (s *Store) installedVersion(ctx context.Context, op string) (int64, error) {
	var v int64
	if err := s.row(ctx, op, sqlVersion, nil, &v); err != nil {
		return 0, err
	}
	if v == 0 {
		return 0, s.fail(ctx, op, s.notInstalled())
	}
	return v, nil
}
