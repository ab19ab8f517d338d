package integration

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A bench whose daemon or handler dies says so, and leaves nothing, sockets
// outside of its directory included.
func TestBenchLosesAProcess(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"bench-daemon":  "the daemon ended by itself",
		"bench-handler": "handler process",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onYards(t, func(t *testing.T, y *yard) {
				b := y.bench("steady", "--duration", "1h", "--rate", "50")
				pids := b.measuring()
				killed := slices.IndexFunc(pids, func(pid int) bool {
					args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
					must(t, err)
					return bytes.Contains(args, []byte(name))
				})
				if killed < 0 {
					t.Fatalf("none of the processes %v is a %s", pids, name)
				}
				must(t, syscall.Kill(pids[killed], syscall.SIGKILL))
				if code := b.status(); code != 1 || !strings.Contains(b.err.String(), want) {
					t.Errorf("status %d, want one that says %q:\n%s", code, want, b.err.String())
				}
				y.gone(pids)
				if left := y.scratches(); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// A bench whose connections were cut holds on to its schema: the next bench does
// not take it for a dead one's.
func TestBenchKeepsItsSchema(t *testing.T) {
	t.Parallel()
	y := postgresYard(t)
	living := y.bench("idle", "--duration", "1h")
	living.processes()
	const benches = "application_name = 'pgqrsd bench' and datname = current_database()"
	const holders = "select count(*) from pg_stat_activity where state = 'idle in transaction' and " + benches
	var cut int
	must(t, y.conn.QueryRow(t.Context(), "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity where "+benches).Scan(&cut))
	if cut != 2 {
		t.Fatalf("the bench has %d connections", cut)
	}
	y.eventually("the schema is held again", func() bool {
		var n int
		must(t, y.conn.QueryRow(t.Context(), holders).Scan(&n))
		return n == 1
	})
	if next := y.bench("--queue-size", "100"); next.status() != 0 {
		t.Fatalf("the next bench:\n%s", next.err.String())
	}
	if now := y.scratches(); len(now) != 2 {
		t.Errorf("there is %v, want the living bench's directory and schema", now)
	}
	must(t, living.cmd.Process.Signal(syscall.SIGTERM))
	living.status()
	if left := y.scratches(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
