//go:build !nopostgres

package anystore

import (
	"context"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/postgres"
)

func addPostgres(all map[string]backend) {
	all["postgres"] = openPostgres
	all["postgresql"] = openPostgres
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
