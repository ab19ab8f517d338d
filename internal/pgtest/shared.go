package pgtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// shared starts this process's cluster. Its watcher removes it when the
// process ends.
var shared = sync.OnceValues(func() (*Cluster, error) {
	return start(Fast(), Setting("max_connections", "400"))
})

// DSN returns the URL of a database that tests share: PGQRS_TEST_DSN, or else
// that of a private cluster that lives as long as the test process.
func DSN(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv("PGQRS_TEST_DSN"); dsn != "" {
		return dsn
	}
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c.DSN()
}

// Schema returns the name of a schema in the shared database that no other
// test uses. It does not create it. The test's cleanup drops it; ask for the
// schema before opening what uses it, so that it is closed first.
func Schema(t testing.TB) string {
	t.Helper()
	dsn := DSN(t)
	name := schemaName(t.Name())
	t.Cleanup(func() {
		if err := drop(dsn, name); err != nil {
			t.Errorf("pgtest: drop schema %s: %v", name, err)
		}
	})
	return name
}

// schemaName makes a name that needs no quotes and fits PostgreSQL's 63 bytes
// with room for the suffixes that a test may add.
func schemaName(test string) string {
	const longest = 30
	test = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, strings.TrimPrefix(test, "Test"))
	if len(test) > longest {
		test = test[:longest]
	}
	return fmt.Sprintf("t_%s_%s", test, secret()[:12])
}

// drop gives up after a while rather than wait for ever behind a session that
// the test forgot to close.
func drop(dsn, schema string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "set lock_timeout = '10s'; set client_min_messages = warning; drop schema if exists "+
		pgx.Identifier{schema}.Sanitize()+" cascade")
	return err
}
