// Package host finds handler binaries, starts each as a process, speaks to it
// over one gRPC stream, restarts it when it crashes and drains it when it must
// go. It knows nothing of leases or databases: the daemon sends jobs down a
// [Lane] and gets exactly one [Result] for each in a [Sink], whatever happens
// to the process.
//
// # Files, generations, queues
//
// Each file of the plugins directory is copied to a staging directory named by
// its hash, and the copy is run, so that the file may be overwritten at any
// time. A file that is still being written is waited for. One process of a
// file at a time serves. When the file or its settings change, a new one is
// started; only once it has completed the handshake and said what it serves
// does it take over the queues, and the old one is drained. A new version that
// is refused leaves the old one serving.
//
// A queue belongs to one handler. The one that serves it keeps it; of those
// that start together the first by name gets it. The other is refused whole,
// and tried again when the queue is free.
//
// A handler whose process crashes is started again after a jittered backoff. A
// file that is no handler is refused with one line in the log that says why,
// and left alone until it changes; only one that was too slow, or exits with
// status 75 (EX_TEMPFAIL) before the handshake, is tried again by itself.
//
// # The end of a process
//
// A process ends for one of these reasons, and its jobs' results say which:
//
//   - It crashed, or broke off its stream.
//   - It answered no pings for PingTimeout.
//   - It was drained: replaced, removed, or at the daemon's stop. What still
//     runs after DrainTimeout is cancelled, and killed with it CancelGrace later.
//   - It has a job that runs on CancelGrace after its timeout or cancellation.
//     Another process takes over, the other jobs may finish, and the stuck one
//     is killed with the process.
//
// Jobs that had started come back with OUTCOME_RETRY, the others with
// OUTCOME_RELEASE, as do those that were cancelled after the drain: that is not
// their fault. None comes before the process is dead: until then nobody may
// give up their leases. What a process had room to run when it crashed counts as
// started, because a job that ends its process at once does so before it can
// be told that it began; if it cost no attempt, it would go on for ever.
//
// Every process has a process group of its own, which dies with it. When the
// daemon itself is killed the kernel kills the processes, and the lifeline, a
// pipe that only the daemon holds open, tells those that the kernel cannot.
//
// # Inside
//
// Run's goroutine alone changes handlers; it waits for nothing but its
// channels. A process has four goroutines: the reader hands frames to the
// sinks, the writer sends whatever is waiting, the tender pings and looks for
// stuck jobs, and one waits for the process to exit. Jobs take the process's
// lock once for a batch, not once for each.
package host
