//go:build !linux

package sqlite

import "errors"

// notice would tell of every write to a file; this system has none that is used.
type notice struct{ c chan struct{} }

func watch(string) (*notice, error) { return nil, errors.ErrUnsupported }

func (*notice) close() error { return nil }
