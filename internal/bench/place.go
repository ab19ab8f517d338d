package bench

import (
	"fmt"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// placeFor picks the backend by the DSN's scheme, which anystore.Check knows.
func placeFor(dsn string) (place, error) {
	scheme, _, _ := strings.Cut(dsn, ":")
	if make, ok := places()[scheme]; ok {
		return make(dsn)
	}
	return place{}, fmt.Errorf("%w: bench cannot make a scratch place for scheme %q", store.ErrDSN, scheme)
}

// places are those of this binary's backends. Nothing registers itself.
func places() map[string]func(dsn string) (place, error) {
	all := map[string]func(dsn string) (place, error){}
	addPostgres(all)
	addSQLite(all)
	return all
}
