package anystore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// backend opens a store of one kind. Each is in a file of its own, under its
// build tag.
type backend func(ctx context.Context, cfg Config) (store.Store, error)

// backends are those of this binary, by scheme. A plain map made by a function:
// nothing registers itself.
func backends() map[string]backend {
	all := make(map[string]backend)
	addPostgres(all)
	addSQLite(all)
	return all
}

// tags are the build tags that compile a scheme out.
var tags = map[string]string{
	"postgres":   "nopostgres",
	"postgresql": "nopostgres",
	"sqlite":     "nosqlite",
}

// Open opens the store of dsn with every default; see OpenConfig.
func Open(ctx context.Context, dsn string) (store.Store, error) {
	return OpenConfig(ctx, Config{DSN: dsn})
}

// OpenConfig opens the store that cfg.DSN names by its scheme, and checks that
// the database answers. Errors: store.ErrDSN for a DSN that cannot be
// understood, an unknown scheme or one that this binary was built without;
// store.ErrUnavailable when the database cannot be reached or refuses the
// credentials; store.ErrNotInstalled for a missing SQLite file with MustExist.
func OpenConfig(ctx context.Context, cfg Config) (store.Store, error) {
	known := backends()
	scheme, _, found := strings.Cut(cfg.DSN, ":")
	if !found || strings.ContainsAny(scheme, " =/") {
		return nil, fmt.Errorf("the DSN has no scheme; it starts with %s: %w", schemes(known), store.ErrDSN)
	}
	open, ok := known[scheme]
	if !ok {
		if tag, ok := tags[scheme]; ok {
			return nil, fmt.Errorf("DSN scheme %q: this pgqrsd was built with -tags %s; it knows %s: %w", scheme, tag, schemes(known), store.ErrDSN)
		}
		return nil, fmt.Errorf("DSN scheme %q is unknown; this pgqrsd knows %s: %w", scheme, schemes(known), store.ErrDSN)
	}
	return open(ctx, cfg)
}

func schemes(known map[string]backend) string {
	if len(known) == 0 {
		return "no scheme at all"
	}
	names := slices.Sorted(maps.Keys(known))
	for i, name := range names {
		names[i] = name + ":"
	}
	return strings.Join(names, ", ")
}
