package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"github.com/pgqrs/pgqrsd/store"
)

// enqueueBatch is how many messages go into the database at once: as many as
// River's benchmark inserts.
const enqueueBatch = 5000

// payload is what is enqueued: 200 bytes of JSON.
type payload struct {
	Text string `json:"text"`
}

// Kind is River's name for it.
func (payload) Kind() string { return "payload" }

var payload200 = payload{Text: strings.Repeat("x", 200-len(`{"text":""}`))}

// newMessages makes messages as an application does, encoding included.
func newMessages(n int) []store.NewMessage {
	msgs := make([]store.NewMessage, n)
	for i := range msgs {
		encoded, err := json.Marshal(payload200)
		if err != nil {
			panic(err) // a struct of one string
		}
		msgs[i] = store.NewMessage{Queue: bareQueue, Payload: encoded}
	}
	return msgs
}

// enqueueBatches enqueues through a Producer, one batch after another.
func enqueueBatches(ctx context.Context, t task) (f figures, err error) {
	s, err := openBare(ctx, t.DSN, schemaEnqueue)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p, err := s.Producer(ctx, store.ProducerOptions{})
	if err != nil {
		return nil, err
	}
	f, err = timeBatches(ctx, t, schemaEnqueue, func(n int) error {
		ids, err := p.EnqueueBatch(ctx, newMessages(n))
		if err == nil && len(ids) != n {
			return fmt.Errorf("%d ids for %d messages", len(ids), n)
		}
		return err
	})
	return f, errors.Join(err, p.Close(context.WithoutCancel(ctx)))
}

// riverEnqueueBatches inserts the same with River's fastest call.
func riverEnqueueBatches(ctx context.Context, t task) (figures, error) {
	driver, done, err := openRiver(ctx, t.DSN)
	if err != nil {
		return nil, err
	}
	defer done()
	client, err := river.NewClient(driver, &river.Config{Schema: schemaRiver, Logger: quiet()})
	if err != nil {
		return nil, fmt.Errorf("make a River client: %w", err)
	}
	return timeBatches(ctx, t, schemaRiver, func(n int) error {
		params := make([]river.InsertManyParams, n)
		for i := range params {
			params[i] = river.InsertManyParams{Args: payload200}
		}
		inserted, err := client.InsertManyFast(ctx, params)
		if err == nil && inserted != n {
			return fmt.Errorf("%d of %d jobs inserted", inserted, n)
		}
		return err
	})
}

// timeBatches times inserts of whole batches, after one that is not timed: it
// prepares statements and opens connections.
func timeBatches(ctx context.Context, t task, schema string, insert func(n int) error) (figures, error) {
	if err := insert(enqueueBatch); err != nil {
		return nil, err
	}
	if err := settleDown(ctx, t.DSN, schema); err != nil {
		return nil, err
	}
	began := time.Now()
	for left := t.Messages; left > 0; left -= enqueueBatch {
		if err := insert(min(left, enqueueBatch)); err != nil {
			return nil, err
		}
	}
	spent := time.Since(began)
	return figures{figSeconds: spent.Seconds(), figEnqueue: float64(t.Messages) / spent.Seconds()}, nil
}
