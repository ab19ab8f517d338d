package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgqrs/pgqrsd/store"
)

// fail translates what the driver returned while op was attempted into the
// errors of package store. It is the only place that knows the driver's.
func (s *Store) fail(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, s.translate(ctx, err))
}

func (s *Store) translate(ctx context.Context, err error) error {
	// The caller gave up: that is not the database's fault.
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return store.ErrNotFound
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return s.translateServer(e)
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return s.unavailable(fmt.Errorf("cannot connect: %s", oneLine(errors.Unwrap(e))))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return s.unavailable(fmt.Errorf("no answer within %s", s.limit))
	}
	if s.closed.Load() {
		return s.unavailable(errors.New("the store is closed"))
	}
	if isConnection(err) {
		return s.unavailable(fmt.Errorf("connection lost: %s", oneLine(err)))
	}
	return err
}

// translateServer maps what the server said, by its SQLSTATE.
func (s *Store) translateServer(e *pgconn.PgError) error {
	said := fmt.Errorf("%s (SQLSTATE %s)", e.Message, e.Code)
	switch e.Code {
	case "28P01", "28000": // wrong password, no such role, pg_hba.conf: mended at the server, or in time
		return s.unavailable(said)
	case "3D000": // no such database
		return &connectError{s.target, said, []error{store.ErrDSN, store.ErrUnavailable}}
	case "3F000", "42P01", "42883": // no such schema, table or function
		return s.notInstalled()
	case "42501":
		return fmt.Errorf("the database role lacks a privilege: %w", said)
	case "23505":
		return fmt.Errorf("%s: %w", e.Message, store.ErrExists)
	case "54000": // over a limit
		return store.Invalidf("%s", e.Message)
	case "55P03":
		return &connectError{s.target, said, []error{store.ErrLocked}}
	case "25006": // read only: after a failover the connections may lead to what is a standby now
		s.pool.Reset()
		return s.unavailable(said)
	case "25P03", "25P04": // idle or transaction timeout
		return s.unavailable(said)
	}
	switch e.Code[:min(2, len(e.Code))] {
	// Bad data and broken constraints: the same call fails again. Only these
	// speak of what was written; any other error may pass.
	case "22", "23":
		return store.Invalidf("%s", e.Message)
	// Connection, resources, operator intervention (statement timeout,
	// shutdown, starting up, terminated), system errors, and what a rerun may
	// mend (deadlock).
	case "08", "53", "57", "58", "40":
		return s.unavailable(said)
	}
	return said
}

func (s *Store) notInstalled() error {
	return fmt.Errorf("schema %s of %s is %w; run `pgqrsd install`", s.schemaName, s.target, store.ErrNotInstalled)
}

func (s *Store) unavailable(cause error) error {
	return &connectError{s.target, cause, []error{store.ErrUnavailable}}
}

// connectError is a database that does not serve us: which one, and why.
type connectError struct {
	target string
	cause  error
	kinds  []error
}

func (e *connectError) Error() string {
	return fmt.Sprintf("%s: %s: %s", e.target, e.cause, e.kinds[0])
}

func (e *connectError) Unwrap() []error { return append([]error{e.cause}, e.kinds...) }

// oneLine is an error's text without line breaks: pgx lists the addresses it
// tried on lines of their own.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' }), "; ")
}

// isConnection reports whether the connection broke before the answer came.
func isConnection(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, broken := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}
