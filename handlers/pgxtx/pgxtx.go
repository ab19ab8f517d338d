// Package pgxtx makes steps of workflows that happen exactly once: what a step
// writes to the application's tables and the record of the step are one
// transaction of PostgreSQL. It wants a daemon whose queues are in the same
// database.
package pgxtx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// DB begins transactions: a *pgxpool.Pool, or a *pgx.Conn if one step at a time
// uses it. Its role needs EXECUTE on complete_step, USAGE of its schema, and
// what complete_step does there: INSERT, SELECT and UPDATE on steps, SELECT and
// UPDATE on claims and messages, SELECT on runs.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// InSchema is db, with the daemon's tables in a schema of another name than
// "pgqrs".
func InSchema(db DB, schema string) DB { return inSchema{db, schema} }

type inSchema struct {
	DB
	schema string
}

// tries is how often a transaction is begun that the database rolled back to
// keep transactions apart.
const tries = 10

// StepTx does body as the step called name of a workflow, in a transaction that
// also records the step: after any crash both have happened, or neither, and
// body never commits twice. Everything that [handlers.Step] says of names,
// outputs, options and errors holds; when body returns an error the transaction
// is rolled back and the error is the step's.
//
// body must do its work in tx, and must not end it. It may run more than once:
// a transaction that failed to serialize or met a deadlock is begun again up to
// ten times at once. When the database is out of reach, or was lost during the commit, the
// attempt of the run fails, and the next one finds whether the step is
// recorded.
//
// Safe for concurrent use, as far as db is.
func StepTx[T any](ctx context.Context, db DB, name string, body func(ctx context.Context, tx pgx.Tx) (T, error), opts ...handlers.StepOption) (T, error) {
	schema := "pgqrs"
	if in, ok := db.(inSchema); ok {
		db, schema = in.DB, in.schema
	}
	complete := "select " + pgx.Identifier{schema, "complete_step"}.Sanitize() + "($1, $2, $3, $4, $5, $6, $7::text::json, $8)"
	return handlers.StepOutside[T](ctx, name, func(ctx context.Context, at handlers.Outside) (handlers.Recorded, error) {
		encoded := func(tx pgx.Tx) ([]byte, error) {
			out, err := body(ctx, tx)
			if err != nil {
				return nil, err
			}
			return handlers.EncodeOutput(out)
		}
		for n := 1; ; n++ {
			recorded, err := once(ctx, db, complete, at, encoded)
			if err == nil || !collided(err) {
				return recorded, err
			}
			err = fmt.Errorf("step %s: tried %d times: %w", at.Name, n, err)
			switch {
			case ctx.Err() != nil:
				return recorded, err
			case n == tries:
				return recorded, handlers.Unrecorded(err)
			}
		}
	}, opts...)
}

// place is what failpoint calls these transactions.
const place = "step-tx"

// once is one transaction. Up to its commit an error after the end of ctx is the
// step's own: its time is over, and nothing has happened.
func once(ctx context.Context, db DB, complete string, at handlers.Outside, body func(pgx.Tx) ([]byte, error)) (recorded handlers.Recorded, err error) {
	failed := func(what string, err error) (handlers.Recorded, error) {
		err = fmt.Errorf("step %s: %s its transaction: %w", at.Name, what, err)
		if ctx.Err() == nil {
			err = handlers.Unrecorded(err)
		}
		return recorded, err
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		return failed("begin", err)
	}
	// After a panic and a runtime.Goexit as well; after the commit it does nothing.
	defer rollback(ctx, tx)
	failpoint.At(failpoint.Begun, place)
	output, err := body(tx)
	switch {
	case err != nil && ctx.Err() == nil && lost(tx, err):
		return recorded, handlers.Unrecorded(err)
	case err != nil:
		return recorded, err
	}
	failpoint.At(failpoint.Wrote, place)
	var text *string // no output is null
	if len(output) > 0 {
		s := string(output)
		text = &s
	}
	var halt string
	row := tx.QueryRow(ctx, complete, at.Run, at.Worker, at.Claim, at.Name, at.Occurrence, at.Position, text, at.Version)
	if err := row.Scan(&halt); err != nil {
		return failed("record it in", err)
	}
	failpoint.At(failpoint.Commits, place)
	if err := tx.Commit(ctx); err != nil {
		return recorded, handlers.Unrecorded(fmt.Errorf("step %s: commit its transaction: %w", at.Name, err))
	}
	failpoint.At(failpoint.Committed, place)
	return handlers.Recorded{Output: output, Halt: halt}, nil
}

// rollback does not wait for ever for a database that is gone.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// collided says that the database rolled the transaction back for another's
// sake, and it may be done again (class 40 of SQLSTATE but 40003, whose end is unknown).
func collided(err error) bool {
	code := sqlstate(err)
	return code == "40001" || code == "40P01"
}

// lost says that an error is the connection's or the server's and not the body's:
// it is gone, full, shutting down, or a standby since a failover.
func lost(tx pgx.Tx, err error) bool {
	if conn := tx.Conn(); conn != nil && conn.IsClosed() {
		return true
	}
	switch code := sqlstate(err); code {
	case "57P01", "57P02", "57P03", "57P04", "25006":
		return true
	default:
		return len(code) == 5 && slices.Contains([]string{"08", "53", "58"}, code[:2])
	}
}

func sqlstate(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}
