// Package postgres keeps the store in PostgreSQL 15 or later, for daemons on
// many machines at once.
//
// # Layout
//
// A message row is written once and deleted once. Ready and leased messages
// stand in the table messages, those that wait for a time in delayed, finished
// ones in archive. A lease is one row of claims for the whole batch, so that
// claiming 500 messages writes one row, and renewing them updates one.
//
// # Locks
//
// Who may take what is decided under two advisory locks for each queue, held to
// the end of a transaction. Taking the claim lock is always a statement of its
// own: the next statement's snapshot is then younger than the lock and sees all
// that the former holder did.
//
//   - The claim lock is held by whoever claims messages, or takes or moves
//     messages that must not be leased: Dequeue, giving back, cancelling,
//     deleting, shutting a consumer down.
//   - The enqueue lock is shared by whoever stores messages on the queue, and
//     held alone by whoever deletes it.
//
// Locks are taken in this order, each kind by ascending number: enqueue locks,
// claim locks, rows of claims, rows of runs, rows of messages. Settling locks
// rows of claims and never a claim lock, so it waits for no other consumer.
//
// # Runs
//
// A run of a workflow is a message. What only runs have stands in tables of its
// own: runs (one row for each run that something is recorded of, or has come
// to), steps, signals and events. Consumers of job queues never touch them.
//
// The row of runs is the lock of everything that passes between a run and the
// others. Whoever wakes a run (a signal, the end of a child, Resume) adds to its
// news under it, and moves the message from delayed to messages if it stands
// there. Whoever lets a run wait compares its news under it with what the run
// knew of, and lets it wait only if they are the same. So whichever comes first,
// nothing is lost. A settlement locks the rows of all runs that it concerns in
// one statement; those of its own runs that only record steps or end it need not
// lock: the claim's row keeps whoever cancels them waiting.
//
// What a run waits for without limit is due at infinity: maintenance, which
// reads delayed in the order of its index, never comes to it.
//
// complete_step records a step in an application's transaction. It holds the
// rows of the claim and the message for key share, which lets renewals and
// settlements of the claim's other messages pass (they lock for no key update),
// but keeps the claim from being given back and the message from being settled.
// It leaves the run's row of runs alone, which others wait for: what it has to
// say of the run's beginning stands with the step, and the next settlement that
// records something of the run copies it.
//
// # Finding the next messages
//
// A consumer remembers how far down the line it has claimed and goes on from
// there. It starts at the front again as long as that is cheap, else four times
// a second, and when a claim came back short; more urgent messages it always
// sees. One exception: while an old snapshot keeps very many dead rows at the
// front, not every short claim is followed by a look at the front, so that a
// message that came back there may be found some seconds later.
//
// # Time
//
// Each statement that uses time takes the injected clock's as its first
// parameter; null is the database's own.
package postgres
