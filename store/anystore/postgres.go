//go:build !nopostgres

package anystore

import (
	"context"
	"errors"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/postgres"
)

func addPostgres(all map[string]backend) {
	all["postgres"] = backend{openPostgres, checkPostgres}
	all["postgresql"] = backend{openPostgres, checkPostgres}
}

// checkPostgres opens the store with no time left: the DSN is read, and what
// would connect gives up before it begins.
func checkPostgres(cfg Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s, err := openPostgres(ctx, cfg)
	if err == nil {
		return s.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func openPostgres(ctx context.Context, cfg Config) (store.Store, error) {
	return postgres.Open(ctx, postgres.Config{
		DSN:              cfg.DSN,
		Schema:           cfg.Schema,
		PoolSize:         cfg.PoolSize,
		ConnectTimeout:   cfg.ConnectTimeout,
		StatementTimeout: cfg.StatementTimeout,
		PgBouncer:        cfg.PgBouncer,
		Clock:            cfg.Clock,
	})
}
