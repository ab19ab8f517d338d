package sqlite

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A writer stands back for at most yieldFor. If the other has not come in
	// by then, it is not waited for again for a while, which doubles: somebody
	// else may have locked the directory, for reasons of their own and for long.
	yieldFor  = 50 * time.Millisecond
	restLeast = time.Second
	restMost  = time.Minute
)

// gate is how processes take turns to write. SQLite itself has no queue: who
// finds the lock taken looks again after a while, and would hardly ever find it
// free while a busy daemon takes it again microseconds after it gave it up. So
// whoever waits shows it by a shared lock on the directory of the database, and
// whoever wants to write looks for that first and stands back.
//
// It is a courtesy, and its failures are nobody's error. It is used in turn,
// as the rest of the writer.
type gate struct {
	dir     *os.File // nil where there is none to be had
	waiting bool
	vain    time.Duration // how long it did not stand back after the last time in vain
	rest    time.Time     // when it may stand back again
}

func openGate(path string) *gate {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		dir = nil
	}
	return &gate{dir: dir}
}

func (g *gate) close() error {
	if g.dir == nil {
		return nil
	}
	dir := g.dir
	g.dir = nil
	return dir.Close()
}

// wait shows that this process waits, until pass.
func (g *gate) wait() {
	if g.dir != nil && !g.waiting {
		g.waiting = unix.Flock(int(g.dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
	}
}

// pass ends wait.
func (g *gate) pass() {
	if g.waiting {
		g.waiting = unix.Flock(int(g.dir.Fd()), unix.LOCK_UN) != nil
	}
}

// othersWait reports whether another process shows that it waits. An exclusive
// lock is not one of these: somebody else holds it, for something else.
func (g *gate) othersWait() bool {
	if g.dir == nil {
		return false
	}
	fd := int(g.dir.Fd())
	wait := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil && unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) == nil
	_ = unix.Flock(fd, unix.LOCK_UN)
	return wait
}

// standBack lets another process that waits write first.
func (g *gate) standBack() {
	if time.Now().Before(g.rest) || !g.othersWait() {
		return
	}
	// A lock between processes tells nobody when it is free, so this looks, and
	// not for long: yieldFor bounds it, whoever holds the lock.
	for end := time.Now().Add(yieldFor); time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		if !g.othersWait() {
			g.vain = 0
			return
		}
	}
	g.vain = min(max(2*g.vain, restLeast), restMost)
	g.rest = time.Now().Add(g.vain)
}
