package bench

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgqrs/pgqrsd/handlers/host"
)

// directory is a run's own, held by a lock on it that ends with the process.
type directory struct {
	path string
	lock *os.File
}

var isDirectory = regexp.MustCompile(`^pgqrsd-bench-[0-9a-f]{16}$`)

// unique is different for every run.
func unique() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// makeDirectory makes a directory in parent, and removes there what dead runs
// of the same user left. What could not be removed is in leftover; it does not
// matter to this run.
func makeDirectory(parent string) (d *directory, leftover, err error) {
	leftover = sweepDirectories(parent)
	for {
		path := filepath.Join(parent, "pgqrsd-bench-"+unique())
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, leftover, fmt.Errorf("make a scratch directory: %w", err)
		}
		lock, err := lockDirectory(path)
		if err != nil {
			return nil, leftover, errors.Join(fmt.Errorf("lock the scratch directory: %w", err), os.RemoveAll(path))
		}
		if lock != nil {
			return &directory{path, lock}, leftover, nil
		}
		// Another run took it for a dead one's before it was locked.
	}
}

// lockDirectory returns nil when another process holds the lock, or has removed
// the directory.
func lockDirectory(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if named, err := os.Lstat(path); err != nil || !os.SameFile(mine, named) {
		return nil, f.Close()
	}
	return f, nil
}

// sweepDirectories removes the directories that no living run holds.
func sweepDirectories(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil // making one there says why
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !isDirectory.MatchString(e.Name()) || !owned(e) {
			continue
		}
		path := filepath.Join(parent, e.Name())
		lock, err := lockDirectory(path)
		if lock != nil {
			err = (&directory{path, lock}).remove()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove what a dead run left: %w", err))
		}
	}
	return errors.Join(errs...)
}

// owned keeps a run as root from removing what other users put into /tmp.
func owned(e fs.DirEntry) bool {
	info, err := e.Info()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// state is the state directory of the run's daemon.
func (d *directory) state() string { return filepath.Join(d.path, "state") }

// remove removes the directory, and what a daemon that was killed left outside
// of it, and then lets go of it.
func (d *directory) remove() error {
	slots, err := filepath.Glob(filepath.Join(d.state(), "slot-*[0-9]"))
	errs := []error{err}
	for _, slot := range slots {
		errs = append(errs, host.RemoveSockets(slot))
	}
	return errors.Join(append(errs, os.RemoveAll(d.path), d.lock.Close())...)
}
