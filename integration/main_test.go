// Package integration runs the real binary with real handler processes on real
// databases, and kills them.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
		out, err := exec.Command("go", append(args, pkg)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}
