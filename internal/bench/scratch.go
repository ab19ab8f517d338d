package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// removeTime is how long the removal of the scratch place may take.
const removeTime = 30 * time.Second

// database is what the bench asks of a backend beside the store's interfaces.
// Each is in a file of its own, under its build tag.
type database interface {
	// version is the server's, or the library's.
	version(ctx context.Context) (string, error)
	// calm brings tables that were just filled into the state of old ones: the
	// planner knows them, and what was written is on its way no more.
	calm(ctx context.Context) error
	// clock is how far the database's clock is ahead of this machine's.
	clock(ctx context.Context) (time.Duration, error)
	// transactions counts the database's since it was made; negative where
	// nobody counts.
	transactions(ctx context.Context) (int64, error)
	// holdSnapshot keeps what others delete from being cleaned up until release.
	holdSnapshot(ctx context.Context) (release func(context.Context) error, err error)
	// remove removes the scratch place, and closes the connections.
	remove(ctx context.Context) error
}

// place is where a backend wants its scratch.
type place struct {
	// note is what a person should know of the choice; mostly nothing.
	note string
	// parent is the directory for the run's own.
	parent string
	// in completes the store's configuration when the run's directory is there.
	in func(dir string, cfg *anystore.Config)
	// open makes the scratch in the database, with the store already open.
	open func(ctx context.Context, cfg anystore.Config) (db database, leftover, err error)
}

// scratch is where a run happens.
type scratch struct {
	dir   *directory
	cfg   anystore.Config // of the scratch
	store store.Store
	db    database
}

// openScratch makes a scratch place beside the database of cfg, with the schema
// installed. Errors are those of anystore.OpenConfig, and of the database when
// it does not allow it.
func openScratch(ctx context.Context, cfg anystore.Config, say func(string)) (s *scratch, err error) {
	if err := anystore.Check(cfg); err != nil {
		return nil, err
	}
	p, err := placeFor(cfg.DSN)
	if err != nil {
		return nil, err
	}
	s = &scratch{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove(ctx))
		}
	}()
	if p.note != "" {
		say(p.note)
	}
	var leftover error
	if s.dir, leftover, err = makeDirectory(p.parent); err != nil {
		return s, err
	}
	report(ctx, say, leftover)
	s.cfg.MustExist = false
	p.in(s.dir.path, &s.cfg)
	if s.store, err = anystore.OpenConfig(ctx, s.cfg); err != nil {
		return s, err
	}
	s.db, leftover, err = p.open(ctx, s.cfg)
	report(ctx, say, leftover)
	if err != nil {
		return s, err
	}
	if err := s.store.Install(ctx); err != nil {
		return s, err
	}
	return s, nil
}

// report tells a person of what is no failure of this run.
func report(ctx context.Context, say func(string), err error) {
	if err != nil && ctx.Err() == nil {
		say(err.Error())
	}
}

// remove removes everything, also when ctx has ended. The daemon must be gone.
func (s *scratch) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.remove(ctx))
	}
	if s.dir != nil {
		errs = append(errs, s.dir.remove())
	}
	if err := errors.Join(errs...); err != nil {
		// The reason is only told, not wrapped: that the database is out of reach
		// by now, say, is not how the run ended.
		return fmt.Errorf("%w: remove the scratch place, which the next run tries again: %s", errLeft, err.Error())
	}
	return nil
}

// directoryOf is the directory of a file, links followed; false when there is none.
func directoryOf(path string) (string, bool) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return dir, false
	}
	info, err := os.Stat(dir)
	return dir, err == nil && info.IsDir()
}
