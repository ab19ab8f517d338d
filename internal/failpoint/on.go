//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Enabled says whether this binary can be killed at a place.
const Enabled = true

// Env names the variable with the directory that tells where to kill. In it,
// the file "armed" holds a place, the number of passes, and the process to kill,
// or 0 for the one that passes. Each place that is passed leaves a file in its
// directory "seen". What fires renames "armed" to "fired" first.
const Env = "FAILPOINTS"

var state struct {
	sync.Mutex
	armed  string
	passes int
	seen   map[string]bool
}

// At is passed wherever a process may be killed. Of what, the first word counts.
// Safe for concurrent use.
func At(place, what string) {
	dir := os.Getenv(Env)
	if dir == "" {
		return
	}
	word, _, _ := strings.Cut(what, " ")
	name := place + "." + word
	state.Lock()
	defer state.Unlock()
	if !state.seen[name] {
		if state.seen == nil {
			state.seen = make(map[string]bool)
		}
		state.seen[name] = os.WriteFile(filepath.Join(dir, "seen", name), nil, 0o600) == nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, "armed"))
	if err != nil {
		return // nothing is armed
	}
	if string(raw) != state.armed {
		state.armed, state.passes = string(raw), 0
	}
	order := strings.Fields(state.armed)
	if len(order) != 3 || order[0] != name {
		return
	}
	state.passes++
	if wanted, err := strconv.Atoi(order[1]); err != nil || state.passes < wanted {
		return
	}
	pid, err := strconv.Atoi(order[2])
	if err != nil || os.Rename(filepath.Join(dir, "armed"), filepath.Join(dir, "fired")) != nil {
		return // another process was first
	}
	if pid == 0 {
		pid = os.Getpid()
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // it may have died by itself
}
