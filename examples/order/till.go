package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgqrs/pgqrsd/handlers"
)

// shop is what the workflows work with.
type shop struct {
	till    till
	coolOff time.Duration
}

// configure reads ORDER_LEDGER, the file that the till writes to (none keeps no
// book), and ORDER_COOL_OFF.
func (s *shop) configure(getenv func(string) string) error {
	s.till.ledger = getenv("ORDER_LEDGER")
	text := getenv("ORDER_COOL_OFF")
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return handlers.Discard(fmt.Errorf("ORDER_COOL_OFF: %w", err))
	}
	s.coolOff = d
	return nil
}

// till stands in for a payment provider: it keeps a ledger, a line for every
// call. A real one is handed the step's key, and so charges once also when a
// crash makes the step run again before its result was recorded.
type till struct{ ledger string }

// charge takes money and returns the charge's reference.
func (t till) charge(ctx context.Context, cents int64) (string, error) {
	if cents <= 0 {
		return "", handlers.Discard(fmt.Errorf("an order of %d cents cannot be charged", cents))
	}
	key := handlers.StepKey(ctx)
	handlers.Logger(ctx).Info("charging", "cents", cents, "key", key)
	return "C-" + key, t.enter("charge %s %d\n", key, cents)
}

func (t till) refund(ctx context.Context, charge string) error {
	return t.enter("refund %s %s\n", handlers.StepKey(ctx), charge)
}

func (t till) enter(format string, args ...any) error {
	if t.ledger == "" {
		return nil
	}
	f, err := os.OpenFile(t.ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	_, err = fmt.Fprintf(f, format, args...)
	return errors.Join(err, f.Close())
}
