package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// steer makes a call on a run, which is tried again while another transaction,
// such as an application's that has sent the run a signal, keeps a row of it, for
// reclaimWait in all, unless ctx is a store.OneTry. Such calls have no more than half of the pool's connections:
// those that lease, settle and send heartbeats go on whatever comes from outside.
// try bounds its waiting itself, by lockedWait.
func (s *Store) steer(ctx context.Context, op string, try func() error) error {
	select {
	case s.steering <- struct{}{}:
	case <-ctx.Done():
		return s.fail(ctx, op, ctx.Err())
	}
	defer func() { <-s.steering }()
	for end := time.Now().Add(reclaimWait); ; {
		err := try()
		if !errors.Is(err, store.ErrLocked) || ctx.Err() != nil || time.Now().After(end) || store.IsOneTry(ctx) {
			return err
		}
	}
}
