package store

import (
	"context"
	"encoding/json"
	"time"
)

// Lease is the fence of one leased message. It never recurs.
type Lease struct {
	Worker int64
	Claim  int64
	ID     int64
}

// LeasedMessage is a message as its consumer gets it.
type LeasedMessage struct {
	Lease
	// Attempt is 1 for the first attempt.
	Attempt     int
	MaxAttempts int
	Priority    int
	EnqueuedAt  time.Time
	// Waited is how long the message has been ready, by the database's clock:
	// since it was enqueued, was due, failed or was replayed. One that was
	// released, or not started when its lease ran out, has waited on.
	Waited  time.Duration
	Headers map[string]string
	// Payload is the bytes of the row.
	Payload json.RawMessage
}

// OutcomeKind says how an attempt ended.
type OutcomeKind string

// The outcomes.
const (
	// OutcomeDone archives the message as done, with Output.
	OutcomeDone OutcomeKind = "done"
	// OutcomeRetry counts a failed attempt: the message waits for Delay (0 is
	// ready at once), or is archived as dead if it was the last attempt.
	OutcomeRetry OutcomeKind = "retry"
	// OutcomeSnooze lets the message wait for Delay (0 is ready at once); costs
	// no attempt.
	OutcomeSnooze OutcomeKind = "snooze"
	// OutcomeDiscard archives the message as dead, with Error as the error of
	// this attempt, which counts as failed.
	OutcomeDiscard OutcomeKind = "discard"
	// OutcomeRelease gives the message back at once; costs no attempt.
	OutcomeRelease OutcomeKind = "release"
	// OutcomeDelete removes the message without archiving it.
	OutcomeDelete OutcomeKind = "delete"

	// The next three are for runs of workflows only.

	// OutcomeStep records Steps and leaves the run leased. One batch may hold
	// several of one lease, before its last outcome. Recording a step again that
	// has its result changes nothing and is no error.
	OutcomeStep OutcomeKind = "step"
	// OutcomeWait records Steps and lets the run wait as Wait says; costs no attempt.
	OutcomeWait OutcomeKind = "wait"
	// OutcomeCancel archives the run as cancelled. So does any other outcome of a
	// run that is being cancelled, but OutcomeStep and OutcomeRelease.
	OutcomeCancel OutcomeKind = "cancel"
)

// Outcome is what became of one leased message.
type Outcome struct {
	Lease
	Kind   OutcomeKind
	Output json.RawMessage // OutcomeDone; JSON or empty
	Error  string          // OutcomeRetry, OutcomeDiscard
	Delay  time.Duration   // OutcomeRetry, OutcomeSnooze
	// Enqueue are follow-up messages: stored together with this outcome or not
	// at all. A bad one (*UnknownQueueError, *PayloadError) is this item's
	// error, and the item is not settled.
	Enqueue []NewMessage
	// Steps are step results to record together with this outcome.
	Steps []StepResult
	// Wait is for OutcomeWait.
	Wait *Wait
	// Failed is for OutcomeDiscard of a run that a failed step has ended: where
	// the failure, and what came of it, begins in each branch. A retry forgets the
	// steps from there on; without it, none.
	Failed []Place
	// Version is the handler version that the run runs with; kept of the first
	// outcome that records something of the run.
	Version string
}

// Settled is what Settle did with one item.
type Settled struct {
	// State is where the message is now, "" if it was deleted or Err is set.
	State State
	// Halt says, after OutcomeStep, that the run must stop now.
	Halt Halt
	// Err is ErrLeaseLost when the lease is not held any more, or why the item
	// itself was refused (ErrInvalid, *PayloadError, *UnknownQueueError), in
	// which case its lease is still held. ErrUnavailable says the same, and that
	// the item can be settled again: somebody else's transaction keeps a row
	// locked that it needs.
	Err error
}

// Consumer leases messages of one queue and settles them. Safe for concurrent
// use; concurrent calls of Dequeue take turns.
type Consumer interface {
	Worker
	Queue() string

	// Dequeue leases at most limit ready messages, in order of priority and
	// id, for the given time, after giving back leases of the queue that ran
	// out. No message ready is an empty slice; fewer than limit means that no
	// more were ready. Errors: ErrInvalid unless limit and lease are positive,
	// *NotReadyError while the consumer is suspended or stopped,
	// *UnknownQueueError when the queue was deleted. When one of its name is
	// made again, a consumer registered since then serves it; an earlier one
	// may, or goes on failing.
	//
	// The claim is committed without waiting for the disk: a crash of the
	// database that loses it makes the messages ready again and every write
	// under it ErrLeaseLost.
	Dequeue(ctx context.Context, limit int, lease time.Duration) ([]LeasedMessage, error)

	// Started records that these attempts have begun: from now on they count as
	// failed if their lease runs out. It may be called in batches, late, or not
	// at all for those that are settled soon.
	Started(ctx context.Context, leases ...Lease) ([]error, error)
	// Extend makes the claims that these leases belong to last for d from now.
	// One lease of each claim is enough to renew the whole claim.
	Extend(ctx context.Context, d time.Duration, leases ...Lease) ([]error, error)
	// Progress publishes how far jobs are, as Message.Progress. Those whose
	// lease is lost are left out, and hold up no other; the error is then
	// ErrLeaseLost.
	Progress(ctx context.Context, progress map[Lease]Progress) error

	// Settle records outcomes in one durable transaction. A lost or bad item
	// never holds up the others; see Settled and ValidateOutcome. Of two
	// outcomes of one lease the first is taken; the second answers
	// ErrLeaseLost. A suspended consumer may settle. The error is for the whole call;
	// the same outcomes may be settled again after it: those that were written
	// answer ErrLeaseLost.
	Settle(ctx context.Context, outcomes []Outcome) ([]Settled, error)

	// Archive settles as done, Delete removes, Release gives back; each is a
	// Settle with a batch of outcomes of that kind, with an error for each.
	Archive(ctx context.Context, leases ...Lease) ([]error, error)
	Delete(ctx context.Context, leases ...Lease) ([]error, error)
	Release(ctx context.Context, leases ...Lease) ([]error, error)
	// ReleaseAll gives back all that this consumer holds, without costing
	// attempts, and returns how many. What another transaction keeps locked stays
	// leased: it returns ErrLocked with the count of the others.
	ReleaseAll(ctx context.Context) (int64, error)
}

// SettleAs settles every lease as one kind, with an error for each: what a
// backend's Archive, Delete and Release are.
func SettleAs(ctx context.Context, c Consumer, kind OutcomeKind, leases []Lease) ([]error, error) {
	outcomes := make([]Outcome, len(leases))
	for i, l := range leases {
		outcomes[i] = Outcome{Lease: l, Kind: kind}
	}
	settled, err := c.Settle(ctx, outcomes)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(settled))
	for i := range settled {
		errs[i] = settled[i].Err
	}
	return errs, nil
}
