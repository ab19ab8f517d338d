//go:build unix

package handlers

import (
	"fmt"
	"io"
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
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("open file descriptor %d of %s: %w", fd, LifelineEnv, err)
	}
	lifeline := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		p.end()
	}()
	return nil
}
