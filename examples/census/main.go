// Command census is a handler that counts a file: its lines, its bytes, and the
// SHA-256 of its contents.
//
// Build it and put it into the plugins directory of a pgqrsd:
//
//	go build -o plugins/census ./examples/census
//	pgqrsd run --plugins ./plugins
//
// Enqueue a file's absolute path; a relative one is taken from the daemon's
// working directory.
//
//	pgqrsd message enqueue census --payload '{"path": "/etc/hosts"}'
//
// The job's output, which `pgqrsd message get` shows, is
//
//	{"path": "/etc/hosts", "lines": 7, "bytes": 174, "sha256": "61b0..."}
//
// Lines are counted as wc -l does: a last line without a newline is none. A file
// that does not exist, or is no regular file, will not become one by trying
// again: the job is discarded and its error says why. Any other error, such as
// one of a disk, is tried again.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/pgqrs/pgqrsd/handlers"
)

// Input is the payload.
type Input struct {
	Path string `json:"path"`
}

// Output is what was counted.
type Output struct {
	Path   string `json:"path"`
	Lines  int64  `json:"lines"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func main() {
	handlers.Serve(handlers.Handle("census", census))
}

func census(ctx context.Context, in Input) (Output, error) {
	f, err := open(in.Path)
	if err != nil {
		return Output{}, err
	}
	defer func() { _ = f.Close() }()
	return count(ctx, f, in.Path)
}

// open opens a regular file. Opening without blocking keeps a named pipe that
// nobody writes to from hanging the job.
func open(path string) (*os.File, error) {
	if path == "" {
		return nil, handlers.Discard(errors.New(`the payload has no "path"`))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EINVAL),
		errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG),
		errors.Is(err, syscall.ENXIO):
		return nil, handlers.Discard(fmt.Errorf("take the census of a file: %w", err))
	case err != nil:
		return nil, fmt.Errorf("take the census of a file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = handlers.Discard(fmt.Errorf("take the census of a file: %s is a %s", path, kind(info.Mode())))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// buffers are reused: many files are smaller than one.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// count reads r to its end, a buffer at a time, and stops when ctx does.
func count(ctx context.Context, r io.Reader, path string) (Output, error) {
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	out := Output{Path: path}
	hash := sha256.New()
	for {
		n, err := r.Read(buf[:])
		out.Bytes += int64(n)
		out.Lines += int64(bytes.Count(buf[:n], []byte{'\n'}))
		hash.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			out.SHA256 = hex.EncodeToString(hash.Sum(nil))
			return out, nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return Output{}, fmt.Errorf("take the census of %s, after %d bytes: %w", path, out.Bytes, err)
		}
	}
}
