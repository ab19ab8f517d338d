package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigCheckReadsTheDSN(t *testing.T) {
	for _, dsn := range []string{
		"mysql://u:hunter2@h/db", "user=u password=hunter2", "postgres://u:hunter2@h:port/db", "sqlite:",
	} {
		c := &cli{T: t, environ: []string{"PGQRS_DSN=" + dsn}}
		c.fails(exitUsage, []string{"environment PGQRS_DSN: dsn: ", "bad DSN: "}, "config", "check")
		if r := c.run("config", "check"); strings.Contains(r.stderr, "hunter2") || strings.Contains(r.stderr, ":: ") || r.stdout != "" {
			t.Errorf("config check of %q gives %+v", dsn, r)
		}
	}
	c := &cli{T: t, global: []string{"--dsn", "postgres://u:hunter2@127.0.0.1:1/db"}}
	if got := c.object("config", "check"); strings.Contains(got["dsn"].(string), "hunter2") {
		t.Errorf("config check prints %v", got)
	}
}

func TestConfigCheckWarns(t *testing.T) {
	dir := t.TempDir()
	file, plugins := filepath.Join(dir, "config.toml"), filepath.Join(dir, "plugins")
	c := &cli{T: t, global: []string{"--config", file}, environ: []string{"PGQRS_PLUGINS=" + plugins}}
	c.must(os.WriteFile(file, []byte("[handlers.\"a.b\"]\nargs = [\"hunter2\"]\n"), 0o600))
	warned := func() []any { return c.object("config", "check")["warnings"].([]any) }
	none, ghost := "the plugins directory "+plugins+" does not exist", `handlers."a.b" is configured, but `+plugins+" holds no file of that name"
	if got := warned(); len(got) != 2 || !strings.HasPrefix(got[0].(string), none) || got[1] != ghost {
		t.Errorf("without a plugins directory it warns %q", got)
	}
	c.must(os.Mkdir(plugins, 0o755))
	if got := warned(); len(got) != 1 || got[0] != ghost {
		t.Errorf("without the handler it warns %q", got)
	}
	c.must(os.WriteFile(filepath.Join(plugins, "a.b"), nil, 0o755))
	if got := warned(); len(got) != 0 {
		t.Errorf("with all that is needed it warns %q", got)
	}
	if out := c.ok("config", "show"); strings.Contains(out, "hunter2") || !strings.Contains(out, `args = ["*****"]`) {
		t.Errorf("config show prints\n%s", out)
	}
}

func TestRunInAMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	c := &cli{T: t, global: []string{"--dsn", "sqlite:" + filepath.Join(dir, "x.db")}}
	for _, command := range [][]string{{"run", "--http", ""}, {"install"}} {
		c.fails(exitUnavailable, []string{"the directory " + dir + " does not exist; create it first\n"}, command...)
	}
}
