package storetest

import (
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

// Open opens a handle on one test's database and closes it by t.Cleanup. It is
// called more than once where a case needs two daemons on one database: each
// call is an independent handle with connections of its own, of the same
// schema or file. clock is its time; nil is the database's own.
type Open func(t *testing.T, clock store.Clock) store.Store

// Run runs the whole suite against one backend. create makes a database of the
// test's own (a schema, a file) that is not installed yet, arranges its removal
// by t.Cleanup, and returns how to open it; the suite itself calls Install.
// Cases run in parallel, so create and Open must be safe for concurrent use.
func Run(t *testing.T, create func(t *testing.T) Open) {
	t.Helper()
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range g.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newFixture(t, create(t)))
				})
			}
		})
	}
}

type group struct {
	name  string
	cases []testCase
}

type testCase struct {
	name string
	run  func(f *fixture)
}

func groups() []group {
	return []group{
		{"Rule9_Install", installCases()},
	}
}
