package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
)

// newPostgresCLI is a command line on a schema of its own, not installed.
func newPostgresCLI(t *testing.T) *cli {
	t.Helper()
	schema := pgtest.Schema(t)
	return &cli{T: t, global: []string{"--dsn", pgtest.DSN(t), "--schema", schema}}
}

func TestMissingSQLiteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	c := &cli{T: t, global: []string{"--dsn", "sqlite:" + path}}
	c.fails(exitError, []string{path, "pgqrsd install"}, "queue", "list")
	c.fails(exitError, []string{path, "pgqrsd install"}, "verify")
	if _, err := os.Stat(path); err == nil {
		t.Error("a command that only looks created the file")
	}
	if got := c.object("install"); got["ok"] != true || got["backend"] != "sqlite" {
		t.Errorf("install prints %v", got)
	}
	if r := c.run("verify"); r.status != 0 || !strings.Contains(r.stderr, "installed and up to date in sqlite:"+path) {
		t.Errorf("verify gives %+v", r)
	}
}

func TestPostgresNotInstalled(t *testing.T) {
	c := newPostgresCLI(t)
	for _, command := range [][]string{{"verify"}, {"stats"}, {"queue", "list"}, {"message", "enqueue", "q", "--payload", "1"}, {"run", "--http", ""}} {
		c.fails(exitError, []string{"pgqrsd install"}, command...)
	}
	c.ok("install")
	c.ok("install")
	if got := c.object("verify"); got["schema"] != c.global[3] {
		t.Errorf("verify prints %v", got)
	}
}

func TestUnreachable(t *testing.T) {
	c := &cli{T: t, global: []string{"--dsn", "postgres://someone:hunter2@127.0.0.1:1/db"}}
	for _, command := range [][]string{{"queue", "list"}, {"install"}, {"run", "--http", ""}} {
		c.fails(exitUnavailable, []string{"127.0.0.1"}, command...)
	}
	if r := c.run("queue", "list"); strings.Contains(r.stderr, "hunter2") {
		t.Errorf("the error shows the password:\n%s", r.stderr)
	}
}

// A row that an application's transaction keeps locked is an error, and no
// database that cannot be reached.
func TestLockedRun(t *testing.T) {
	c := newPostgresCLI(t)
	c.ok("install")
	c.ok("queue", "create", "flow", "--kind", "workflow")
	c.ok("workflow", "create", "flow", "--input", "1")
	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select `+pgx.Identifier{c.global[3]}.Sanitize()+`.send_signal(1, 'unasked', 'null')`); err != nil {
		t.Fatal(err)
	}
	c.fails(exitError, []string{"pause run 1", "kept locked by another transaction"}, "workflow", "pause", "1")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ok("workflow", "pause", "1")
}

func TestWrongPassword(t *testing.T) {
	u, err := url.Parse(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "hunter2")
	c := &cli{T: t, global: []string{"--dsn", u.String()}}
	c.fails(exitUnavailable, []string{"password"}, "queue", "list")
	if r := c.run("queue", "list"); strings.Contains(r.stderr, "hunter2") {
		t.Errorf("the error shows the password:\n%s", r.stderr)
	}
}

func TestUnknownScheme(t *testing.T) {
	c := &cli{T: t, global: []string{"--dsn", "mysql://u:hunter2@h/db"}}
	r := c.run("queue", "list")
	if r.status != exitUsage || !strings.Contains(r.stderr, "sqlite") || !strings.Contains(r.stderr, "postgres") || strings.Contains(r.stderr, "hunter2") {
		t.Errorf("an unknown scheme gives %+v", r)
	}
}

func TestConfigCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write := func(doc string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &cli{T: t, global: []string{"--config", path}, environ: []string{"PGQRS_SCHEMA=mine"}}
	write("dsn = \"postgres://u:hunter2@h/db\"\n[queues.emails]\nconcurrency = 7\n[handlers.mail.env]\nTOKEN = \"hunter2\"\n")
	check := c.object("config", "check")
	if check["file"] != path || check["queues"] != 1.0 || check["dsn"] != "postgres://u:*****@h/db" {
		t.Errorf("config check prints %v", check)
	}
	if out := c.ok("config", "check"); !strings.Contains(out, "PGQRS_SCHEMA") {
		t.Errorf("config check prints\n%s", out)
	}
	sources := map[string]any{}
	for _, e := range c.array("config", "show") {
		sources[e["key"].(string)] = e["source"]
	}
	for key, want := range map[string]string{
		"dsn": path + ":1", "schema": "environment PGQRS_SCHEMA", "queues.emails.concurrency": path + ":3",
		"queues.emails.lease": "queue_defaults", "plugins": "default", "handlers.mail.env.TOKEN": path + ":5",
	} {
		if sources[key] != want {
			t.Errorf("%s comes from %v, want %s", key, sources[key], want)
		}
	}
	if out := c.ok("config", "show"); strings.Contains(out, "hunter2") || !strings.Contains(out, "[queues.emails.backoff]") {
		t.Errorf("config show prints\n%s", out)
	}
	write("\nqueues = 1\n[daemon]\ndrain_timeout = 30\n")
	c.fails(exitUsage, []string{"config.toml:2: queues: must be", "config.toml:4: daemon.drain_timeout: must be"}, "config", "check")
	c.fails(exitUsage, []string{"config.toml:4"}, "queue", "list")
	c.fails(exitUsage, []string{"config.toml:4"}, "run")
}
