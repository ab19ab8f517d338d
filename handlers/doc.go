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
// # Workflows
//
// A workflow is a function made of named steps, and each message on its queue is
// a run of it:
//
//	func main() { handlers.Serve(handlers.Workflow("order", order)) }
//
//	func order(ctx context.Context, in Order) (Receipt, error) {
//		charge, err := handlers.Step(ctx, "charge", func(ctx context.Context) (Charge, error) { return pay(ctx, in) })
//		if err != nil {
//			return Receipt{}, err
//		}
//		if err := handlers.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
//			return Receipt{}, err
//		}
//		...
//	}
//
// Whenever the run is leased the function is called from its start. [Step],
// [Sleep], [Receive], [Send], [SetEvent] and [Child] return at once what is
// recorded of them; the first that is not recorded is where the run carries on.
// What they return is on disk before the function sees it.
//
// What is guaranteed:
//
//   - A step is recorded once, and once it is its body never runs again. Before
//     that the body may run more than once: its process may die between the work
//     and the record. [StepKey] is the same each time, for an outside that can
//     tell by it. One that writes to the daemon's own database can be exactly once.
//   - A signal is taken once, together with its step, and is not lost, whenever it
//     comes. A child is started once, with its step.
//   - A run that waits holds no process, no slot and no lease, and spends no
//     attempt. So do the waits between the tries of a step.
//   - The order of the steps of a branch is the order in which they are recorded.
//
// What must be deterministic: which steps the code comes by, in which order, in
// each branch. Between two steps the function may only decide by its input and by
// what steps returned. The time, random numbers, the environment, the order of a
// map and what another system says belong into a step. Steps at the same time
// need a [Group]; goroutines, channels and locks of one's own between branches
// make a run depend on who comes first, or wait for one that waits for it. What is
// not a step runs again in every replay, log lines too, and [Enqueue] is kept of
// the last call alone.
//
// Where another step is recorded than the one the code comes by, the run fails
// with an error that names both. So code of which runs are under way is changed
// at its end, or behind a step that says which way to go; else give the handler
// another [Version] and let it declare by [CarriesOn] which runs it takes. A
// failed run carries on with "pgqrsd workflow retry" once the code is mended.
//
// What ends the function early: when the run comes to wait, or must stop, its
// goroutines end by runtime.Goexit. Deferred functions run, each time, and steps
// in them do not; the calls that wait do not return, and recover sees nothing. So
// what a deferred function undoes must be what this call of the function did.
//
// What happens when things go wrong:
//
//   - A body returns an error: after the step's last try (see [Tries]) that is
//     the step's recorded result, a [*StepError], the same in every replay. The
//     function may handle it. If it returns it the run has failed.
//   - The function returns another error: a failed attempt of the run, which is
//     tried again after the queue's backoff and replays.
//   - A panic, in a body or not, or the death of the process: nothing of the open
//     steps is recorded. It is a failed attempt; the next one replays, and runs
//     those bodies again. Where a panic was in a body, recover in the function
//     does not see it.
//   - The daemon dies, or the lease is lost: the same, but the attempt counts
//     only if it was known to have started. What comes from the old process is refused.
//   - The database goes away: the step waits until it is recorded.
//   - The daemon stops: the run ends at its next step, which another daemon
//     carries on from, and no attempt is counted. A body that takes longer than
//     the drain time has its ctx cancelled; its error is then not recorded.
//   - The run is cancelled: it ends at its next step. Its code never runs again.
//   - The run's time-out is over: the open body's ctx ends, and its error is
//     not recorded. The attempt has failed, and the next one carries on.
//
// os.Stdout must not be written to before Serve, because go-plugin's handshake
// goes through it. From then on it leads to standard error, whose lines come
// out of the daemon's log.
package handlers
