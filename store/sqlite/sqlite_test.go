package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
	"github.com/pgqrs/pgqrsd/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Open {
		path := filepath.Join(t.TempDir(), "pgqrs.db")
		return func(t *testing.T, clock store.Clock) store.Store {
			s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s
		}
	})
}
