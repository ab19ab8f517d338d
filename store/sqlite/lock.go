package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgqrs/pgqrsd/store"
)

// RunningError is the refusal of a second daemon on a database file.
type RunningError struct {
	Path string
	// PID is the process of the other daemon; 0 if it is not known.
	PID int
}

func (e *RunningError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another pgqrsd runs on %s; stop it first", e.Path)
	}
	return fmt.Sprintf("another pgqrsd (process %d) runs on %s; stop it first", e.PID, e.Path)
}

// LockForRun takes the lock that makes a daemon the only one on the database
// file at path, and returns what gives it back. It does not wait: when a
// daemon, of this process or of another, holds it, the error is a *RunningError;
// when the lock cannot be made it is store.ErrUnavailable. The lock is a file beside the database; it ends with
// the process, however that ends.
func LockForRun(path string) (release func() error, err error) {
	path, err = realPath(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s for this daemon: %w", path, err)
	}
	f, err := lockFile(path + ".lock")
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &RunningError{Path: path, PID: holder(path + ".lock")}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noDirectory(path)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s for this daemon: %w: %w", path, err, store.ErrUnavailable)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s for this daemon: %w", path, err), unlockFile(f))
	}
	return func() error { return unlockFile(f) }, nil
}

// realPath is one name for a file, whatever links lead to it, so that its locks
// are beside it and everyone finds them. The file need not exist.
func realPath(path string) (string, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return filepath.Abs(path)
}

// holder is the process that wrote its id into a lock file; 0 if none did.
func holder(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// lockFile creates and locks a file, or fails with EWOULDBLOCK.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// The one before may have removed the file between the two calls; a
		// lock on a removed file excludes nobody.
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(mine, named) {
			if err := f.Truncate(0); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// unlockFile removes the file and gives its lock back.
func unlockFile(f *os.File) error {
	err := os.Remove(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// waitForFile is lockFile that waits until ctx ends.
func waitForFile(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := lockFile(path)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
