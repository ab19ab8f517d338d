package postgres

import (
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Open {
		schema := pgtest.Schema(t)
		return func(t *testing.T, clock store.Clock) store.Store {
			t.Helper()
			return openStore(t, Config{Schema: schema, PoolSize: 4, Clock: clock})
		}
	})
}

// openStore opens a store on the tests' database, and closes it when the test
// is over. cfg names the schema.
func openStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	cfg.DSN = pgtest.DSN(t)
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(*Store)
}
