package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"

	"github.com/riverqueue/river/riverdriver/riversqlite"
	driversqlite "modernc.org/sqlite" // the driver that River recommends
)

const riverSQLiteSettings = riverSettings + ", modernc.org/sqlite, WAL, synchronous=FULL by fdatasync as ours, one connection as River's documentation asks"

// riverSQLiteDrain works jobs off with River on a SQLite file. The driver
// flushes with fsync unless its process says otherwise. Ours does, and this one
// too, or the comparison would be one of system calls.
func riverSQLiteDrain(ctx context.Context, t task) (figures, error) {
	if _, err := driversqlite.Fdatasync(true); err != nil {
		return nil, fmt.Errorf("flush with fdatasync, as pgqrsd does: %w", err)
	}
	dsn := url.URL{Scheme: "file", Opaque: t.File, RawQuery: url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)"},
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t.File, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := durable(ctx, db); err != nil {
		return nil, fmt.Errorf("open %s: %w", t.File, err)
	}
	driver := riversqlite.New(db)
	if err := migrateRiver(ctx, driver, ""); err != nil {
		return nil, err
	}
	f, err := drainRiver(ctx, driver, "", t.Messages, func() error {
		_, err := db.ExecContext(ctx, "analyze; pragma wal_checkpoint(truncate)")
		return err
	})
	if err != nil {
		return nil, err
	}
	var n int
	err = db.QueryRowContext(ctx, "select count(*) from river_job where state = 'completed'").Scan(&n)
	if err != nil || n != t.Messages {
		return nil, fmt.Errorf("%d of %d jobs are completed in the table: %w", n, t.Messages, err)
	}
	return f, nil
}

// durable makes sure that the pragmas took, for the comparison rests on them.
func durable(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, "pragma journal_mode").Scan(&mode); err != nil {
		return err
	}
	var synchronous int
	if err := db.QueryRowContext(ctx, "pragma synchronous").Scan(&synchronous); err != nil {
		return err
	}
	const full = 2
	if mode != "wal" || synchronous != full {
		return fmt.Errorf("journal_mode is %s and synchronous is %d instead of wal and %d", mode, synchronous, full)
	}
	return nil
}
