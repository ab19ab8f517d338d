// Package integration runs the real binary with real handler processes on real
// databases, and kills them.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bin holds what the tests run: pgqrsd, its handlers, census and order.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgqrsd-it-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a directory for the binaries:", err)
		os.Exit(1)
	}
	bin = dir
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build compiles the daemon, under the race detector when the tests are, and
// the handlers.
func build(dir string) error {
	for name, pkg := range map[string]string{
		"pgqrsd":       "../cmd/pgqrsd",
		"testhandler":  "./testhandler",
		"testworkflow": "./testworkflow",
		"census":       "../examples/census",
		"order":        "../examples/order",
		"transfer":     "../examples/transfer",
	} {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if raceEnabled && name == "pgqrsd" {
			args = append(args, "-race")
		}
		if err := compile(append(args, pkg)...); err != nil {
			return err
		}
	}
	// The same three, which can be killed at an exact place.
	for name, pkg := range map[string]string{
		"failing-pgqrsd": "../cmd/pgqrsd", "failing-testworkflow": "./testworkflow", "failing-transfer": "../examples/transfer",
	} {
		if err := compile("build", "-tags", "failpoints", "-o", filepath.Join(dir, name), pkg); err != nil {
			return err
		}
	}
	return nil
}

func compile(args ...string) error {
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
