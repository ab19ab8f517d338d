package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func writeFile(t *testing.T, doc string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, doc string, environ ...string) (*Loaded, error) {
	t.Helper()
	return Load(Options{File: writeFile(t, doc), Environ: environ})
}

func mustLoad(t *testing.T, doc string, environ ...string) *Loaded {
	t.Helper()
	loaded, err := load(t, doc, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestPrecedence(t *testing.T) {
	doc := `
dsn = "sqlite:file.db"
schema = "from_file"
plugins = "/file"
[http]
addr = "127.0.0.1:1"
`
	loaded, err := Load(Options{
		File:    writeFile(t, doc),
		Environ: []string{"PGQRS_DSN=sqlite:env.db", "PGQRS_PLUGINS=/env", "OTHER=1", "PGQRS_TEST_DSN=x"},
		Flags:   []Flag{{"dsn", "dsn", "sqlite:flag.db"}, {"http.addr", "http", "127.0.0.1:2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	for _, e := range loaded.Entries() {
		sources[e.Key()] = fmt.Sprintf("%v from %s", e.Value, strings.TrimPrefix(e.Source, loaded.File))
	}
	for key, want := range map[string]string{
		"dsn":                  "sqlite:flag.db from flag --dsn",
		"schema":               "from_file from :3",
		"plugins":              "/env from environment PGQRS_PLUGINS",
		"http.addr":            "127.0.0.1:2 from flag --http",
		"daemon.drain_timeout": "30s from default",
	} {
		if sources[key] != want {
			t.Errorf("%s is %s, want %s", key, sources[key], want)
		}
	}
	if want := []string{"PGQRS_DSN", "PGQRS_PLUGINS"}; !reflect.DeepEqual(loaded.Variables, want) {
		t.Errorf("Variables = %q, want %q", loaded.Variables, want)
	}
}

func TestEnvironmentOfEveryKind(t *testing.T) {
	loaded := mustLoad(t, "", "PGQRS_DAEMON_DRAIN_TIMEOUT=2m", "PGQRS_STORE_POOL_SIZE=7", "PGQRS_STORE_PGBOUNCER=true",
		"PGQRS_HTTP_RATE_LIMIT=1.5", "PGQRS_PAYLOAD_FORBIDDEN_KEYS=a, b", "PGQRS_QUEUE_DEFAULTS_BACKOFF_KIND=fixed")
	if loaded.Daemon.DrainTimeout != 2*time.Minute || loaded.Store.PoolSize != 7 || !loaded.Store.PgBouncer ||
		loaded.HTTP.RateLimit != 1.5 || !reflect.DeepEqual(loaded.Payload.ForbiddenKeys, []string{"a", "b"}) ||
		loaded.QueueDefaults.Backoff.Kind != "fixed" {
		t.Errorf("got %+v", loaded.Config)
	}
}

func TestEnvironmentNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, key := range fixedKeys() {
		if other, taken := seen[envName(key)]; taken {
			t.Errorf("%s and %s share %s", dotted(other), dotted(key), envName(key))
		}
		seen[envName(key)] = key
	}
}

func TestQueuesInheritDefaults(t *testing.T) {
	loaded := mustLoad(t, `
[queue_defaults]
concurrency = 3
[queue_defaults.backoff]
delay = "2s"
[queues."mail.eu:high"]
lease = "5s"
backoff.cap = "3s"
[queues.empty]
`)
	q := loaded.Queues["mail.eu:high"]
	if q.Concurrency != 3 || q.Lease != 5*time.Second || q.Backoff.Delay != 2*time.Second || q.Backoff.Cap != 3*time.Second ||
		q.Backoff.Kind != "exponential" || q.MaxAttempts != 5 {
		t.Errorf("queue is %+v", q)
	}
	empty, found := loaded.Queues["empty"]
	if !found || !reflect.DeepEqual(empty, loaded.QueueDefaults) {
		t.Errorf("the empty queue is %+v (found %v), want the defaults", empty, found)
	}
	for _, e := range loaded.Entries() {
		switch e.Key() {
		case `queues."mail.eu:high".lease`:
			if !strings.HasSuffix(e.Source, ":7") {
				t.Errorf("lease comes from %s, want line 7", e.Source)
			}
		case `queues."mail.eu:high".timeout`:
			if e.Source != "queue_defaults" {
				t.Errorf("timeout comes from %s", e.Source)
			}
		}
	}
}

func TestFileErrors(t *testing.T) {
	for name, test := range map[string]struct{ doc, want string }{
		"not TOML":           {"dsn = \"x\"\nschema == 1\n", ":2: "},
		"set twice":          {"schema = \"a\"\nschema = \"b\"\n", "schema"},
		"unknown key":        {"\n[daemon]\ndrain_timout = \"1s\"\n", ":3: daemon.drain_timout: unknown key; did you mean daemon.drain_timeout?"},
		"unknown table":      {"[deamon]\n", ":1: deamon: unknown key; did you mean daemon?"},
		"under wrong header": {"[log]\ndsn = \"sqlite:x\"\n", ":2: log.dsn: unknown key; did you mean dsn?"},
		"nothing near":       {"[log]\nzzzzzzzzzz = 1\n", "log.zzzzzzzzzz: unknown key; this table has level, format"},
		"queue's key":        {"[queues.a]\nleese = \"1s\"\n", ":2: queues.a.leese: unknown key; did you mean queues.a.lease?"},
		"inline table":       {"http = { adr = \"x\" }\n", ":1: http.adr: unknown key; did you mean http.addr?"},
		"string for number":  {"[store]\npool_size = \"ten\"\n", ":2: store.pool_size: must be a whole number, not a string"},
		"number for duration": {
			"[daemon]\ncancel_grace = 30\n", `:2: daemon.cancel_grace: must be a duration such as "30s", not a whole number`},
		"no duration":        {"[daemon]\ncancel_grace = \"soon\"\n", `:2: daemon.cancel_grace: "soon" is not a duration; write it like "500ms"`},
		"fraction":           {"[store]\npool_size = 1.5\n", "store.pool_size: must be a whole number, not a number with a fraction"},
		"value for table":    {"http = 1\n", ":1: http: must be a table, not a whole number"},
		"table for value":    {"[dsn]\n", ":1: dsn: must be a string, not a table"},
		"array of tables":    {"[[http]]\n", ":1: http: must be a table, not a list"},
		"list of numbers":    {"[payload]\nrequired_keys = [\"a\", 1]\n", "payload.required_keys: must be a list of strings; item 2 is a whole number"},
		"NUL":                {"schema = \"a\\u0000\"\n", "schema: holds a NUL character"},
		"env not a string":   {"[handlers.h.env]\nTOKEN = 12345\n", ":2: handlers.h.env.TOKEN: must be a string, not a whole number"},
		"reserved: protocol": {"[handlers.h.env]\nPGQRSD_HANDLER = \"x\"\n", `:2: handlers.h.env.PGQRSD_HANDLER: "PGQRSD_HANDLER" is reserved`},
		"reserved: plugin":   {"[handlers.h.env]\nPLUGIN_MIN_PORT = \"1\"\n", `:2: handlers.h.env.PLUGIN_MIN_PORT: "PLUGIN_MIN_PORT" is reserved`},
		"bad queue name":     {"[queues.\"a b\"]\n", ":1: queues.\"a b\": queue name \"a b\""},
		"bad handler name":   {"[handlers.\"../x\"]\n", "is not the name of a file"},
		"empty dsn":          {"dsn = \"\"\n", ":1: dsn: must not be empty"},
		"lease too short":    {"[queues.a]\nlease = \"500ms\"\n", ":2: queues.a.lease: must be at least 1s"},
		"default's lease":    {"[queue_defaults]\nlease = \"0s\"\n[queues.a]\n", ":2: queue_defaults.lease: must be at least 1s"},
		"jitter":             {"[queue_defaults.backoff]\njitter = 2\n", ":2: queue_defaults.backoff.jitter: must be 0 to 1"},
		"cap below delay":    {"[queues.a.backoff]\ndelay = \"20m\"\n", ":2: queues.a.backoff.delay: cap (10m) must not be shorter than delay (20m)"},
		"worker timeout":     {"[daemon]\nworker_timeout = \"5s\"\n", ":2: daemon.worker_timeout: worker_timeout (5s) must be at least twice heartbeat_interval (5s)"},
		"heartbeat":          {"[daemon]\nheartbeat_interval = \"1m\"\n", ":2: daemon.heartbeat_interval: worker_timeout (30s) must be at least twice heartbeat_interval (1m)"},
		"log level":          {"[log]\nlevel = \"loud\"\n", ":2: log.level: must be debug, info, warn or error"},
		"address":            {"[http]\naddr = \"7433\"\n", ":2: http.addr: must be host:port"},
		"both":               {"[payload]\nrequired_keys = [\"a\"]\nforbidden_keys = [\"a\"]\n", `"a" cannot be both required and forbidden`},
	} {
		t.Run(name, func(t *testing.T) {
			loaded, err := load(t, test.doc)
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("Load gives %+v, %v; want an *Error", loaded, err)
			}
			if len(bad.Problems) != 1 {
				t.Errorf("%d problems, want 1:\n%v", len(bad.Problems), err)
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "config.toml") {
				t.Errorf("error is\n%v\nwant config.toml and\n%s", err, test.want)
			}
		})
	}
}

func TestAllProblemsAreReported(t *testing.T) {
	_, err := load(t, "nope = 1\n[store]\npool_size = \"x\"\n", "PGQRS_STORE_POOL_SIZE=y", "PGQRS_STOR_POOL_SIZE=1")
	var bad *Error
	if !errors.As(err, &bad) || len(bad.Problems) != 4 {
		t.Fatalf("want four problems, got:\n%v", err)
	}
}

func TestEnvironmentErrors(t *testing.T) {
	for variable, want := range map[string]string{
		"PGQRS_DNS=x":                      "environment: PGQRS_DNS: no such variable; did you mean PGQRS_DSN?",
		"PGQRS_QUEUES_A_LEASE=1s":          "PGQRS_QUEUES_A_LEASE: no such variable; single queues and handlers are configured in the file",
		"PGQRS_STORE_POOL_SIZE=many":       `environment PGQRS_STORE_POOL_SIZE: store.pool_size: must be a whole number, not "many"`,
		"PGQRS_STORE_PGBOUNCER=perhaps":    `store.pgbouncer: must be true or false, not "perhaps"`,
		"PGQRS_HTTP_RATE_LIMIT=NaN":        `http.rate_limit: must be a number, not "NaN"`,
		"PGQRS_DAEMON_DRAIN_TIMEOUT=30":    `environment PGQRS_DAEMON_DRAIN_TIMEOUT: daemon.drain_timeout: "30" is not a duration`,
		"PGQRS_QUEUE_DEFAULTS_LEASE=100ms": "environment PGQRS_QUEUE_DEFAULTS_LEASE: queue_defaults.lease: must be at least 1s",
	} {
		_, err := load(t, "", variable)
		var bad *Error
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives\n%v\nwant an *Error with\n%s", variable, err, want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Options{File: filepath.Join(t.TempDir(), "none.toml")})
	var bad *Error
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "none.toml: cannot read the configuration: no such file") {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	loaded := mustLoad(t, `
dsn = "postgres://user:hunter2@host/db"
[handlers.webhook]
args = ["--token", "hunter2"]
[handlers.webhook.env]
SECRET = "hunter2"
`)
	for _, e := range loaded.Entries() {
		if strings.Contains(fmt.Sprint(e), "hunter2") || strings.Contains(e.TOML(), "hunter2") {
			t.Errorf("%s shows the secret: %v", e.Key(), e)
		}
	}
}

func TestStateDir(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"STATE_DIRECTORY": "/var/lib/pgqrsd:/var/lib/x", "HOME": "/root"}, "/var/lib/pgqrsd/daemon"},
		{map[string]string{"XDG_STATE_HOME": "/xdg", "HOME": "/root"}, "/xdg/pgqrsd"},
		{map[string]string{"XDG_STATE_HOME": "relative", "HOME": "/root"}, "/root/.local/state/pgqrsd"},
		{nil, filepath.Join(os.TempDir(), fmt.Sprintf("pgqrsd-%d", os.Getuid()))},
	} {
		if got := defaultStateDir(func(name string) string { return test.env[name] }); got != test.want {
			t.Errorf("with %v it is %s, want %s", test.env, got, test.want)
		}
	}
}

func TestEveryDatabaseHasItsStateDir(t *testing.T) {
	dir := func(dsn string, environ ...string) string {
		return mustLoad(t, fmt.Sprintf("dsn = %q\n", dsn), append(environ, "HOME=/home/x")...).Daemon.StateDir
	}
	a := dir("postgres://u:one@h/a")
	if !strings.HasPrefix(a, "/home/x/.local/state/pgqrsd/") {
		t.Errorf("the state directory is %s", a)
	}
	if b := dir("postgres://u:two@h/a"); a != b {
		t.Errorf("a new password moves the state directory from %s to %s", a, b)
	}
	if b := dir("postgres://u:one@h/b"); a == b {
		t.Errorf("two databases share %s", a)
	}
	if b := dir("postgres://u:one@h/a", "PGQRS_SCHEMA=other"); a == b {
		t.Errorf("two schemas share %s", a)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := dir("sqlite:x.db"), dir("sqlite://"+wd+"/x.db?mode=rw"); a != b {
		t.Errorf("one file has two state directories, %s and %s", a, b)
	}
	if got := dir("sqlite:x.db", "PGQRS_DAEMON_STATE_DIR=/var/x"); got != "/var/x" {
		t.Errorf("the configured state directory became %s", got)
	}
}
