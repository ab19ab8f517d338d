// Package daemon is the supervisor: it leases messages from a store, hands them
// to handler processes and records what became of them.
//
// A [Daemon] has no signal handling inside. Its Run ends when its context does:
// it stops leasing, lets running jobs finish, cancels those that do not,
// releases what is left, and stops its workers and its handlers.
//
// # One queue
//
// Each queue that a handler serves has three loops. The lease loop claims as
// many messages as handlers have room for and sends them; the settle loop
// records results, a batch as soon as the previous one is on disk; the keep
// loop renews leases, marks long jobs as started and publishes their progress.
// A job is in one of three places: with a handler (queue.jobs), waiting to be
// recorded (queue.results), or gone. No job has a goroutine or a timer of its
// own, and locks are taken once a batch.
//
// # The whole
//
// Besides the queues there are the pulse (heartbeats, and what others have
// asked of this daemon's workers), the listener (wake-ups from the database),
// maintenance (one daemon at a time), the sampler of queue depths, HTTP, and the
// handler host. The database going away stops none of them.
package daemon
