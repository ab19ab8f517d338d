package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// slot is a place for one daemon on this machine, held by a lock on a file that
// the kernel drops when the process ends, however it ends. Whoever takes the
// slot next therefore knows that the workers registered under it are dead.
type slot struct {
	file *os.File
	// id tells this slot from those of other machines and state directories.
	id string
	// name is host/number, for people.
	name string
	// dir is for what belongs to the daemon in this slot alone.
	dir string
}

const maxSlots = 1000

// takeSlot locks the first free slot file in dir.
func takeSlot(dir string) (*slot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read the host's name: %w", err)
	}
	for n := range maxSlots {
		s, err := lockSlot(filepath.Join(dir, fmt.Sprintf("slot-%d.lock", n)), host, n)
		if err != nil {
			return nil, err
		}
		if s != nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("all %d slots in %s are taken by running daemons", maxSlots, dir)
}

// lockSlot returns nil when another process holds the lock.
func lockSlot(path, host string, n int) (*slot, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the slot's lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	id, err := slotID(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read or write %s: %w", path, err), f.Close())
	}
	// The host's name keeps the slots of cloned machines apart.
	return &slot{
		file: f, id: id + "@" + host, name: fmt.Sprintf("%s/%d", host, n),
		dir: strings.TrimSuffix(path, ".lock"),
	}, nil
}

// slotID reads the id that the file was given at its creation, or gives it one.
func slotID(f *os.File) (string, error) {
	const length = 36
	b, err := io.ReadAll(io.LimitReader(f, length+1))
	if err != nil {
		return "", err
	}
	if id := strings.TrimSpace(string(b)); len(id) == length {
		return id, nil
	}
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", err
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // a random UUID, version 4
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	if err := f.Truncate(0); err != nil {
		return "", err
	}
	if _, err := f.WriteAt([]byte(id+"\n"), 0); err != nil {
		return "", err
	}
	return id, f.Sync()
}

// release drops the lock. The file stays: its id is the slot's.
func (s *slot) release() error { return s.file.Close() }
