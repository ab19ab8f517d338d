package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// result is what the census handler says of a file.
type result struct {
	Path   string `json:"path"`
	Lines  int64  `json:"lines"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// census is the results by path.
type census map[string]result

func (c census) total() (sum result) {
	for _, r := range c {
		sum.Lines += r.Lines
		sum.Bytes += r.Bytes
	}
	return sum
}

// check compares every file's result with wc and sha256sum.
func check(ctx context.Context, files []string, found census) error {
	if len(found) != len(files) {
		return fmt.Errorf("%d results for %d files", len(found), len(files))
	}
	var lines, size int64
	if err := each(ctx, files, []string{"wc", "-lc", "--"}, func(line string) error {
		f := strings.Fields(line)
		if len(f) < 3 {
			return fmt.Errorf("wc printed %q", line)
		}
		if len(f) == 3 && f[2] == "total" {
			return nil
		}
		l, errL := strconv.ParseInt(f[0], 10, 64)
		b, errB := strconv.ParseInt(f[1], 10, 64)
		if err := errors.Join(errL, errB); err != nil {
			return fmt.Errorf("wc printed %q: %w", line, err)
		}
		lines, size = lines+l, size+b
		return nil
	}); err != nil {
		return err
	}
	if sum := found.total(); sum.Lines != lines || sum.Bytes != size {
		return fmt.Errorf("census counted %d lines and %d bytes, wc -lc %d and %d", sum.Lines, sum.Bytes, lines, size)
	}
	fmt.Printf("wc -lc agrees: %d lines, %d bytes.\n", lines, size)

	digests := 0
	if err := each(ctx, files, []string{"sha256sum", "--"}, func(line string) error {
		digest, path, ok := strings.Cut(line, "  ")
		if !ok {
			return fmt.Errorf("sha256sum printed %q", line)
		}
		if found[path].SHA256 != digest {
			return fmt.Errorf("the digest of %s is %q, sha256sum says %s", path, found[path].SHA256, digest)
		}
		digests++
		return nil
	}); err != nil {
		return err
	}
	if digests != len(files) {
		return fmt.Errorf("sha256sum printed %d digests for %d files", digests, len(files))
	}
	fmt.Printf("sha256sum agrees: %d digests.\n", digests)
	return nil
}

// each runs a command over all files, some hundred at a time, and hands on its
// lines.
func each(ctx context.Context, files, command []string, line func(string) error) error {
	for len(files) > 0 {
		n := min(500, len(files))
		cmd := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], files[:n]...)...) //nolint:gosec // wc and sha256sum
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("run %s: %w", command[0], err)
		}
		scanner := bufio.NewScanner(bytes.NewReader(out))
		for scanner.Scan() {
			if err := line(scanner.Text()); err != nil {
				return err
			}
		}
		if err := scanner.Err(); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}
