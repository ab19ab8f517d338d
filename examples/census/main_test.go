package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgqrs/pgqrsd/handlers"
	"github.com/pgqrs/pgqrsd/handlers/handlertest"
)

func run(t *testing.T, in any) handlertest.Result {
	t.Helper()
	return handlertest.Run(t, handlers.Handle("census", census), in)
}

func TestCensus(t *testing.T) {
	tests := map[string]struct {
		contents []byte
		lines    int64
	}{
		"empty":              {nil, 0},
		"one line":           {[]byte("hello\n"), 1},
		"no newline at end":  {[]byte("hello\nworld"), 1},
		"only newlines":      {[]byte("\n\n\n"), 3},
		"binary":             {[]byte{0, '\n', 0xff, 0xfe, '\r', '\n'}, 2},
		"larger than buffer": {bytes.Repeat([]byte("0123456789abcde\n"), 10_000), 10_000},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, tt.contents, 0o600); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(tt.contents)
			want := Output{path, tt.lines, int64(len(tt.contents)), hex.EncodeToString(sum[:])}
			var got Output
			run(t, Input{path}).Decode(t, &got)
			if got != want {
				t.Errorf("the census is %+v, not %+v", got, want)
			}
		})
	}
}

func TestCensusDiscards(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		in  any
		err string
	}{
		"missing file":  {Input{filepath.Join(dir, "missing")}, "no such file or directory"},
		"directory":     {Input{dir}, "is a directory"},
		"named pipe":    {Input{pipe}, "is a named pipe"},
		"device":        {Input{"/dev/null"}, "is a device"},
		"symlink loop":  {Input{loop}, "too many levels of symbolic links"},
		"below a file":  {Input{filepath.Join(file, "x")}, "not a directory"},
		"long name":     {Input{filepath.Join(dir, strings.Repeat("x", 300))}, "file name too long"},
		"NUL in it":     {Input{"a\x00b"}, "invalid argument"},
		"no path":       {map[string]string{"paht": "x"}, `no "path"`},
		"not an object": {"just a string", "cannot unmarshal string"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if res := run(t, tt.in); res.Outcome != handlertest.Discard || !strings.Contains(res.Error, tt.err) {
				t.Errorf("%s with %q, not discarded with %q", res.Outcome, res.Error, tt.err)
			}
		})
	}
}

// endless is a file that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestCountStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := count(ctx, endless{}, "endless"); !errors.Is(err, enough) {
		t.Errorf("the error is %v", err)
	}
}
