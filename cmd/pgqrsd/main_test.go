package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pgqrs/pgqrsd/handlers"
)

// asPgqrsd makes the test binary be pgqrsd, for tests that need a process. In
// the plugins directory it is a handler.
const asPgqrsd = "PGQRSD_TEST_AS_PGQRSD"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(handlers.Handshake().MagicCookieKey) != "":
		serveTestHandler()
		return
	case os.Getenv(asPgqrsd) != "":
		main()
		return
	}
	os.Exit(m.Run())
}

// cli runs command lines against one database.
type cli struct {
	*testing.T
	global  []string
	environ []string
	stdin   string
}

// result is what a command line did.
type result struct {
	stdout, stderr string
	status         int
}

// newCLI is a command line on a new, installed SQLite file.
func newCLI(t *testing.T) *cli {
	t.Helper()
	c := &cli{T: t, global: []string{"--dsn", "sqlite:" + filepath.Join(t.TempDir(), "test.db")}}
	c.ok("install")
	return c
}

func (c *cli) run(args ...string) result {
	c.Helper()
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(c.stdin), out: &out, err: &errOut, environ: append([]string{"HOME=" + c.TempDir()}, c.environ...)}
	status := a.execute(append(append([]string{}, c.global...), args...))
	r := result{out.String(), errOut.String(), status}
	if strings.Contains(r.stderr, "panic") {
		c.Fatalf("%q panicked:\n%s", args, r.stderr)
	}
	return r
}

// ok runs a command that must succeed and returns its standard output.
func (c *cli) ok(args ...string) string {
	c.Helper()
	r := c.run(args...)
	if r.status != exitOK {
		c.Fatalf("%q: status %d\n%s%s", args, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must fail with this status and say these things.
func (c *cli) fails(status int, says []string, args ...string) {
	c.Helper()
	r := c.run(args...)
	if r.status != status {
		c.Errorf("%q: status %d, want %d\n%s%s", args, r.status, status, r.stdout, r.stderr)
	}
	if !strings.HasPrefix(r.stderr, "pgqrsd: ") {
		c.Errorf("%q: the error does not begin with the program's name: %q", args, r.stderr)
	}
	for _, text := range says {
		if !strings.Contains(r.stderr, text) {
			c.Errorf("%q: the error lacks %q:\n%s", args, text, r.stderr)
		}
	}
}

// object and array run a command with -o json.
func (c *cli) object(args ...string) map[string]any {
	c.Helper()
	return decode[map[string]any](c, args)
}

func (c *cli) array(args ...string) []map[string]any {
	c.Helper()
	list := decode[[]map[string]any](c, args)
	if list == nil {
		c.Errorf("%q prints null, want an array", args)
	}
	return list
}

func (c *cli) ids(args ...string) []int64 {
	c.Helper()
	return decode[[]int64](c, args)
}

func decode[T any](c *cli, args []string) T {
	c.Helper()
	out := c.ok(append([]string{"-o", "json"}, args...)...)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.Fatalf("%q prints no JSON of %T: %v\n%s", args, v, err, out)
	}
	return v
}

// fits checks the width of a table.
func (c *cli) fits(table string) {
	c.Helper()
	for line := range strings.Lines(table) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > maxWidth {
			c.Errorf("a line is %d characters wide: %s", n, line)
		}
		if strings.HasSuffix(line, " ") {
			c.Errorf("a line ends with blanks: %q", line)
		}
	}
}
