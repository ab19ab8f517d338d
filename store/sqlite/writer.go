package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"

	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// flush says whether a transaction's commit waits for the disk.
type flush bool

const (
	flushed   flush = true
	unflushed flush = false
)

// What the writer says around its transactions.
const (
	sqlBegin       = `BEGIN IMMEDIATE`
	sqlCommit      = `COMMIT`
	sqlRollback    = `ROLLBACK`
	sqlFlush       = `PRAGMA synchronous = FULL`
	sqlNoFlush     = `PRAGMA synchronous = NORMAL`
	sqlDataVersion = `PRAGMA data_version`
	// The writer asks for the lock in short waits, to show that it waits.
	sqlShortWaits = `PRAGMA busy_timeout = 20`
)

// writer is the one connection that writes. Whoever holds its turn may use the
// rest of it.
type writer struct {
	turn  chan struct{}
	db    *sql.DB
	s     *session // nil after a failure; opened again by the next
	gate  *gate
	flush flush
	// version is SQLite's data_version as last seen: it changes when another
	// connection has written.
	version int64
	// commits counts those that were begun. Each writes to the WAL.
	commits atomic.Int64
}

func openWriter(ctx context.Context, path string) (*writer, error) {
	db, err := pool(path, 1, "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-16000)",
		"wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	if err != nil {
		return nil, err
	}
	w := &writer{turn: make(chan struct{}, 1), db: db, gate: openGate(path)}
	if err := w.connect(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// connect opens the connection if there is none.
func (w *writer) connect(ctx context.Context) error {
	if w.s != nil {
		return nil
	}
	s, err := openSession(ctx, w.db)
	if err != nil {
		return err
	}
	if _, err := s.exec(ctx, sqlShortWaits); err != nil {
		return errors.Join(err, s.close())
	}
	w.s, w.flush, w.version = s, flushed, -1
	return nil
}

// close waits for its turn. Whoever comes later finds the database closed.
func (w *writer) close() error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	var err error
	if w.s != nil {
		err = w.s.close()
		w.s = nil
	}
	return errors.Join(err, w.db.Close(), w.gate.close())
}

// begin begins a transaction when no other process writes.
func (w *writer) begin(ctx context.Context) error {
	w.gate.standBack()
	defer w.gate.pass()
	for {
		_, err := w.s.exec(ctx, sqlBegin)
		if err == nil {
			return nil
		}
		if !isBusy(err) {
			// A caller who leaves at that moment hears of it even if the
			// transaction has begun. Otherwise this fails, and that is well.
			_, _ = w.s.exec(context.WithoutCancel(ctx), sqlRollback)
			return err
		}
		w.gate.wait()
	}
}

// changedOutside reports whether another connection has written since this was
// last asked.
func (w *writer) changedOutside(ctx context.Context) (bool, error) {
	stmt, err := w.s.stmt(ctx, sqlDataVersion)
	if err != nil {
		return false, err
	}
	var version int64
	if err := stmt.QueryRowContext(ctx).Scan(&version); err != nil {
		return false, err
	}
	if version == w.version {
		return false, nil
	}
	w.version = version
	return true, nil
}

// errNothing ends a transaction that found nothing to write; it is no error.
var errNothing = errors.New("nothing to write")

// tx is a transaction of the writer.
type tx struct {
	transaction
	d     *database
	w     *writer
	now   int64 // microseconds
	wakes []string
	news  bool // another process has written
}

// write runs fn in a transaction of the writer, and wakes those who listen
// when it is committed. Its error is translated.
//
// Waiting for the turn and for the lock ends with ctx. From then on ctx is not
// asked again: the statements are few and short, and an interrupted commit
// would leave everyone unsure.
func (d *database) write(ctx context.Context, how flush, fn func(*tx) error) error {
	if err := d.inPlace(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, d.cfg.StatementTimeout)
	defer cancel()
	select {
	case d.writer.turn <- struct{}{}:
	case <-wait.Done():
		return timedOut(ctx, wait.Err())
	}
	t := &tx{d: d, w: d.writer}
	err := t.run(wait, how, fn)
	<-d.writer.turn
	if t.news {
		d.events.wake("") // whatever became of this
	}
	if err != nil {
		return timedOut(ctx, translate(err))
	}
	d.events.wake(t.wakes...)
	return nil
}

func (t *tx) run(wait context.Context, how flush, fn func(*tx) error) error {
	if err := wait.Err(); err != nil {
		return err
	}
	t.ctx = context.WithoutCancel(wait)
	if err := t.w.connect(t.ctx); err != nil {
		return err
	}
	t.s = t.w.s
	if err := t.setFlush(how); err != nil {
		return err
	}
	if err := t.w.begin(wait); err != nil {
		return err
	}
	// The clock is read inside: whoever writes later has the later time.
	t.now = t.d.now()
	var err error
	if t.news, err = t.w.changedOutside(t.ctx); err == nil {
		err = fn(t)
	}
	if err == nil {
		t.w.commits.Add(1)
		failpoint.At(failpoint.Commits, "transaction")
		_, err = t.exec(sqlCommit)
		failpoint.At(failpoint.Committed, "transaction")
	}
	if err == nil {
		return nil
	}
	// SQLite rolls back by itself after some errors; then, and where it
	// cannot, a new connection is the safe way on.
	if _, rollback := t.exec(sqlRollback); rollback != nil {
		t.s.discard()
		t.w.s = nil
	}
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// setFlush changes how commits go to the disk, which SQLite allows between
// transactions.
func (t *tx) setFlush(how flush) error {
	if t.w.flush == how {
		return nil
	}
	mode := sqlNoFlush
	if how == flushed {
		mode = sqlFlush
	}
	if _, err := t.exec(mode); err != nil {
		return err
	}
	t.w.flush = how
	return nil
}

// exec returns how many rows changed.
func (t *tx) exec(query string, args ...any) (int64, error) { return t.s.exec(t.ctx, query, args...) }

// wake tells those who listen, once this is committed, that something became
// ready, delayed or was given back on the queue; "" is any queue.
func (t *tx) wake(queue string) { t.wakes = append(t.wakes, queue) }
