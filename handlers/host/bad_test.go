package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBadPluginsAreRefusedAndTheOthersServe(t *testing.T) {
	r := newRig(t, func(c *Config) { c.StartTimeout = 6 * time.Second })
	scripts := map[string]string{
		"text":     "just some notes\n",
		"noplugin": "#!/bin/sh\necho total 0\n",
		"silent":   "#!/bin/sh\nexit 0\n",
		"noshell":  "#!/no/such/shell\n",
		"hang":     fakeConfig{Start: "hang"}.script(t),
		"exit":     fakeConfig{Start: "exit"}.script(t),
		"panic":    fakeConfig{Start: "panic"}.script(t),
		"garbage":  fakeConfig{Start: "garbage"}.script(t),
		"longline": fakeConfig{Start: "longline"}.script(t),
		"other":    fakeConfig{Queues: []string{"x"}, Protocol: 7}.script(t),
		"mute":     fakeConfig{Queues: []string{"x"}, Describe: "hang"}.script(t),
		"noqueue":  fakeConfig{}.script(t),
		"badqueue": fakeConfig{Queues: []string{"no spaces"}}.script(t),
		"twice":    fakeConfig{Queues: []string{"x", "x"}}.script(t),
		"netrpc":   "#!/bin/sh\necho '1|1|unix|/tmp/x|netrpc'\nexec sleep 60\n",
		"oldcore":  "#!/bin/sh\necho '9|1|unix|/tmp/x|grpc'\nexec sleep 60\n",
		"nowork":   fakeConfig{Queues: []string{"y"}, NoWork: true}.script(t),
	}
	for name, script := range scripts {
		r.putScript(name, script)
	}
	must(t, os.Symlink("loop", filepath.Join(r.dir, "loop")))
	must(t, os.Symlink("/no/such/file", filepath.Join(r.dir, "dangling")))
	good := fakeConfig{Queues: []string{"a"}}
	must(t, os.Mkdir(filepath.Join(r.dir, "folder"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.dir, ".hidden"), []byte(good.script(t)), 0o755))
	must(t, os.WriteFile(filepath.Join(r.dir, "backup~"), []byte(good.script(t)), 0o755))
	must(t, os.WriteFile(filepath.Join(r.dir, "README"), []byte("no run bit"), 0o644))
	elsewhere := filepath.Join(t.TempDir(), "real")
	must(t, os.WriteFile(elsewhere, []byte(fakeConfig{Queues: []string{"linked"}}.script(t)), 0o755))
	must(t, os.Symlink(elsewhere, filepath.Join(r.dir, "link")))
	r.start(map[string]fakeConfig{"good": good})

	for name, want := range map[string]string{
		"text":     "exec format error",
		"noplugin": `it printed "total 0" where the handshake should be`,
		"silent":   "exited with status 0 before the handshake",
		"noshell":  "the interpreter or loader that it names does not exist",
		"hang":     "it hung at its start: no handshake on its standard output within 6s; it said: waiting for a database",
		"exit":     "exited with status 3 before the handshake; it said: no such option: --frobnicate",
		"panic":    "exited with status 2 before the handshake; it said: panic: no configuration",
		"garbage":  "where the handshake should be",
		"longline": `it printed "xxxxxx`,
		"other":    "it speaks version 7 of the handler protocol, this pgqrsd speaks 1",
		"mute":     "did not answer within 6s",
		"noqueue":  "it serves no queue",
		"badqueue": "its queue name",
		"twice":    `it describes queue "x" twice`,
		"netrpc":   "go-plugin of another kind",
		"oldcore":  "version 9 of go-plugin's handshake",
		"nowork":   "does not implement the handler protocol's Work",
		"loop":     "leads round in a loop",
		"dangling": "link to /no/such/file, which does not exist",
	} {
		s := r.untilState(name, Refused)
		if !strings.Contains(s.Error, want) {
			t.Errorf("%s: error %q, want %q", name, s.Error, want)
		}
		if len(s.Error) > 600 || strings.ContainsAny(s.Error, "\n\x00") {
			t.Errorf("%s: the error is a dump of %d bytes", name, len(s.Error))
		}
		// One line says it; nowork served for a moment and so has more.
		if lines := r.log.lines("handler=" + name + " "); len(lines) != 1 && name != "nowork" {
			t.Errorf("%s: %d lines: %s", name, len(lines), lines)
		}
	}
	for _, name := range []string{"good", "link"} {
		if s := r.untilState(name, Serving); s.Error != "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for _, name := range []string{"folder", ".hidden", "backup~", "README"} {
		if s, found := r.find(name); found {
			t.Errorf("%s is taken for a handler: %+v", name, s)
		}
	}
	lane, sink := r.attach("a")
	send(t, lane, jobOf(1, "done"))
	sink.result(1)
}

func TestHandlerThatEndsAfterItsHandshakeIsTriedAgain(t *testing.T) {
	r := newRig(t, nil)
	r.put("after", fakeConfig{Start: "after"})
	r.run()
	wait(t, "settling", r.Settled())
	s := r.untilState("after", Restarting)
	if !strings.Contains(s.Error, "exited with status 4 at its start") {
		t.Errorf("error %q", s.Error)
	}
}

// As the kernel kills when memory runs out.
func TestHandlerThatIsKilledAtItsStartIsTriedAgain(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "was-killed")
	r := newRig(t, func(c *Config) { c.RestartMax = 50 * time.Millisecond })
	r.putScript("killed", "#!/bin/sh\n[ -e "+flag+" ] || { touch "+flag+"; kill -KILL $$; }\n"+
		strings.TrimPrefix(fakeConfig{Queues: []string{"a"}}.script(t), "#!/bin/sh\n"))
	r.run()
	r.untilState("killed", Serving)
	if lines := r.log.lines("before the handshake"); len(lines) != 1 || !strings.Contains(lines[0], "killed by signal 9") {
		t.Errorf("the log says %q", lines)
	}
}

func TestHandlerThatWasTooSlowIsTriedAgain(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "machine-is-idle")
	r := newRig(t, func(c *Config) { c.StartTimeout, c.RestartMax = time.Second, 50*time.Millisecond })
	r.putScript("slow", "#!/bin/sh\n[ -e "+flag+" ] || exec sleep 60\n"+
		strings.TrimPrefix(fakeConfig{Queues: []string{"a"}}.script(t), "#!/bin/sh\n"))
	r.start(nil)
	if s := r.untilState("slow", Refused); !strings.Contains(s.Error, "hung at its start") {
		t.Errorf("status %+v", s)
	}
	must(t, os.WriteFile(flag, nil, 0o600))
	r.untilState("slow", Serving)
	if lines := r.log.lines("handler=slow", "refused"); len(lines) != 1 {
		t.Errorf("%d lines: %s", len(lines), lines)
	}
}

func TestHandlerThatIsNotReadyYetIsTriedAgain(t *testing.T) {
	r := newRig(t, nil)
	flag := filepath.Join(t.TempDir(), "database-is-up")
	r.putScript("early", "#!/bin/sh\n[ -e "+flag+" ] || { echo no database >&2; exit 75; }\n"+
		strings.TrimPrefix(fakeConfig{Queues: []string{"a"}}.script(t), "#!/bin/sh\n"))
	r.run()
	wait(t, "settling", r.Settled())
	if s := r.untilState("early", Restarting); s.Error != "it is not ready yet (exit status 75); it said: no database" {
		t.Errorf("error %q", s.Error)
	}
	must(t, os.WriteFile(flag, nil, 0o600))
	r.untilState("early", Serving)
}

func TestFileThatIsBeingCopiedIsWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	script := fakeConfig{Queues: []string{"a"}}.script(t)
	half := len(script) / 2
	path := filepath.Join(r.dir, "slow")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = f.WriteString(script[:half])
	must(t, err)
	// It looks old, and has not changed for long, but somebody writes it.
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(path, old, old))
	r.start(map[string]fakeConfig{"good": {Queues: []string{"b"}}})
	s := r.until("slow", "being written", func(s Status) bool { return s.Error != "" })
	if s.State != Starting || !strings.Contains(s.Error, "still being written") {
		t.Errorf("status %+v", s)
	}
	_, err = f.WriteString(script[half:])
	must(t, err)
	must(t, f.Close())
	r.untilState("slow", Serving)
	if lines := r.log.lines("handler=slow", "still being written"); len(lines) != 1 {
		t.Errorf("%d lines: %s", len(lines), lines)
	}
	if lines := r.log.lines("handler=slow", "refused"); len(lines) != 0 {
		t.Errorf("it was tried too early: %s", lines)
	}
}

func TestFreshFileIsWaitedForUntilItStaysTheSame(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ScanInterval = 50 * time.Millisecond })
	r.start(nil)
	script := fakeConfig{Queues: []string{"a"}}.script(t)
	path := filepath.Join(r.dir, "grows")
	// Each piece is written by an open of its own, so that nobody has the file
	// open in between, and each scan finds another size.
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(script); i += 12 {
		<-tick.C
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o755)
		must(t, err)
		_, err = f.WriteString(script[i:min(i+12, len(script))])
		must(t, err)
		must(t, f.Close())
	}
	r.untilState("grows", Serving)
}
