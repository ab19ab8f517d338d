// Package failpoint lets a test kill a process at an exact place: before and
// after each commit, before and after each frame, and on the way through an
// application's transaction. A binary that is built without
// the tag failpoints has none of it.
package failpoint

// Places, which [At] joins with what passes there.
const (
	Commits   = "commits"   // a transaction is about to be committed
	Committed = "committed" // it was, and nobody has been told

	Begun = "begun" // an application's transaction has begun
	Wrote = "wrote" // it holds what the application wrote, and not yet its step

	HostSends = "host-sends"
	HostSent  = "host-sent"
	HostGot   = "host-got"  // a frame has come
	HostTook  = "host-took" // it was taken in

	HandlerSends = "handler-sends"
	HandlerSent  = "handler-sent"
	HandlerGot   = "handler-got"
	HandlerTook  = "handler-took"
)
