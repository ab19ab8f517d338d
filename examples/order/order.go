package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

// Order is the input of workflow order.
type Order struct {
	Item  string `json:"item"`
	Cents int64  `json:"cents"`
}

// Receipt is its output.
type Receipt struct {
	Charge   string `json:"charge"`
	Tracking string `json:"tracking,omitempty"`
	// Refunded says that the order was not approved.
	Refunded bool `json:"refunded,omitempty"`
}

// Parcel is the input of workflow shipment.
type Parcel struct {
	Item string `json:"item"`
}

// Tracking is its output.
type Tracking struct {
	Number string `json:"number"`
}

// approval is how long an order waits for somebody to approve it.
const approval = 72 * time.Hour

// order runs from its start each time that the run carries on: steps that are
// recorded return their result at once.
func (s *shop) order(ctx context.Context, in Order) (Receipt, error) {
	charge, err := handlers.Step(ctx, "charge", func(ctx context.Context) (string, error) {
		return s.till.charge(ctx, in.Cents)
	}, handlers.Tries(5), handlers.Backoff(time.Second, time.Minute))
	if err != nil {
		return Receipt{}, fmt.Errorf("charge %d cents: %w", in.Cents, err)
	}
	// Whoever asked for the order may wait for this.
	if err := handlers.SetEvent(ctx, "charged", charge); err != nil {
		return Receipt{}, err
	}
	if err := handlers.Sleep(ctx, "cool-off", s.coolOff); err != nil {
		return Receipt{}, err
	}
	approved, err := handlers.Receive[bool](ctx, "approved", approval)
	if err != nil && !errors.Is(err, handlers.ErrTimeout) {
		return Receipt{}, err
	}
	if !approved {
		return s.refund(ctx, charge)
	}
	sent, err := handlers.Child[Tracking](ctx, "ship", "shipment", Parcel{Item: in.Item})
	if err != nil {
		return Receipt{}, fmt.Errorf("ship %s: %w", in.Item, err)
	}
	return Receipt{Charge: charge, Tracking: sent.Number}, nil
}

func (s *shop) refund(ctx context.Context, charge string) (Receipt, error) {
	_, err := handlers.Step(ctx, "refund", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.till.refund(ctx, charge)
	}, handlers.Tries(5))
	return Receipt{Charge: charge, Refunded: true}, err
}

func (s *shop) shipment(ctx context.Context, in Parcel) (Tracking, error) {
	number, err := handlers.Step(ctx, "label", func(context.Context) (string, error) {
		return fmt.Sprintf("T-%d", handlers.Info(ctx).ID), nil
	})
	if err != nil {
		return Tracking{}, fmt.Errorf("print the label for %s: %w", in.Item, err)
	}
	return Tracking{Number: number}, nil
}
