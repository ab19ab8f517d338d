// Package handlers is what the author of a pgqrsd handler imports.
//
// A handler is a function that does one job, and a handler binary is a main
// that serves one or more of them:
//
//	func main() {
//		handlers.Serve(handlers.Handle("census", census))
//	}
//
//	func census(ctx context.Context, in Input) (Output, error)
//
// The job's JSON payload is decoded into Input, the returned Output is encoded
// as the job's JSON output. Copy the binary into pgqrsd's plugins directory and
// it serves the queue "census". Run by hand it says what it is.
//
// # What becomes of a job
//
//   - A nil error: the job is done, and its output is kept.
//   - An error: the attempt failed. The job is tried again after the queue's
//     backoff, until its last attempt is used up.
//   - [Retry]: the same, after a delay that the handler chose.
//   - [Snooze]: not now. It runs again after the delay, and no attempt is counted.
//   - [Discard]: never again. It goes to the dead letters with the error.
//   - A payload that does not decode into Input, or an output that cannot be
//     encoded: discarded, because trying again would not help.
//   - A panic, or runtime.Goexit: a failed attempt, with the stack as its
//     error. The process and its other jobs live on. A panic in a goroutine
//     that the handler started itself ends the process, as in any Go program.
//
// Retry, Snooze and Discard are found with errors.As, so they may be wrapped.
//
// # Time and cancellation
//
// The job's timeout starts with its code, and ctx has it as its deadline. A
// handler that returns an error past its deadline has failed its attempt with
// "timed out after ...". One that returns no error is done all the same.
//
// pgqrsd cancels ctx when a job must stop: at a shutdown whose drain time is
// over, when its message was cancelled or its lease lost. [context.Cause] is
// then a [*CancelledError] with the reason. A handler that returns an error
// after that is taken to have stopped because of it: the job goes back to the
// queue and no attempt is counted. Only [Snooze], and a [Discard] of an error
// that has nothing to do with the cancellation, still mean what they say, and a
// handler that returns no error is done. A handler that ignores its context is
// killed with its process, and with it every job that runs there.
//
// A message may run more than once: a process may die after the work and before
// its result is recorded. Handlers should be safe to repeat; the message's ID
// (see [Info]) is a good idempotency key.
//
// # What a handler can say
//
// [Info] tells which message and attempt this is. [Logger] writes to the
// daemon's log. [Progress] says how far the job is. [Enqueue] adds follow-up
// messages that are stored together with the job's result, or not at all.
//
// os.Stdout must not be written to before Serve, because go-plugin's handshake
// goes through it. From then on it leads to standard error, whose lines come
// out of the daemon's log.
package handlers
