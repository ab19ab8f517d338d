package integration

import (
	"debug/elf"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The release binary is static.
func TestStaticBinary(t *testing.T) {
	t.Parallel()
	path := buildDaemon(t)
	f, err := elf.Open(path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	libs, err := f.ImportedLibraries()
	must(t, err)
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || len(libs) > 0 {
			t.Fatalf("the binary asks for an interpreter or for libraries %v", libs)
		}
	}
}

// A binary without a backend says which build tag left it out.
func TestCompiledOut(t *testing.T) {
	t.Parallel()
	for tag, dsn := range map[string]string{
		"nosqlite":   "sqlite:some.db",
		"nopostgres": "postgres://user@127.0.0.1/db",
	} {
		out, err := exec.Command(buildDaemon(t, "-tags", tag), "--dsn", dsn, "queue", "list").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), tag) {
			t.Errorf("-tags %s: %v, %q; want exit status 2 and the tag named", tag, err, out)
		}
	}
}

func buildDaemon(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgqrsd")
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, args...), "../cmd/pgqrsd")...)
	cmd.Env = append(baseEnv(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}
