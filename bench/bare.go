package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/postgres"
)

// bareQueue is the queue of the contenders that use the store without a daemon.
const bareQueue = "bench"

// bareLoop claims and settles on the real schema without a handler, which is
// the most that any handler could reach. Claiming runs ahead of settling by two
// batches, each on a connection of its own.
func bareLoop(ctx context.Context, t task) (f figures, err error) {
	s, err := openBare(ctx, t.DSN, schemaBare)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for left := t.Messages; left > 0; left -= enqueueBatch {
		if _, err := s.Messages().Insert(ctx, newMessages(min(left, enqueueBatch))); err != nil {
			return nil, err
		}
	}
	c, err := s.Consumer(ctx, bareQueue, store.WorkerOptions{})
	if err != nil {
		return nil, err
	}
	if err := settleDown(ctx, t.DSN, schemaBare); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := claimAndSettle(ctx, c, t.Messages, t.Batch); err != nil {
		return nil, err
	}
	spent := time.Since(began)
	if n, err := s.Archive().Count(ctx, store.MessageFilter{Queue: bareQueue}); err != nil || n != int64(t.Messages) {
		return nil, fmt.Errorf("the archive holds %d of %d messages: %w", n, t.Messages, err)
	}
	return drained(t.Messages, spent), nil
}

func claimAndSettle(ctx context.Context, c store.Consumer, messages, batch int) error {
	const ahead = 2
	claimed := make(chan []store.LeasedMessage, ahead)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(claimed)
		for left := messages; left > 0; {
			got, err := c.Dequeue(ctx, min(batch, left), time.Minute)
			if err != nil {
				return err
			}
			if len(got) == 0 {
				return fmt.Errorf("nothing to claim, with %d messages left", left)
			}
			left -= len(got)
			select {
			case claimed <- got:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	group.Go(func() error {
		for got := range claimed {
			if err := settle(ctx, c, got); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

func settle(ctx context.Context, c store.Consumer, got []store.LeasedMessage) error {
	outcomes := make([]store.Outcome, len(got))
	for i := range got {
		outcomes[i] = store.Outcome{Lease: got[i].Lease, Kind: store.OutcomeDone}
	}
	settled, err := c.Settle(ctx, outcomes)
	if err != nil {
		return err
	}
	for i := range settled {
		if settled[i].Err != nil {
			return fmt.Errorf("settle message %d: %w", got[i].ID, settled[i].Err)
		}
	}
	return nil
}

// openBare opens a store on a new schema with one queue.
func openBare(ctx context.Context, dsn, schema string) (store.Store, error) {
	s, err := postgres.Open(ctx, postgres.Config{DSN: dsn, Schema: schema})
	if err != nil {
		return nil, err
	}
	if err := s.Install(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if _, err := s.Queues().Insert(ctx, bareQueue, store.QueuePolicy{}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// drained is what every contender that works messages off measures.
func drained(messages int, spent time.Duration) figures {
	return figures{figSeconds: spent.Seconds(), figJobs: float64(messages) / spent.Seconds()}
}
