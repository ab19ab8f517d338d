package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

func TestConsumersComeAndGoWithTheirHandlers(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		plugin := fmt.Sprintf("#!/bin/sh\nexec '%s'\n", cfg.Commands[0].Path)
		cfg.Commands, cfg.Plugins = nil, t.TempDir()
		f := run(t, cfg)
		if all := f.list(store.KindConsumer, ""); len(all) != 0 {
			t.Fatalf("without a handler there are consumers: %+v", all)
		}

		drop := func() {
			t.Helper()
			// Moved into place whole, as a deployment should.
			tmp := filepath.Join(t.TempDir(), "plugin")
			if err := os.WriteFile(tmp, []byte(plugin), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tmp, filepath.Join(cfg.Plugins, "dropped")); err != nil {
				t.Fatal(err)
			}
		}
		drop()
		f.eventually("the dropped handler's queue is served", func() bool { return f.queueState("work") == store.WorkerReady })
		f.becomes(f.enqueue(order{})[0], store.Done)

		running := f.enqueue(order{Do: "wait", File: f.path("go")})[0]
		f.starts(running)
		if err := os.Remove(filepath.Join(cfg.Plugins, "dropped")); err != nil {
			t.Fatal(err)
		}
		f.eventually("the handler drains", func() bool {
			all := f.d.handlers()
			return len(all) == 0 || all[0].State == host.Draining
		})
		f.touch("go")
		f.becomes(running, store.Done)
		f.eventually("its consumers are stopped", func() bool {
			return f.queueState("work") == "" && len(f.live(store.KindConsumer)) == 0
		})
		waiting := f.enqueue(order{})[0]

		drop()
		if m := f.becomes(waiting, store.Done); m.Attempts != 0 {
			t.Errorf("attempts %d", m.Attempts)
		}
	})
}

func TestARefusedHandlerStopsNothing(t *testing.T) {
	cfg := testConfig(t, openSQLite(t))
	cfg.Plugins = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.Plugins, "notes"), []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := run(t, cfg)
	f.becomes(f.enqueue(order{})[0], store.Done)
	code, _, body := f.call("GET", "/readyz", "")
	var ready readiness
	if err := json.Unmarshal([]byte(body), &ready); err != nil || code != http.StatusOK || !ready.Ready {
		t.Fatalf("readyz answers %d %s", code, body)
	}
	states := map[string]host.State{}
	for _, h := range ready.Handlers {
		states[h.Name] = h.State
		if h.State == host.Refused && h.Error == "" {
			t.Errorf("%s is refused without a reason", h.Name)
		}
	}
	if states["notes"] != host.Refused || states["testhandler"] != host.Serving {
		t.Errorf("the handlers are %v", states)
	}
}

func TestADeletedQueueIsServedNoMore(t *testing.T) {
	onEachStore(t, func(t *testing.T, s store.Store) {
		cfg := testConfig(t, s)
		f := run(t, cfg)
		if err := s.Queues().Delete(t.Context(), "work", true); err != nil {
			t.Fatal(err)
		}
		f.eventually("the daemon has noticed", func() bool { return f.queueState("work") == "" })
		f.becomes(f.insert("more", `{}`), store.Done)
		code, _, body := f.call("POST", "/api/v1/queues/work/messages", `{"messages":[{"payload":{}}]}`)
		if code != http.StatusNotFound || !strings.Contains(body, "work") {
			t.Errorf("a deleted queue is answered %d %s", code, body)
		}

		if _, err := s.Queues().Ensure(t.Context(), "work", store.QueuePolicy{}); err != nil {
			t.Fatal(err)
		}
		cfg.Store = nil
		if err := f.d.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		f.eventually("the queue is served again", func() bool { return f.queueState("work") == store.WorkerReady })
		f.becomes(f.enqueue(order{})[0], store.Done)
	})
}
