// Package bench measures what a machine and its database do: how fast the
// daemon works off a queue, how soon it starts messages that come at a rate, and
// what it costs when there is nothing to do.
//
// The daemon under measurement is the real one, in a process of its own, with
// handler processes of its own, so that its processor time and memory are its
// own as well. The bench starts the binary that it is part of three times over:
// as itself, as the daemon ([DaemonCommand]) and as handlers ([HandlerCommand]).
//
// Everything happens in a scratch place beside the configured database: a
// schema of its own on PostgreSQL, a file of its own on SQLite. It is removed at
// the end, however the run ends. What a run that was killed could not remove the
// next one does, which knows by a lock who is dead.
package bench

// The hidden commands as which the bench starts its own binary.
const (
	// DaemonCommand calls ServeDaemon.
	DaemonCommand = "bench-daemon"
	// HandlerCommand calls ServeHandler with its arguments: a kind, and queues of it.
	HandlerCommand = "bench-handler"
)
