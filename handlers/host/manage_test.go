package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

func TestDrain(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Jobs: 1}, "beta": {Queues: []string{"b"}}})
	alpha, beta := r.untilState("alpha", Serving).PID, r.untilState("beta", Serving).PID
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:400ms"), jobOf(2, "done"))
	sink.untilStarted(1)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Drain(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "jobs still run in") {
		t.Errorf("Drain while a job runs: %v", err)
	}
	if res := sink.result(2); res.Outcome != release || res.Crashed {
		t.Errorf("the job that waited in the host: %+v", res)
	}
	if err := lane.Send([]*handlerpb.Job{jobOf(3, "done")}); !errors.Is(err, ErrNotServed) {
		t.Errorf("Send while draining: %v", err)
	}
	must(t, r.Drain(t.Context()))
	if res := sink.result(1); res.Outcome != done {
		t.Errorf("the running job: %+v", res)
	}
	if alive(alpha) || alive(beta) {
		t.Error("processes are left after Drain")
	}
	if s := r.untilState("alpha", Draining); s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestCancelAndGraceWhileDraining(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:1h"), jobOf(2, "stuck"))
	sink.untilStarted(1, 2)
	drained := make(chan error, 1)
	go func() { drained <- r.Drain(t.Context()) }()
	r.untilState("alpha", Draining)
	lane.Cancel("pgqrsd stops", false)
	if res := sink.result(1); res.Outcome != release || res.Crashed {
		t.Errorf("the job that obeys: %+v", res)
	}
	if res := sink.result(2); !res.Crashed || res.Outcome != retry || !strings.Contains(res.Error, "was cancelled (pgqrsd stops) and did not stop") {
		t.Errorf("the job that does not: %+v", res)
	}
	must(t, <-drained)
}

func TestEndOfRunKillsWhatIsLeft(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}, "hang": {Queues: []string{"h"}}})
	pids := []int{r.untilState("alpha", Serving).PID, r.untilState("hang", Serving).PID}
	lane, sink := r.attach("a")
	hangLane, hangSink := r.attach("h")
	send(t, lane, jobOf(1, "sleep:1h"), jobOf(2, "queued"))
	send(t, hangLane, jobOf(3, "stop"))
	sink.untilStarted(1)
	untilTrue(t, "the process to stop", func() bool { return processState(pids[1]) == "T" })
	r.put("late", fakeConfig{Start: "hang"})
	r.untilState("late", Starting)
	r.end()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if res := sink.result(1); !res.Crashed || res.Outcome != retry || !strings.Contains(res.Error, "was killed because pgqrsd stopped while the job ran") {
		t.Errorf("the running job: %+v", res)
	}
	if res := sink.result(2); !res.Crashed || res.Outcome != release {
		t.Errorf("the waiting job: %+v", res)
	}
	hangSink.result(3)
	if err := r.Drain(t.Context()); err != nil {
		t.Errorf("Drain after the end: %v", err)
	}
	if _, err := os.Stat(r.staging); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("staged copies are left: %v", err)
	}
}

func TestReloadRestartsWithNewSettingsAndTellsNewConcurrency(t *testing.T) {
	concurrency := func(n int) func(string) int { return func(string) int { return n } }
	env := func(v string) map[string]HandlerSettings {
		return map[string]HandlerSettings{"alpha": {Env: map[string]string{"TOKEN": v}, Args: []string{"--mode", v}}}
	}
	t.Setenv("PGQRS_DSN", "postgres://user:secret@db/jobs")
	t.Setenv("SECRET_OF_THE_DAEMON", "hunter2")
	t.Setenv("TZ", "Europe/Paris")
	r := newRig(t, func(c *Config) { c.Settings = Settings{Handlers: env("one"), Concurrency: concurrency(5)} })
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}, Env: true}})
	first := r.untilState("alpha", Serving)
	for _, want := range []string{"TOKEN=one\n", "--mode\none", "TZ=Europe/Paris\n", "PATH=", "TMPDIR=" + r.launcher.sockets, "PGQRSD_LIFELINE_FD=3"} {
		if !strings.Contains(first.Version, want) {
			t.Errorf("environment lacks %q:\n%s", want, first.Version)
		}
	}
	for _, leak := range []string{"PGQRS_", "SECRET", "hunter2"} {
		if strings.Contains(first.Version, leak) {
			t.Errorf("environment holds %q:\n%s", leak, first.Version)
		}
	}
	untilTrue(t, "hello", func() bool { return len(r.log.lines("hello from test: a runs 5 at once")) == 1 })

	r.Reload(Settings{Handlers: env("one"), Concurrency: concurrency(6)})
	untilTrue(t, "the second hello", func() bool { return len(r.log.lines("hello from test: a runs 6 at once")) == 1 })
	if s := r.untilState("alpha", Serving); s.PID != first.PID {
		t.Errorf("new concurrency restarted the handler")
	}

	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "sleep:200ms"))
	sink.untilStarted(1)
	r.Reload(Settings{Handlers: env("two"), Concurrency: concurrency(6)})
	r.until("alpha", "the new environment", func(s Status) bool { return strings.Contains(s.Version, "TOKEN=two\n") })
	if res := sink.result(1); res.Outcome != done {
		t.Errorf("the old process was to be drained: %+v", res)
	}
}

func TestReloadTriesRefusedHandlersAgain(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "ready")
	r := newRig(t, nil)
	r.putScript("moody", "#!/bin/sh\n[ -e "+flag+" ] || exit 1\n"+strings.TrimPrefix(fakeConfig{Queues: []string{"a"}}.script(t), "#!/bin/sh\n"))
	r.start(nil)
	r.untilState("moody", Refused)
	must(t, os.WriteFile(flag, nil, 0o600))
	r.Reload(Settings{})
	r.untilState("moody", Serving)
}

func TestCommands(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	r := newRig(t, func(c *Config) {
		c.Commands = []Command{{Name: "bench", Path: self, Args: []string{"bench-handler"}}}
		c.Settings.Handlers = map[string]HandlerSettings{"bench": {Env: map[string]string{fakeEnv: `{"Queues":["a"],"Env":true}`}}}
		c.Dir = filepath.Join(c.Dir, "missing")
	})
	r.run()
	wait(t, "settling", r.Settled())
	if s := r.untilState("bench", Serving); s.Path != self || !strings.HasSuffix(s.Version, "bench-handler") {
		t.Errorf("status %+v", s)
	}
	// A directory that appears later is found, and a file cannot take the name.
	r.dir = filepath.Join(r.dir, "missing")
	must(t, os.Mkdir(r.dir, 0o755))
	r.put("bench", fakeConfig{Queues: []string{"b"}})
	r.put("other", fakeConfig{Queues: []string{"c"}})
	r.untilState("other", Serving)
	if qs := r.Queues(); len(qs) != 2 || qs[0].Handler != "bench" || qs[1].Handler != "other" {
		t.Errorf("queues %+v", qs)
	}
	if len(r.log.lines("a built-in handler has its name")) != 1 {
		t.Error("nothing was said of the file with a taken name")
	}
}

func TestNoHandlersStartAtOnce(t *testing.T) {
	r := newRig(t, nil).start(nil)
	if len(r.Status()) != 0 || len(r.Queues()) != 0 {
		t.Errorf("status %v, queues %v", r.Status(), r.Queues())
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, cfg := range map[string]Config{
		"StateDir is empty":      {},
		"PingTimeout":            {StateDir: dir, PingInterval: time.Minute},
		"RestartMax":             {StateDir: dir, RestartMin: time.Hour},
		"two commands are named": {StateDir: dir, Commands: []Command{{Name: "a"}, {Name: "a"}}},
		"not a directory":        {StateDir: file},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error about %q, got %v", name, err)
		}
	}
}

func TestLeftoversOfAnEarlierLifeAreRemoved(t *testing.T) {
	// Once with sockets below the state directory, once with a path that is
	// too long for them.
	for _, state := range []string{filepath.Join("/tmp", fmt.Sprintf("pgqrsd-test-%d", os.Getpid())), filepath.Join(t.TempDir(), strings.Repeat("long", 30))} {
		t.Cleanup(func() { _ = os.RemoveAll(state) })
		first, err := New(Config{StateDir: state})
		must(t, err)
		if n := len(first.launcher.sockets) + socketPathRoom; n > maxSocketPath {
			t.Errorf("a socket's path would be %d bytes long", n)
		}
		left := []string{filepath.Join(first.launcher.sockets, "p1"), filepath.Join(first.staging, "hash")}
		for _, dir := range left {
			must(t, os.Mkdir(dir, 0o700))
		}
		second, err := New(Config{StateDir: state})
		must(t, err)
		for _, dir := range left {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left", dir)
			}
		}
		if info, err := os.Stat(second.launcher.sockets); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("socket directory: %v, %v", info, err)
		}
		must(t, os.RemoveAll(second.launcher.sockets))
	}
}

func TestProcessDirectoriesGoWithTheirProcesses(t *testing.T) {
	r := newRig(t, nil).start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	dirs := func() int {
		entries, err := os.ReadDir(r.launcher.sockets)
		must(t, err)
		return len(entries)
	}
	if n := dirs(); n != 1 {
		t.Errorf("%d directories for one process", n)
	}
	lane, sink := r.attach("a")
	for id := range int64(3) {
		sink.untilRoom(lane)
		send(t, lane, jobOf(id+1, "kill"))
		sink.result(id + 1)
	}
	r.until("alpha", "serving again", func(s Status) bool { return s.State == Serving && s.Restarts == 3 })
	untilTrue(t, "one directory to be left", func() bool { return dirs() == 1 })
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "alpha")
	must(t, os.WriteFile(path, []byte(fakeConfig{Queues: []string{"a", "b"}, Version: "9"}.script(t)), 0o755))
	s, err := Check(t.Context(), path, Config{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	if s.State != Serving || s.Version != "9" || strings.Join(s.Queues, " ") != "a b" || s.PID == 0 || alive(s.PID) {
		t.Errorf("status %+v, alive %v", s, alive(s.PID))
	}
	bad := filepath.Join(dir, "bad")
	must(t, os.WriteFile(bad, []byte(fakeConfig{Start: "exit"}.script(t)), 0o755))
	s, err = Check(t.Context(), bad, Config{})
	if err == nil || s.State != Refused || !strings.Contains(s.Error, "exited with status 3") || !strings.Contains(err.Error(), s.Error) {
		t.Errorf("status %+v, error %v", s, err)
	}
	must(t, os.Chmod(bad, 0o644))
	if _, err = Check(t.Context(), bad, Config{}); err == nil || !strings.Contains(err.Error(), "chmod +x") {
		t.Errorf("error %v", err)
	}
	if _, err = Check(t.Context(), filepath.Join(dir, "none"), Config{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestFixedFileIsStartedWhileTheBadOneStillHangs(t *testing.T) {
	r := newRig(t, nil)
	r.put("alpha", fakeConfig{Start: "hang"})
	r.run()
	r.untilState("alpha", Starting)
	r.put("alpha", fakeConfig{Queues: []string{"a"}})
	began := time.Now()
	r.untilState("alpha", Serving)
	if d := time.Since(began); d > r.cfg.StartTimeout {
		t.Errorf("it took %s", d)
	}
}

func TestChangesAreTold(t *testing.T) {
	var changes atomic.Int32
	r := newRig(t, func(c *Config) { c.OnChange = func() { changes.Add(1) } })
	r.start(map[string]fakeConfig{"alpha": {Queues: []string{"a"}}})
	before := changes.Load()
	if before == 0 {
		t.Error("OnChange was not called for the start")
	}
	must(t, os.Remove(filepath.Join(r.dir, "alpha")))
	untilTrue(t, "the removal to be told", func() bool { return len(r.Status()) == 0 && changes.Load() > before })
}

// processState is the state of a process in /proc: "S", "T" or "Z"...
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}
