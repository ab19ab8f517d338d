//go:build nosqlite

package anystore

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// A backend that was compiled out names the tag that did it.
func TestWithoutSQLite(t *testing.T) {
	_, err := Open(t.Context(), "sqlite://x")
	if !errors.Is(err, store.ErrDSN) || !strings.Contains(err.Error(), "-tags nosqlite") {
		t.Errorf("error is %v", err)
	}
}
