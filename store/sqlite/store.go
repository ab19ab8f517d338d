// Package sqlite keeps a [store.Store] in one SQLite file, through the pure Go
// driver modernc.org/sqlite.
//
// # Connections
//
// The file is in WAL mode. One connection writes, and takes its turn for each
// transaction; a few others read, and never wait for it. Every write is a
// BEGIN IMMEDIATE transaction, so that what it reads it may also rely on.
// Other processes may write beside this one (the command line does): a write
// waits for theirs, trying again every 20 ms, for as long as
// Config.StatementTimeout.
//
// # Flushing
//
// A commit is flushed to the disk (synchronous=FULL), unless losing it would
// change nothing that anyone was told: claims, lease renewals, heartbeats and
// progress commit with synchronous=NORMAL, which writes the WAL without
// flushing it. The next flushed commit flushes them as well, since the WAL is
// one file. A crash of the machine that loses such a claim makes the messages
// ready again, and the writes under it find their lease lost.
//
// # Layout
//
// A message's row in messages, with the payload, is written when it is enqueued
// and stays where it is until it is deleted. Where the message stands is a
// narrow row that moves: from ready (or delayed, until it is due) to leases to
// archive. A batch goes to the database as one blob and a table of numbers (see
// records), so that each operation is a constant number of statements and a
// payload's bytes are never touched.
//
// # Runs
//
// What a run of a workflow has beside its message is in runs, steps, signals and
// events; a run with a row in one of the others has one in runs, so that a look
// at that table tells whether a batch of messages is of jobs alone. A run that
// suspends itself stands in delayed, without limit at the largest time. What comes to it
// is counted in its news, and makes it ready in the same transaction; since there
// is one writer, nothing comes between its look at the news and its wait.
//
// # Statements
//
// Each connection keeps its statements prepared. SQLite may still plan one anew
// when a parameter changes: where it stands bare after LIMIT (hence LIMIT ?1 + 0
// everywhere), and where it is compared with = and turns from -1, 0 or 1 into
// another number (hence ids of queues and workers from 2 on).
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// DefaultStatementTimeout is Config.StatementTimeout where none is given.
const DefaultStatementTimeout = 30 * time.Second

// Scheme is what a DSN of this backend begins with, before the colon.
const Scheme = "sqlite"

// Config opens a store. Zero fields take their defaults.
type Config struct {
	// Path is the database file.
	Path string
	// MustExist says that a missing file is an error instead of being created.
	MustExist bool
	// StatementTimeout limits one reading statement, and how long a write waits
	// for its turn and for other processes; default DefaultStatementTimeout.
	StatementTimeout time.Duration
	// Clock replaces the clock of this machine, which is SQLite's, in tests.
	Clock store.Clock
}

// database is a store.Store.
type database struct {
	cfg    Config
	file   fs.FileInfo // of the file that was opened
	writer *writer
	reader *reader
	events *listeners
}

var _ store.Store = (*database)(nil)

// PathFromDSN returns the file that a DSN names: sqlite:path, with a relative
// or an absolute path, also as sqlite://path. Anything else is store.ErrDSN.
func PathFromDSN(dsn string) (string, error) {
	path, found := strings.CutPrefix(dsn, Scheme+":")
	if !found {
		return "", fmt.Errorf("%w: a SQLite DSN is %s:PATH", store.ErrDSN, Scheme)
	}
	path = strings.TrimPrefix(path, "//")
	switch {
	case path == "":
		return "", fmt.Errorf("%w: %q names no file; write %s:PATH", store.ErrDSN, dsn, Scheme)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("%w: %q: the path holds a NUL byte", store.ErrDSN, dsn)
	case strings.HasPrefix(path, ":memory:"):
		return "", fmt.Errorf("%w: %q: a database in memory would be lost with the process; name a file", store.ErrDSN, dsn)
	}
	return path, nil
}

// Open opens the database file, and creates it, readable by its owner alone,
// if it does not exist and MustExist is not set. It does not install the
// schema. Errors: store.ErrNotInstalled when MustExist is set and there is no
// such file, store.ErrDSN when the file is no SQLite database, store.ErrUnavailable
// when it cannot be opened.
func Open(ctx context.Context, cfg Config) (store.Store, error) {
	if cfg.Path == "" {
		return nil, fmt.Errorf("open a SQLite database: no path was given: %w", store.ErrDSN)
	}
	if cfg.StatementTimeout <= 0 {
		cfg.StatementTimeout = DefaultStatementTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	path, err := realPath(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	cfg.Path = path
	if err := prepareFile(cfg.Path, cfg.MustExist); err != nil {
		return nil, err
	}
	d := &database{cfg: cfg, events: newListeners()}
	if d.writer, err = openWriter(ctx, cfg.Path); err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, translate(err))
	}
	if d.reader, err = openReader(cfg.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", cfg.Path, translate(err)), d.writer.close())
	}
	if d.file, err = os.Stat(cfg.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w: %w", cfg.Path, err, store.ErrUnavailable), d.Close())
	}
	return d, nil
}

// prepareFile makes sure that there is a file to open. A file that exists is
// not opened here, not even for a moment: closing it would drop the locks that
// SQLite holds on it in this process.
func prepareFile(path string, mustExist bool) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("open %s: it is a directory, not a database file: %w", path, store.ErrDSN)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open %s: %w: %w", path, err, store.ErrUnavailable)
	case mustExist:
		return fmt.Errorf("there is no database file %s; `pgqrsd run` or `pgqrsd install` creates it: %w", path, store.ErrNotInstalled)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was quicker
	}
	if errors.Is(err, fs.ErrNotExist) {
		return noDirectory(path)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w: %w", path, err, store.ErrUnavailable)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create %s: %w: %w", path, err, store.ErrUnavailable)
	}
	return nil
}

// noDirectory says why a file could not be created.
func noDirectory(path string) error {
	return fmt.Errorf("%w: create %s: the directory %s does not exist; create it first", store.ErrUnavailable, path, filepath.Dir(path))
}

// now is the database's clock, in microseconds.
func (d *database) now() int64 { return d.cfg.Clock().UnixMicro() }

func (d *database) Queues() store.Queues       { return queues{d} }
func (d *database) Messages() store.Messages   { return messages{d} }
func (d *database) Workers() store.Workers     { return workers{d} }
func (d *database) Archive() store.Archive     { return archive{d} }
func (d *database) Workflows() store.Workflows { return workflows{d} }

func (d *database) BackendName() string                      { return store.BackendSQLite }
func (d *database) ConcurrencyModel() store.ConcurrencyModel { return store.SingleProcess }

const sqlPing = `SELECT count(*) FROM sqlite_schema`

func (d *database) Ping(ctx context.Context) error {
	if err := d.inPlace(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	// The schema's table is read from the file, so that a broken one shows.
	var n int64
	if err := d.readRow(ctx, sqlPing, nil, &n); err != nil {
		return fmt.Errorf("ping %s: %w", d.cfg.Path, err)
	}
	return nil
}

// inPlace checks that the path still names the file that was opened: what is
// written to a file that was deleted or replaced is lost with it.
func (d *database) inPlace() error {
	now, err := os.Stat(d.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the database file %s was deleted; restore it and restart: %w", d.cfg.Path, store.ErrUnavailable)
	case err != nil:
		return fmt.Errorf("look at the database file %s: %w: %w", d.cfg.Path, err, store.ErrUnavailable)
	case !os.SameFile(now, d.file):
		return fmt.Errorf("the database file %s was replaced by another one; restart to use that: %w", d.cfg.Path, store.ErrUnavailable)
	}
	return nil
}

func (d *database) Close() error {
	if err := errors.Join(d.reader.close(), d.writer.close()); err != nil {
		return fmt.Errorf("close %s: %w", d.cfg.Path, translate(err))
	}
	return nil
}
