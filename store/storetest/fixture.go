package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// caseLimit ends a case that hangs, with the name of the call it hung in.
const caseLimit = 2 * time.Minute

// fixture is what one case works with: a database of its own and its clock.
type fixture struct {
	*testing.T
	ctx   context.Context
	clock *Clock
	open  Open
	// s is the first handle, installed by store.
	s store.Store
}

func newFixture(t *testing.T, open Open) *fixture {
	ctx, cancel := context.WithTimeout(t.Context(), caseLimit)
	t.Cleanup(cancel)
	return &fixture{T: t, ctx: ctx, clock: NewClock(), open: open}
}

// install opens the first handle and installs the schema.
func (f *fixture) install() store.Store {
	f.Helper()
	f.s = f.open(f.T, f.clock.Clock())
	f.ok(f.s.Install(f.ctx))
	return f.s
}

// ok ends the case unless err is nil.
func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("unexpected error: %v", err)
	}
}
