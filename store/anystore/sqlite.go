//go:build !nosqlite

package anystore

import (
	"context"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

func addSQLite(all map[string]backend) { all[sqlite.Scheme] = backend{openSQLite, checkSQLite} }

func checkSQLite(cfg Config) error {
	_, err := sqlite.PathFromDSN(cfg.DSN)
	return err
}

func openSQLite(ctx context.Context, cfg Config) (store.Store, error) {
	path, err := sqlite.PathFromDSN(cfg.DSN)
	if err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, sqlite.Config{
		Path:             path,
		MustExist:        cfg.MustExist,
		StatementTimeout: cfg.StatementTimeout,
		Clock:            cfg.Clock,
	})
}
