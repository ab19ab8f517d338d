package anystore

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// backend opens stores of one kind. Each is in a file of its own, under its
// build tag.
type backend struct {
	open func(ctx context.Context, cfg Config) (store.Store, error)
	// check reads the DSN without connecting.
	check func(cfg Config) error
}

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
	b, err := backendOf(cfg.DSN)
	if err != nil {
		return nil, err
	}
	return b.open(ctx, cfg)
}

// Check reads cfg.DSN as OpenConfig does, but neither connects nor looks at the
// disk. Its error is store.ErrDSN, without the DSN's password.
func Check(cfg Config) error {
	b, err := backendOf(cfg.DSN)
	if err != nil {
		return err
	}
	return b.check(cfg)
}

// backendOf picks the backend by the DSN's scheme.
func backendOf(dsn string) (backend, error) {
	known := backends()
	// What precedes a colon is not a scheme, and may be a secret, if it holds
	// what no scheme does.
	scheme, _, found := strings.Cut(dsn, ":")
	if !found || !isScheme.MatchString(scheme) {
		return backend{}, fmt.Errorf("%w: it has no scheme; it must start with one of %s", store.ErrDSN, schemes(known))
	}
	b, ok := known[scheme]
	if !ok {
		if tag, ok := tags[scheme]; ok {
			return backend{}, fmt.Errorf("%w: scheme %q: this pgqrsd was built with -tags %s; it knows %s", store.ErrDSN, scheme, tag, schemes(known))
		}
		return backend{}, fmt.Errorf("%w: scheme %q is unknown; this pgqrsd knows %s", store.ErrDSN, scheme, schemes(known))
	}
	return b, nil
}

var isScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)

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
