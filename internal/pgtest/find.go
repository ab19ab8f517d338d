package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// minMajor is the oldest PostgreSQL that pgqrsd supports.
const minMajor = 15

// errNoServer tells a person what to type.
var errNoServer = errors.New(`pgtest: no PostgreSQL server to test with, do one of these:
  - run the tests through scripts/with-postgres.sh, which finds or installs one
  - install it: apt-get install postgresql
  - set PGQRS_TEST_PG_BINDIR to the directory that holds initdb and postgres (version 15 or later)
  - set PGQRS_TEST_DSN to a database that the tests may use`)

// BinDir returns the directory of the server's programs (initdb, pg_ctl,
// postgres). It looks at PGQRS_TEST_PG_BINDIR, pg_config, the places where
// packages put them, newest version first, and PATH.
func BinDir() (string, error) {
	if dir := os.Getenv("PGQRS_TEST_PG_BINDIR"); dir != "" {
		if major(dir) < minMajor {
			return "", fmt.Errorf("pgtest: PGQRS_TEST_PG_BINDIR=%s holds no PostgreSQL server of version %d or later", dir, minMajor)
		}
		return dir, nil
	}
	for _, dir := range candidates() {
		if major(dir) >= minMajor {
			return dir, nil
		}
	}
	return "", errNoServer
}

func candidates() []string {
	var dirs []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	var packaged []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern) // the only error is a bad pattern
		packaged = append(packaged, found...)
	}
	sort.SliceStable(packaged, func(i, j int) bool { return major(packaged[i]) > major(packaged[j]) })
	dirs = append(dirs, packaged...)
	if path, err := exec.LookPath("initdb"); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

var versionRE = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// major returns the major version of the server in dir, 0 if there is none
// that could be started.
func major(dir string) int {
	for _, name := range []string{"initdb", "pg_ctl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return 0
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	m := versionRE.FindSubmatch(out)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return 0
	}
	return n
}
