package sqlite

import (
	"context"
	"database/sql"
	"errors"
)

// readers is how many connections read at once.
const readers = 4

// sqlSnapshot begins a reading transaction.
const sqlSnapshot = `BEGIN DEFERRED`

// reader is the connections that read. They see the last commit and wait for
// no writer.
type reader struct {
	db   *sql.DB
	idle chan *session // nil stands for one that is not open
}

func openReader(path string) (*reader, error) {
	db, err := pool(path, readers, "query_only(1)")
	if err != nil {
		return nil, err
	}
	r := &reader{db: db, idle: make(chan *session, readers)}
	for range readers {
		r.idle <- nil
	}
	return r, nil
}

// close waits for those who read. Whoever comes later finds the database closed.
func (r *reader) close() error {
	var errs []error
	for range readers {
		if s := <-r.idle; s != nil {
			errs = append(errs, s.close())
		}
	}
	errs = append(errs, r.db.Close())
	for range readers {
		r.idle <- nil
	}
	return errors.Join(errs...)
}

// view is a reading transaction: one snapshot of the database.
type view struct{ transaction }

// view runs fn on one snapshot of the database. Its error is translated.
func (d *database) view(ctx context.Context, fn func(view) error) error {
	limited, cancel := context.WithTimeout(ctx, d.cfg.StatementTimeout)
	defer cancel()
	var s *session
	select {
	case s = <-d.reader.idle:
	case <-limited.Done():
		return timedOut(ctx, limited.Err())
	}
	s, err := d.reader.snapshot(limited, s, fn)
	d.reader.idle <- s
	return timedOut(ctx, translate(err))
}

// snapshot runs fn in a transaction and returns the session to use next.
func (r *reader) snapshot(ctx context.Context, s *session, fn func(view) error) (*session, error) {
	if s == nil {
		var err error
		if s, err = openSession(ctx, r.db); err != nil {
			return nil, err
		}
	}
	if _, err := s.exec(ctx, sqlSnapshot); err != nil {
		// As the writer's begin: it may have begun for all that.
		_, _ = s.exec(context.WithoutCancel(ctx), sqlRollback)
		return s, err
	}
	err := fn(view{transaction{ctx, s}})
	if _, end := s.exec(context.WithoutCancel(ctx), sqlRollback); end != nil {
		s.discard()
		return nil, errors.Join(err, end)
	}
	return s, err
}

// readRow scans the only row of a query; sql.ErrNoRows when there is none.
func (d *database) readRow(ctx context.Context, query string, args []any, dest ...any) error {
	return d.view(ctx, func(v view) error { return v.row(query, args, dest...) })
}

// readRows calls scan for each row.
func (d *database) readRows(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	return d.view(ctx, func(v view) error { return v.rows(query, args, scan) })
}
