//go:build unix

package handlers

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// stdio keeps the process's real standard files while go-plugin replaces them.
type stdio struct {
	// stdout and stderr are what os.Stdout and os.Stderr were. They are kept
	// because a file that nobody holds any more is closed, and its number 1 or 2
	// would go to the next file that is opened.
	stdout, stderr *os.File
	handshake      *os.File
}

// takeStdout leads descriptor 1 to standard error. Only the handshake's line,
// which go-plugin writes to os.Stdout, still goes to the host: whatever else is
// printed there, by anyone, would break it.
func takeStdout() (*stdio, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup2(2, 1); err != nil {
		return nil, err
	}
	s := &stdio{stdout: os.Stdout, stderr: os.Stderr, handshake: os.NewFile(uintptr(fd), "handshake")}
	os.Stdout = s.handshake
	return s, nil
}

// restore gives the process its files back once go-plugin has put its own pipes
// there, which nobody reads. Standard output is standard error from now on.
func (s *stdio) restore() {
	os.Stdout, os.Stderr = s.stdout, s.stderr
	_ = s.handshake.Close()
}

// watchLifeline ends the process when the host's end of the lifeline closes.
func (p *process) watchLifeline() error {
	value := os.Getenv(LifelineEnv)
	if value == "" {
		return nil
	}
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return fmt.Errorf("%s is %q, which is no file descriptor's number", LifelineEnv, value)
	}
	// Neither the number nor the descriptor concerns the handler's own children.
	_ = os.Unsetenv(LifelineEnv)
	unix.CloseOnExec(fd)
	go func() {
		awaitEOF(fd)
		p.end()
	}()
	return nil
}

// awaitEOF returns at the end of the lifeline. It blocks a thread rather than
// use Go's poller, which would make the descriptor non-blocking: the file behind
// it may be shared with other handlers of the host, in other languages. For the
// same reason it can cope with their having done that.
func awaitEOF(fd int) {
	buf := make([]byte, 64)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case n > 0, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		default:
			return
		}
	}
}
