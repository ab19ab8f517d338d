package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// errBeingWritten says that a file is not complete yet: it is looked at again.
var errBeingWritten = errors.New("the file is still being written")

// fileID tells one content of a file from another without reading it.
type fileID struct {
	dev, ino uint64
	size     int64
	modified int64 // Unix nanoseconds
}

func idOf(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino = uint64(st.Dev), st.Ino //nolint:unconvert // Dev's type differs between systems
	}
	return id
}

// found is a file of the plugins directory that should be a handler.
type found struct {
	name, path string
	id         fileID
	err        error // why it cannot even be looked at
}

// scanDir lists the handlers in dir, by name: executable regular files, and
// links that lead to nothing. A directory that does not exist holds none.
func scanDir(dir string) ([]found, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for handlers: %w", err)
	}
	var files []found
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || e.IsDir() {
			continue
		}
		f := found{name: name, path: filepath.Join(dir, name)}
		info, err := os.Stat(f.path)
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			f.err = explainLink(f.path, err)
		case errors.Is(err, fs.ErrNotExist):
			continue // it went away while we looked
		case err != nil:
			f.err = refuse("it cannot be looked at: %v", err)
		case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
			continue
		default:
			f.id = idOf(info)
		}
		files = append(files, f)
	}
	return files, nil
}

func explainLink(path string, err error) error {
	target, readErr := os.Readlink(path)
	if readErr != nil {
		target = "?"
	}
	switch {
	case errors.Is(err, syscall.ELOOP):
		return refuse("it is a symbolic link to %s that leads round in a loop; make it lead to a handler, or remove it", target)
	case errors.Is(err, fs.ErrNotExist):
		return refuse("it is a symbolic link to %s, which does not exist; make it lead to a handler, or remove it", target)
	}
	return refuse("it is a symbolic link to %s that cannot be followed: %v", target, err)
}

// settleAge is how old a file must be to be taken for complete at first sight.
const settleAge = 2 * time.Second

// settledAlready reports whether the file was last written long enough ago.
func (id fileID) settledAlready() bool {
	age := time.Since(time.Unix(0, id.modified))
	return age > settleAge
}

// image is a staged copy: what is run instead of the file itself, which may be
// overwritten at any time.
type image struct {
	hash string
	path string
}

// stage copies the file at path, which must still be the one of id, into the
// directory of staged copies.
func stage(dir, name, path string, id fileID) (image, error) {
	src, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return image{}, refuse("it cannot be read (%v); make it readable for the user that pgqrsd runs as", err)
	}
	if err != nil {
		return image{}, fmt.Errorf("stage the handler: %w", err)
	}
	defer func() { _ = src.Close() }()
	if openForWriting(src.Fd()) {
		return image{}, errBeingWritten
	}
	tmp, err := os.CreateTemp(dir, ".staging-")
	if err != nil {
		return image{}, fmt.Errorf("stage the handler: %w", err)
	}
	hash, err := copyHashed(tmp, src)
	err = errors.Join(err, tmp.Chmod(0o500), tmp.Close())
	if err == nil {
		err = unchanged(src, id)
	}
	var img image
	if err == nil {
		img, err = install(dir, name, tmp.Name(), hash)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		if errors.Is(err, errBeingWritten) {
			return image{}, err
		}
		return image{}, fmt.Errorf("stage the handler: %w", err)
	}
	return img, nil
}

func unchanged(src *os.File, id fileID) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if idOf(info) != id {
		return errBeingWritten
	}
	return nil
}

func copyHashed(dst io.Writer, src io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(dst, sum), src); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// install checks what was written to tmp and gives it its name.
func install(dir, name, tmp, hash string) (image, error) {
	f, err := os.Open(tmp)
	if err != nil {
		return image{}, err
	}
	written, err := copyHashed(io.Discard, f)
	_ = f.Close()
	if err != nil {
		return image{}, err
	}
	if written != hash {
		return image{}, errBeingWritten
	}
	img := image{hash: hash, path: filepath.Join(dir, hash, name)}
	if err := os.MkdirAll(filepath.Dir(img.path), 0o700); err != nil {
		return image{}, err
	}
	return img, os.Rename(tmp, img.path)
}

// remove deletes a staged copy; its directory may hold another name's.
func (i image) remove() {
	_ = os.Remove(i.path)
	_ = os.Remove(filepath.Dir(i.path))
}
