// Package store is pgqrsd's data model and the rules that every backend obeys.
// It holds types, interfaces, errors and validation; the backends are
// store/postgres and store/sqlite, store/anystore picks one by the DSN's
// scheme, and store/storetest is the conformance suite that both pass.
//
// # The life of a message
//
// A message is a JSON payload on a queue. It is written once when it is
// enqueued and moves once when it is finished:
//
//	delayed ──due──▶ ready ──Dequeue──▶ leased ──Settle──▶ done | dead | cancelled
//	   ▲                ▲                 │                  (the archive)
//	   │                └── lease ran out, Release
//	   └──────────────────── Retry, Snooze
//
// A message is always in exactly one of these places, and never where nothing
// can lease it.
//
// # Leases
//
// [Consumer.Dequeue] claims a batch. The claim is one row, whatever the size of
// the batch; the message rows are not touched. A [Lease] is the fence: worker,
// claim number and message id. Claim numbers come from the worker's memory and
// worker ids are never reused, so a fence never recurs, not even after a
// database crash that lost the claim. Every write of a consumer carries it, and
// one from a lease that is gone changes nothing and answers [ErrLeaseLost] for
// that item alone.
//
// A lease that runs out gives its messages back by itself, at latest with the
// next claim on the queue. A consumer whose claim has run out but was not yet
// taken back may still extend or settle it: nobody else can have its messages.
//
// # Attempts
//
// An attempt counts as failed when it is settled [Retry], or when it had
// started ([Consumer.Started]) and its lease ran out or its worker died.
// Release, Snooze and waiting cost nothing. The attempt that reaches the
// queue's MaxAttempts moves the message to the dead letters.
//
// # Time
//
// All times are the database's: no comparison uses the clock of the machine
// that asks. Tests inject a clock through the backend's Config.
//
// # Errors
//
// Methods return the sentinels and typed errors of this package, wrapped with
// what was attempted; use [errors.Is] and [errors.As]. A batch method returns
// one error for each item and a second, single error when the whole statement
// failed (then no item was written, unless the error is [ErrUnavailable], when
// it is unknown). A call whose context ends returns the context's error; a write
// that was under way is then written as a whole or not at all.
package store
