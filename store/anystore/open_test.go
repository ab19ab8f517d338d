//go:build !nopostgres && !nosqlite

package anystore

import (
	"errors"
	"os"
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

func TestCheckReadsTheDSN(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none", "any.db")
	for dsn, good := range map[string]bool{
		"sqlite:" + none: true,
		"postgres://u:hunter2@127.0.0.1:1/db?pool_min_conns=2": true, // nobody listens there
		"mysql://u:hunter2@h/db":                               false,
		"user=u password=hunter2":                              false,
		"user=u password=hunter2:3":                            false,
		"hunter2@h:1/db":                                       false,
		"postgres://u:hunter2@h:port/db":                       false,
		"postgres://u:hun/ter2@h/db":                           false,
		"postgres://u:hunter2@h/db?sslmode=perhaps":            false,
		"sqlite:":         false,
		"sqlite::memory:": false,
		"":                false,
	} {
		err := Check(Config{DSN: dsn})
		if good && err != nil || !good && !errors.Is(err, store.ErrDSN) {
			t.Errorf("%q: error is %v", dsn, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ter2") || strings.Contains(err.Error(), ":: ")) {
			t.Errorf("%q: error reads %v", dsn, err)
		}
	}
	if _, err := os.Stat(filepath.Dir(none)); err == nil {
		t.Error("checking a DSN created the database")
	}
}

func TestOpenConfigMustExist(t *testing.T) {
	_, err := OpenConfig(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "none.db"), MustExist: true})
	if !errors.Is(err, store.ErrNotInstalled) {
		t.Errorf("a missing file: %v", err)
	}
}
