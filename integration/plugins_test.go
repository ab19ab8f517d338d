package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// handlerRow is a row of `handler list -o json`.
type handlerRow struct {
	Name   string   `json:"name"`
	Path   string   `json:"path"`
	State  string   `json:"state"`
	Queues []string `json:"queues"`
	Error  string   `json:"error"`
}

func (w *world) handlers() map[string]handlerRow {
	w.t.Helper()
	var rows []handlerRow
	w.cliOK(&rows, "handler", "list")
	byName := make(map[string]handlerRow)
	for _, r := range rows {
		byName[r.Name] = r
	}
	return byName
}

func (w *world) script(name, text string) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, "plugins", name), []byte(text), 0o755))
}

// Whatever lies in the plugins directory, the good handlers run on and each bad
// file is named with its reason.
func TestBadPlugins(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		w.script("a-text", "just some words, no program\n")
		w.script("b-no-plugin", "#!/bin/sh\necho hello; exit 0\n")
		w.script("c-garbage", "#!/bin/sh\nhead -c 1000 /dev/urandom; exit 3\n")
		w.script("d-one-long-line", "#!/bin/sh\nhead -c 10000000 /dev/zero | tr '\\0' x; sleep 600\n")
		w.script("e-hangs", "#!/bin/sh\nexec sleep 600\n")
		w.script("f-other-protocol", "#!/bin/sh\necho '1|99|unix|/tmp/none|grpc|'\nexec sleep 600\n")
		w.script("empty", "")
		must(t, os.Symlink("loop", filepath.Join(w.dir, "plugins", "loop")))
		must(t, os.Symlink("nowhere", filepath.Join(w.dir, "plugins", "dangling")))
		must(t, os.Mkdir(filepath.Join(w.dir, "plugins", "directory"), 0o755))
		w.script(".hidden", "#!/bin/sh\nexit 1\n")
		w.script("backup~", "#!/bin/sh\nexit 1\n")
		must(t, os.WriteFile(filepath.Join(w.dir, "plugins", "README"), []byte("no run bit"), 0o600))
		w.plugin("testhandler", "zz-same-queue")

		d := w.start("a", settings{})
		ids := w.enqueue(many(50)...)
		w.settle()

		rows := w.handlers()
		if got := rows["testhandler"]; got.State != "serving" || !slices.Equal(got.Queues, []string{"work"}) {
			t.Errorf("testhandler: %+v, want serving work", got)
		}
		for _, bad := range []string{"a-text", "b-no-plugin", "c-garbage", "d-one-long-line", "e-hangs", "f-other-protocol", "empty", "loop", "dangling", "zz-same-queue"} {
			row, ok := rows[bad]
			if !ok || row.State != "refused" || row.Error == "" || len(row.Error) > 600 {
				t.Errorf("%s: %+v, want refused with a short reason", bad, row)
			}
			if n := strings.Count(d.logs.String(), "handler="+bad+" "); n > 4 {
				t.Errorf("%s has %d lines in the log", bad, n)
			}
			delete(rows, bad)
		}
		delete(rows, "testhandler")
		if len(rows) > 0 {
			t.Errorf("listed though it should be left out: %v", rows)
		}
		if e := w.handlers()["zz-same-queue"].Error; !strings.Contains(e, "testhandler") || !strings.Contains(e, "work") {
			t.Errorf("the refusal of a second handler for a queue does not name the first and the queue: %q", e)
		}
		d.stop()
		w.ledger(ids, nil)
	})
}

// A handler dropped in while the daemon runs serves; one that is removed is
// drained; one that is replaced is switched over without losing a job.
func TestDropInReplaceRemove(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		must(t, os.Remove(filepath.Join(w.dir, "plugins", "testhandler")))
		d := w.start("a", settings{queue: "concurrency = 2"})
		ids := w.enqueue(many(10)...)

		w.plugin("testhandler", "testhandler")
		w.settle()

		running := w.enqueue(gated(2, "go")...)
		w.started(running...)
		before := w.pidOf("testhandler", d)
		raw, err := os.ReadFile(filepath.Join(bin, "testhandler"))
		must(t, err)
		tmp := filepath.Join(w.dir, "plugins", ".new")
		must(t, os.WriteFile(tmp, append(raw, "another build"...), 0o755))
		must(t, os.Rename(tmp, filepath.Join(w.dir, "plugins", "testhandler")))
		w.eventually("the new process to run", func() bool {
			return slices.ContainsFunc(d.children(), func(pid int) bool { return pid != before })
		})
		w.openGate("go")
		ids = append(ids, w.enqueue(many(10)...)...)
		w.settle()
		w.eventually("the old process to end", func() bool { return !alive(before) })

		must(t, os.Remove(filepath.Join(w.dir, "plugins", "testhandler")))
		w.eventually("the removed handler to be gone", func() bool { return len(d.children()) == 0 && len(w.handlers()) == 0 })
		d.stop()
		w.ledger(append(ids, running...), nil)
	})
}

func (w *world) pidOf(name string, d *process) int {
	w.t.Helper()
	pids := d.children()
	if len(pids) != 1 {
		w.t.Fatalf("children %v, want only %s", pids, name)
	}
	return pids[0]
}

// A file that is still being copied is waited for, not refused.
func TestPluginBeingCopied(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		path := filepath.Join(w.dir, "plugins", "testhandler")
		raw, err := os.ReadFile(path)
		must(t, err)
		must(t, os.Remove(path))
		_, err = w.store.Queues().Insert(t.Context(), "work", store.QueuePolicy{})
		must(t, err)
		ids := w.enqueue(many(5)...)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
		must(t, err)
		_, err = f.Write(raw[:len(raw)/2])
		must(t, err)
		d := w.start("a", settings{})
		_, err = f.Write(raw[len(raw)/2:])
		must(t, err)
		must(t, f.Close())
		w.settle()
		if row := w.handlers()["testhandler"]; row.State != "serving" {
			t.Errorf("testhandler: %+v, want serving", row)
		}
		d.stop()
		w.ledger(ids, nil)
	})
}

// Two handlers: one that crashes at every job does not disturb the other.
func TestCrashTouchesNobodyElse(t *testing.T) {
	t.Parallel()
	onBackends(t, func(t *testing.T, w *world) {
		w.plugin("census", "census")
		file := filepath.Join(w.dir, "words")
		must(t, os.WriteFile(file, []byte("one\ntwo\n"), 0o600))
		d := w.start("a", settings{queue: "concurrency = 1\nmax_attempts = 2"})
		before := w.censusPid(d)
		_, err := w.store.Messages().Insert(t.Context(), slices.Repeat([]store.NewMessage{{Queue: "census", Payload: []byte(`{"path":"` + file + `"}`)}}, 100))
		must(t, err)
		var ids []int64
		for range 3 { // one after the other: of two that were sent, the first may be charged for what the second did
			ids = append(ids, w.enqueue(map[string]any{"kill": true})...)
			w.settle()
		}
		w.eventually("the census to end", func() bool { return w.unfinished("census") == 0 })
		if after := w.censusPid(d); after != before {
			t.Errorf("census was process %d and is now %d", before, after)
		}
		d.stop()
		for id, m := range w.archived("census") {
			if m.State != store.Done || m.Attempts != 0 {
				t.Errorf("census message %d: %s after %d failed attempts", id, m.State, m.Attempts)
			}
		}
		w.ledger(ids, failedOnce(ids...))
	})
}

// censusPid finds the process whose executable is census.
func (w *world) censusPid(d *process) int {
	w.t.Helper()
	for _, pid := range d.children() {
		raw, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "cmdline"))
		if err == nil && strings.Contains(string(raw), "census") {
			return pid
		}
	}
	w.t.Fatal("no census process runs")
	return 0
}
