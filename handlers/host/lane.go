package host

import (
	"errors"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// ErrNotServed says that no process serves the queue at the moment.
var ErrNotServed = errors.New("no handler serves the queue")

// Lane carries the jobs of one queue to whichever process serves it. Safe for
// concurrent use.
type Lane struct {
	queue string
	sink  Sink
}

// Room returns how many jobs may be sent now: the handler's credit, or 0 while
// nothing serves the queue or its credit in bytes is used up.
func (l *Lane) Room() int { return 0 }

// Send hands jobs to the process that serves the queue and never waits for
// it. ErrNotServed says that none was sent; otherwise every job has exactly
// one Result in the Sink. The jobs belong to the host from then on.
func (l *Lane) Send(jobs []*handlerpb.Job) error { return ErrNotServed }

// Cancel asks jobs that this lane sent to stop; without refs, all of them.
// Jobs that have not started come back with OUTCOME_RELEASE; with
// unstartedOnly the others run on.
func (l *Lane) Cancel(reason string, unstartedOnly bool, refs ...Ref) {}

// Close ends sending. Jobs that were sent still get their Result in the Sink;
// there is no other call of it any more.
func (l *Lane) Close() {}
