package host

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// patience is how long tests wait for what must happen.
const patience = 2 * time.Minute

// rig is a host under test with its plugins directory.
type rig struct {
	*Host
	t       *testing.T
	dir     string
	log     *syncBuffer
	stop    context.CancelFunc
	stopped chan struct{}
	changes chan struct{}
}

// newRig makes a host with short times. change alters its configuration.
func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &syncBuffer{}, stopped: make(chan struct{}), changes: make(chan struct{}, 1)}
	cfg := Config{
		Dir: r.dir, StateDir: filepath.Join(t.TempDir(), "state"), Version: "test",
		ScanInterval: 30 * time.Millisecond, StartTimeout: 10 * time.Second,
		RestartMin: 10 * time.Millisecond, RestartMax: 10 * time.Second,
		DrainTimeout: 10 * time.Second, CancelGrace: 200 * time.Millisecond,
		Logger:   slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnChange: func() { poke(r.changes) },
	}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = h
	return r
}

// run runs the host until the test's end, and then looks for what it left.
func (r *rig) run() *rig {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.stopped)
		if err := r.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}()
	r.t.Cleanup(func() {
		r.end()
		if r.t.Failed() {
			r.t.Logf("the host's log:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) end() {
	r.t.Helper()
	r.stop()
	wait(r.t, "the host to end", r.stopped)
}

// start adds handlers and runs the host until they have settled.
func (r *rig) start(handlers map[string]fakeConfig) *rig {
	r.t.Helper()
	for name, c := range handlers {
		r.put(name, c)
	}
	r.run()
	wait(r.t, "the handlers to settle", r.Settled())
	return r
}

// put drops a handler into the directory, as `mv` does.
func (r *rig) put(name string, c fakeConfig) {
	r.t.Helper()
	r.putScript(name, c.script(r.t))
}

func (r *rig) putScript(name, script string) {
	r.t.Helper()
	tmp := filepath.Join(r.dir, "."+name)
	must(r.t, os.WriteFile(tmp, []byte(script), 0o755))
	old := time.Now().Add(-time.Minute)
	must(r.t, os.Chtimes(tmp, old, old))
	must(r.t, os.Rename(tmp, filepath.Join(r.dir, name)))
}

// script is a file that runs this test binary as the handler.
func (c fakeConfig) script(t testing.TB) string {
	t.Helper()
	raw, err := json.Marshal(c)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	return fmt.Sprintf("#!/bin/sh\n%s='%s' exec %s \"$@\"\n", fakeEnv, raw, self)
}

// until waits until the handler's status is as wanted.
func (r *rig) until(name string, what string, ok func(Status) bool) Status {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, found := r.find(name)
		if found && ok(s) {
			return s
		}
		select {
		case <-r.changes:
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("handler %s is %+v (known: %v), want %s", name, s, found, what)
		}
	}
}

func (r *rig) untilState(name string, want State) Status {
	r.t.Helper()
	return r.until(name, string(want), func(s Status) bool { return s.State == want })
}

func (r *rig) find(name string) (Status, bool) {
	for _, s := range r.Status() {
		if s.Name == name {
			return s, true
		}
	}
	return Status{}, false
}

// sink collects what a queue's handler says.
type sink struct {
	t  testing.TB
	mu sync.Mutex

	results map[Ref]Result
	order   []Ref
	started map[Ref]bool
	beats   []*handlerpb.Beat
	calls   []*handlerpb.StepCall
	version string // that the last calls came from
	news    chan struct{}
	rooms   chan struct{}
}

func newSink(t testing.TB) *sink {
	return &sink{t: t, results: map[Ref]Result{}, started: map[Ref]bool{}, news: make(chan struct{}, 1), rooms: make(chan struct{}, 1)}
}

func (s *sink) Room() { poke(s.rooms); poke(s.news) }

func (s *sink) Started(refs []Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range refs {
		s.started[r] = true
	}
	poke(s.news)
}

func (s *sink) Results(rs []Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		ref := Ref{r.Id, r.Claim}
		if _, twice := s.results[ref]; twice {
			s.t.Errorf("job %v has two results", ref)
		}
		s.results[ref] = r
		s.order = append(s.order, ref)
	}
	poke(s.news)
}

func (s *sink) Beats(beats []*handlerpb.Beat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats = append(s.beats, beats...)
	poke(s.news)
}

func (s *sink) Steps(version string, calls []*handlerpb.StepCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = version
	s.calls = append(s.calls, calls...)
	poke(s.news)
}

// until waits until ok, which is called with the sink locked.
func (s *sink) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.news:
		case <-tick.C:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("waited in vain for %s; %d results, %d started", what, len(s.results), len(s.started))
		}
	}
}

func (s *sink) result(id int64) Result {
	s.t.Helper()
	var r Result
	s.until(fmt.Sprintf("the result of job %d", id), func() bool {
		var ok bool
		r, ok = s.results[Ref{id, 1}]
		return ok
	})
	return r
}

func (s *sink) untilStarted(ids ...int64) {
	s.t.Helper()
	s.until(fmt.Sprintf("the start of jobs %v", ids), func() bool {
		for _, id := range ids {
			if !s.started[Ref{id, 1}] {
				return false
			}
		}
		return true
	})
}

func (s *sink) untilRoom(l *Lane) {
	s.t.Helper()
	s.until("room", func() bool { return l.Room() > 0 })
}

// attach attaches a sink and waits until its queue has room.
func (r *rig) attach(queue string) (*Lane, *sink) {
	r.t.Helper()
	s := newSink(r.t)
	l := r.Attach(queue, s)
	s.untilRoom(l)
	return l, s
}

// job is a job whose payload is a JSON string that tells the fake what to do.
func jobOf(id int64, do string) *handlerpb.Job {
	payload, _ := json.Marshal(do)
	return &handlerpb.Job{Id: id, Claim: 1, Attempt: 1, MaxAttempts: 3, Payload: payload}
}

func send(t testing.TB, l *Lane, jobs ...*handlerpb.Job) {
	t.Helper()
	must(t, l.Send(jobs))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// untilTrue waits for something that nothing announces.
func untilTrue(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// syncBuffer is a log that is written and read at once.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines returns the lines that hold all of the texts.
func (b *syncBuffer) lines(texts ...string) []string {
	var found []string
next:
	for line := range strings.Lines(b.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}
