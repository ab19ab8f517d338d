package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The lines that the README shows for a workflow of one's own do what they say,
// in a directory that holds what `make demo-workflow` builds and nothing else.
func TestReadmeStartsAWorkflow(t *testing.T) {
	t.Parallel()
	blocks := readmeBlocks(t, "## Write a workflow")
	if len(blocks) != 3 || blocks[0] != "make demo-workflow" {
		t.Fatalf("the README shows the commands %q; want the demo, a terminal with the daemon, and one beside it", blocks)
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "bin", "examples"), 0o755))
	must(t, os.Symlink(filepath.Join(bin, "pgqrsd"), filepath.Join(dir, "bin", "pgqrsd")))
	must(t, os.Symlink(filepath.Join(bin, "order"), filepath.Join(dir, "bin", "examples", "order")))

	daemon := shell(dir, blocks[1])
	logs := &lockedBuffer{}
	daemon.Stdout, daemon.Stderr = logs, logs
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, daemon.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = daemon.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	eventually(t, "the daemon to serve orders", func() bool {
		return shell(dir, "bin/pgqrsd queue get order").Run() == nil
	}, logs.String)

	out, err := shell(dir, blocks[2]).CombinedOutput()
	timeline := regexp.MustCompile(`(?m)^charge +step +succeeded `)
	if err != nil || !timeline.Match(out) || !strings.Contains(string(out), `"tracking": "T-`) {
		t.Errorf("the commands end with %v:\n%s\nthe daemon says\n%s", err, out, logs)
	}
}

// readmeBlocks are the shell commands of a section of the README, without comments.
func readmeBlocks(t *testing.T, head string) []string {
	t.Helper()
	page, err := os.ReadFile("../README.md")
	must(t, err)
	_, section, found := strings.Cut(string(page), head+"\n")
	if !found {
		t.Fatalf("the README has no section %q", head)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		text := regexp.MustCompile(`(?m)\s+# .*$`).ReplaceAllString(m[1], "")
		blocks = append(blocks, strings.TrimSpace(text))
	}
	return blocks
}

// shell runs commands as a person would; a command that fails ends them.
func shell(dir, commands string) *exec.Cmd {
	cmd := exec.Command("sh", "-ec", commands)
	cmd.Dir = dir
	// Beside other daemons on the machine.
	cmd.Env = append(baseEnv(), "HOME="+dir, "PGQRS_HTTP_ADDR=127.0.0.1:0", "PGQRS_DAEMON_STATE_DIR="+filepath.Join(dir, "state"))
	return cmd
}
