package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The schemas of the contenders that do not make their own.
const (
	schemaBare     = "sidebyside_bare"
	schemaEnqueue  = "sidebyside_enqueue"
	schemaRiver    = "sidebyside_river"
	schemaGraphile = "sidebyside_graphile"
	schemaDBOS     = "sidebyside_dbos"
	schemaCommit   = "sidebyside_commit"
)

// connect opens a connection of the bench's own.
func connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return conn, nil
}

// onConnection runs fn on a connection of its own.
func onConnection(ctx context.Context, dsn string, fn func(*pgx.Conn) error) error {
	conn, err := connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return fn(conn)
}

// dropSchemas removes what contenders have left, so that no tables but a
// contender's own are there while it is measured.
func dropSchemas(ctx context.Context, dsn string) error {
	return onConnection(ctx, dsn, func(conn *pgx.Conn) error {
		for _, schema := range []string{schemaBare, schemaEnqueue, schemaRiver, schemaGraphile, schemaDBOS, schemaCommit} {
			if _, err := conn.Exec(ctx, "drop schema if exists "+schema+" cascade"); err != nil {
				return fmt.Errorf("drop schema %s: %w", schema, err)
			}
		}
		return nil
	})
}

// cleanly runs a contender that works in one of the schemas, and removes the
// schema however it ended.
func cleanly(ctx context.Context, dsn string, measure func() (figures, error)) (f figures, err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, dropSchemas(ctx, dsn))
	}()
	return measure()
}

// settleDown brings the tables of a schema to rest before the clock starts:
// vacuumed, analyzed, and nothing left to write but what is measured.
func settleDown(ctx context.Context, dsn, schema string) error {
	return onConnection(ctx, dsn, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = $1`, schema)
		if err != nil {
			return fmt.Errorf("list the tables of %s: %w", schema, err)
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("list the tables of %s: %w", schema, err)
		}
		for _, table := range tables {
			if _, err := conn.Exec(ctx, "vacuum (analyze) "+table); err != nil {
				return fmt.Errorf("vacuum %s: %w", table, err)
			}
		}
		if _, err := conn.Exec(ctx, "checkpoint"); err != nil {
			return fmt.Errorf("checkpoint, for which the user must be a superuser or have pg_checkpoint: %w", err)
		}
		return nil
	})
}

// count asks for one number, to check that a contender did its work.
func count(ctx context.Context, dsn, query string) (n int, err error) {
	err = onConnection(ctx, dsn, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count with %q: %w", query, err)
	}
	return n, nil
}
