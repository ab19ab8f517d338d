//go:build nopostgres

package anystore

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// A backend that was compiled out names the tag that did it.
func TestWithoutPostgres(t *testing.T) {
	_, err := Open(t.Context(), "postgres://x")
	if !errors.Is(err, store.ErrDSN) || !strings.Contains(err.Error(), "-tags nopostgres") {
		t.Errorf("error is %v", err)
	}
}
