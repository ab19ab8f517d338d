//go:build !nopostgres && !nosqlite

package anystore

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func TestOpenPicksTheBackend(t *testing.T) {
	for dsn, want := range map[string]string{
		"sqlite:" + filepath.Join(t.TempDir(), "any.db"): store.BackendSQLite,
		pgtest.DSN(t): store.BackendPostgres,
		strings.Replace(pgtest.DSN(t), "postgres://", "postgresql://", 1): store.BackendPostgres,
	} {
		s, err := Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.BackendName(); got != want {
			t.Errorf("backend is %s, want %s", got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefusesOtherSchemes(t *testing.T) {
	for _, dsn := range []string{"", "mysql://u:hunter2@h/db", "host=h password=hunter2", "/tmp/x.db", "://x"} {
		_, err := Open(t.Context(), dsn)
		if !errors.Is(err, store.ErrDSN) {
			t.Errorf("%q: %v", dsn, err)
			continue
		}
		for _, part := range []string{"postgres:", "postgresql:", "sqlite:"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %q does not name %s", dsn, err, part)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the password is in %q", err)
		}
	}
}

func TestOpenConfigMustExist(t *testing.T) {
	_, err := OpenConfig(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "none.db"), MustExist: true})
	if !errors.Is(err, store.ErrNotInstalled) {
		t.Errorf("a missing file: %v", err)
	}
}
