package pgtest

import (
	"fmt"
	"os/exec"
	"syscall"
)

// cleanUp waits for the end of its standard input, which comes at the latest
// when the test process is gone, and then removes the cluster. The process id
// in postmaster.pid may be stale and by now another program's, so it counts
// only if that process works in the data directory, as PostgreSQL does.
const cleanUp = `
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if ours "$1"; then
	kill -QUIT "$pid"
	n=0
	while ours "$1"; do
		n=$((n + 1))
		if [ "$n" -gt 200 ]; then kill -KILL "$pid"; fi
		if [ "$n" -gt 300 ]; then break; fi
		sleep 0.05
	done
fi
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
`

// watch starts the watcher in a session of its own, where no signal from the
// terminal reaches it.
func (c *Cluster) watch() error {
	cmd := exec.Command("/bin/sh", "-c", cleanUp, "pgtest-watcher", c.dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watcher: %w", err)
	}
	c.lifeline, c.watcher = lifeline, cmd
	return nil
}

func (c *Cluster) close() error {
	_ = c.lifeline.Close() // fails only when it is closed already
	if err := c.watcher.Wait(); err != nil {
		return fmt.Errorf("watcher: %w", err)
	}
	return nil
}
