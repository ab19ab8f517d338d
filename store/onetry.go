package store

import "context"

type oneTryKey struct{}

// OneTry is a context for calls on many runs, one after the other: a call on a run
// that another transaction keeps locked says ErrLocked after a moment, where it
// would try for some seconds. So those that are kept hold up the others little.
func OneTry(ctx context.Context) context.Context { return context.WithValue(ctx, oneTryKey{}, true) }

// IsOneTry reports whether ctx, or one that it was made from, is OneTry's.
func IsOneTry(ctx context.Context) bool { return ctx.Value(oneTryKey{}) != nil }
