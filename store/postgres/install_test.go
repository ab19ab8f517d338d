package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// More installers than connections: none waits for a connection that another
// one holds while that one waits for it.
func TestInstallersShareAPool(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Schema: pgtest.Schema(t), PoolSize: 2})
	errs := make([]error, 6)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.Install(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := tableCount(t, s, "schema_version"); n != 1 {
		t.Errorf("%d versions are recorded, want 1", n)
	}
}

// A schema of another version is neither used nor touched, and the error says
// what to do.
func TestOtherSchemaVersions(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Schema: pgtest.Schema(t)})
	if err := s.Verify(t.Context()); !errors.Is(err, store.ErrNotInstalled) || !strings.Contains(err.Error(), "pgqrsd install") {
		t.Errorf("before the installation: %v", err)
	}
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), "insert into "+s.schema+".schema_version (version) values (99)"); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{"verify": s.Verify, "install": s.Install} {
		err := call(t.Context())
		e, ok := errors.AsType[*store.SchemaVersionError](err)
		if !ok || e.Have != 99 || e.Want != 1 || !errors.Is(err, store.ErrSchemaVersion) {
			t.Errorf("%s of a newer schema: %v", name, err)
		}
	}
}

// An installation that fails half-way leaves nothing behind.
func TestFailedInstallLeavesNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Schema: pgtest.Schema(t)})
	// A table of ours that is there already is in the way.
	if _, err := s.pool.Exec(t.Context(), "create schema "+s.schema+"; create table "+s.schema+".steps (a int)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "steps") {
		t.Fatalf("install over a foreign table: %v", err)
	}
	var n int
	if err := s.pool.QueryRow(t.Context(), "select count(*) from pg_tables where schemaname = $1", s.schemaName).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d tables are left, %v, want the one that was there", n, err)
	}
	if err := s.Verify(t.Context()); !errors.Is(err, store.ErrNotInstalled) {
		t.Errorf("verify: %v", err)
	}
}
