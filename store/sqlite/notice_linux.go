package sqlite

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notice tells of every write to a file, by whatever process. It watches the
// file's directory, for the file may be removed and made again.
type notice struct {
	c    chan struct{} // holds one notice; many are one
	file *os.File
	done chan struct{} // closed when nothing is read any more
}

// watch begins to tell of writes to a file. Where the system cannot, the error
// is the system's, and the caller looks at the file by itself.
func watch(path string) (*notice, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY); err != nil {
		return nil, errors.Join(os.NewSyscallError("inotify_add_watch", err), file.Close())
	}
	n := &notice{c: make(chan struct{}, 1), file: file, done: make(chan struct{})}
	go n.read(filepath.Base(path))
	return n, nil
}

// close ends the notices and waits until the reader has ended.
func (n *notice) close() error {
	err := n.file.Close()
	<-n.done
	return err
}

func (n *notice) read(name string) {
	defer close(n.done)
	var events [4096]byte
	for {
		read, err := n.file.Read(events[:])
		if err != nil {
			return // it was closed; whoever listens looks now and then anyway
		}
		if concerns(events[:read], name) {
			select {
			case n.c <- struct{}{}:
			default:
			}
		}
	}
}

// concerns reports whether events speak of a file, or may have done so: where
// too many came at once, some are lost.
func concerns(events []byte, name string) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		event := (*unix.InotifyEvent)(unsafe.Pointer(&events[0])) //nolint:gosec // the kernel's layout, checked for length
		end := unix.SizeofInotifyEvent + int(event.Len)
		if end > len(events) {
			return true
		}
		of := bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00")
		if string(of) == name || event.Mask&unix.IN_Q_OVERFLOW != 0 {
			return true
		}
		events = events[end:]
	}
	return false
}
