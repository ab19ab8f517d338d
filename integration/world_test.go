package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// deadline limits every wait for an event. It is generous, for slow machines
// under the race detector; nothing is asserted on how long an event took.
const deadline = 3 * time.Minute

// world is one database with a plugins directory, gates and a journal.
type world struct {
	t       *testing.T
	dir     string
	dsn     string
	schema  string
	backend string
	store   store.Store // a handle beside the daemons, to enqueue and to look
	logs    *lockedBuffer
	binary  string   // the daemon; default: pgqrsd
	environ []string // of the daemon, besides the base
}

// onBackends runs a test on SQLite and on Postgres.
func onBackends(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, "sqlite:"+filepath.Join(t.TempDir(), "pgqrs.db"), ""))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newPostgresWorld(t))
	})
}

func newPostgresWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, pgtest.DSN(t), pgtest.Schema(t))
}

func newWorld(t *testing.T, dsn, schema string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), dsn: dsn, schema: schema, logs: &lockedBuffer{}, backend: store.BackendPostgres}
	if schema == "" {
		w.backend = store.BackendSQLite
	}
	for _, sub := range []string{"gates", "plugins"} {
		must(t, os.Mkdir(filepath.Join(w.dir, sub), 0o755))
	}
	w.plugin("testhandler", "testhandler")
	w.open()
	must(t, w.store.Install(t.Context()))
	t.Cleanup(func() {
		_ = w.store.Close()
		if t.Failed() {
			t.Logf("daemon logs:\n%s", w.logs.tail(30_000))
		}
	})
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := anystore.OpenConfig(w.t.Context(), anystore.Config{DSN: w.dsn, Schema: w.schema})
	must(w.t, err)
	w.store = s
}

// plugin copies a built handler into the plugins directory under a name, at
// once as a deploy would: written beside and renamed.
func (w *world) plugin(binary, name string) {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(bin, binary))
	must(w.t, err)
	tmp := filepath.Join(w.dir, "plugins", "."+name)
	must(w.t, os.WriteFile(tmp, raw, 0o755))
	must(w.t, os.Rename(tmp, filepath.Join(w.dir, "plugins", name)))
}

func (w *world) journalPath() string { return filepath.Join(w.dir, "journal") }

// openGate lets the jobs that wait for it go on.
func (w *world) openGate(name string) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, "gates", name), nil, 0o600))
}

// settings is a configuration file's content; zero fields are left out.
type settings struct {
	queue   string // lines of [queues.work]
	backoff string // lines of [queues.work.backoff]
	daemon  string // lines of [daemon]
	handler string // lines of [handlers.testhandler.env]
	extra   string // whole tables

	stateDir string // default: the world's own
}

func (w *world) config(name string, s settings) string {
	w.t.Helper()
	backoff := cmp.Or(s.backoff, "delay = \"10ms\"\ncap = \"20ms\"")
	stateDir := cmp.Or(s.stateDir, filepath.Join(w.dir, "state"))
	text := fmt.Sprintf(`
[daemon]
state_dir = %q
%s
[http]
addr = "127.0.0.1:0"
[log]
level = "debug"
[queues.work]
%s
[queues.work.backoff]
%s
[handlers.testhandler.env]
JOURNAL = %q
GATES = %q
%s
%s
`, stateDir, s.daemon, s.queue, backoff, w.journalPath(), filepath.Join(w.dir, "gates"), s.handler, s.extra)
	path := filepath.Join(w.dir, name+".toml")
	must(w.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// cli runs a command of the real binary and returns what it printed.
func (w *world) cli(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	return w.cliInput("", args...)
}

func (w *world) cliInput(stdin string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "pgqrsd"), append(w.globalArgs(), args...)...)
	cmd.Env = baseEnv()
	cmd.Dir = w.dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("run pgqrsd %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// cliOK is cli for a command that must succeed; its JSON goes into v.
func (w *world) cliOK(v any, args ...string) {
	w.t.Helper()
	stdout, stderr, code := w.cli(append([]string{"-o", "json"}, args...)...)
	if code != 0 {
		w.t.Fatalf("pgqrsd %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(stdout), v); err != nil {
			w.t.Fatalf("pgqrsd %s printed no JSON for %T: %v\n%s", strings.Join(args, " "), v, err, stdout)
		}
	}
}

func (w *world) globalArgs() []string {
	args := []string{"--dsn", w.dsn}
	if w.schema != "" {
		args = append(args, "--schema", w.schema)
	}
	return args
}

// baseEnv is the environment without the tests' own PGQRS_ variables.
func baseEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PGQRS_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			env = append(env, kv)
		}
	}
	return env
}

// enqueue puts jobs on the queue work and returns their ids.
func (w *world) enqueue(jobs ...map[string]any) []int64 {
	w.t.Helper()
	var msgs []store.NewMessage
	for _, j := range jobs {
		raw, err := json.Marshal(j)
		must(w.t, err)
		msgs = append(msgs, store.NewMessage{Queue: "work", Payload: raw})
	}
	ids, err := w.store.Messages().Insert(w.t.Context(), msgs)
	must(w.t, err)
	return ids
}

// many is n plain jobs.
func many(n int) []map[string]any {
	out := make([]map[string]any, n)
	for i := range out {
		out[i] = map[string]any{"n": i}
	}
	return out
}

// event is one line of the journal.
type event struct {
	kind    string
	id      int64
	attempt int
	pid     int
}

func (w *world) journal() []event {
	w.t.Helper()
	raw, err := os.ReadFile(w.journalPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(w.t, err)
	var events []event
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 4 {
			continue // a line that a killed process did not finish
		}
		id, _ := strconv.ParseInt(f[1], 10, 64)
		attempt, _ := strconv.Atoi(f[2])
		pid, _ := strconv.Atoi(f[3])
		events = append(events, event{f[0], id, attempt, pid})
	}
	return events
}

// eventually waits until what holds, looking again and again.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	eventually(w.t, what, holds, w.whereabouts)
}

// eventually waits until what holds, and otherwise says how things are.
func eventually(t *testing.T, what string, holds func() bool, things func() string) {
	t.Helper()
	timeout := time.After(deadline)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-timeout:
			t.Fatalf("waited %s in vain for: %s\n%s", deadline, what, things())
		case <-tick.C:
		}
	}
}

// whereabouts says where the messages of queue work are, for a failure.
func (w *world) whereabouts() string {
	var b strings.Builder
	for _, s := range []store.State{store.Delayed, store.Ready, store.Leased} {
		n, err := w.store.Messages().Count(context.WithoutCancel(w.t.Context()), store.MessageFilter{Queue: "work", State: s})
		fmt.Fprintf(&b, "%s: %d %v\n", s, n, errOrEmpty(err))
	}
	for _, s := range []store.State{store.Done, store.Dead, store.Cancelled} {
		n, err := w.store.Archive().Count(context.WithoutCancel(w.t.Context()), store.MessageFilter{Queue: "work", State: s})
		fmt.Fprintf(&b, "%s: %d %v\n", s, n, errOrEmpty(err))
	}
	return b.String()
}

func errOrEmpty(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lockedBuffer collects the output of processes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}

// withPassword is a DSN with another password.
func withPassword(t *testing.T, dsn, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}
