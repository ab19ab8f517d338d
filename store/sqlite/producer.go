package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/pgqrs/pgqrsd/store"
)

// producer puts messages on queues.
type producer struct {
	worker
	validator *store.Validator
	limit     *rate.Limiter // nil is none
}

func (d *database) Producer(ctx context.Context, opts store.ProducerOptions) (store.Producer, error) {
	p := &producer{validator: opts.Validator}
	if opts.Rate < 0 || opts.Burst < 0 || math.IsNaN(opts.Rate) {
		return nil, store.Invalidf("register a producer: rate %g and burst %d must not be negative", opts.Rate, opts.Burst)
	}
	if opts.Rate > 0 {
		burst := opts.Burst
		if burst == 0 {
			burst = int(math.Ceil(opts.Rate))
		}
		p.limit = rate.NewLimiter(rate.Limit(opts.Rate), burst)
	}
	var err error
	if p.worker, err = d.register(ctx, store.KindProducer, "", opts.WorkerOptions); err != nil {
		return nil, err
	}
	return p, nil
}

// allow asks the rate limit for n messages.
func (p *producer) allow(n int) error {
	if p.limit == nil {
		return nil
	}
	if n > p.limit.Burst() {
		return store.Invalidf("%d messages are more than the burst of %d that the rate limit lets through at once", n, p.limit.Burst())
	}
	now := p.d.cfg.Clock()
	r := p.limit.ReserveN(now, n)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		// Rounded up, so that whoever waits for so long is let through.
		return &store.RateLimitError{RetryAfter: (wait + time.Microsecond - 1).Truncate(time.Microsecond)}
	}
	return nil
}

func (p *producer) enqueue(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	if err := validate(p.validator, msgs); err != nil {
		return nil, err
	}
	if err := p.allow(len(msgs)); err != nil {
		return nil, err
	}
	return p.d.enqueue(ctx, msgs, p.ready)
}

func (p *producer) Enqueue(ctx context.Context, msg store.NewMessage) (int64, error) {
	ids, err := p.enqueue(ctx, []store.NewMessage{msg})
	if err != nil {
		return 0, fmt.Errorf("enqueue on queue %s: %w", msg.Queue, alone(err))
	}
	return ids[0], nil
}

func (p *producer) EnqueueBatch(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	if len(msgs) == 0 {
		return []int64{}, nil
	}
	ids, err := p.enqueue(ctx, msgs)
	if err != nil {
		return nil, fmt.Errorf("enqueue a batch of %d: %w", len(msgs), err)
	}
	return ids, nil
}

func (p *producer) Get(ctx context.Context, id int64) (store.Message, error) {
	return p.d.Messages().Get(ctx, id)
}

func (p *producer) Replay(ctx context.Context, id int64) error {
	errs, err := p.d.replay(ctx, []int64{id}, p.ready)
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		return fmt.Errorf("replay message %d: %w", id, err)
	}
	return nil
}

// validate returns a *store.BatchError for the first bad message.
func validate(v *store.Validator, msgs []store.NewMessage) error {
	for i, m := range msgs {
		if err := store.ValidateNew(v, m); err != nil {
			return &store.BatchError{Index: i, Err: err}
		}
	}
	return nil
}

// alone is the error of the only message of a batch, without its place.
func alone(err error) error {
	if batch, found := errors.AsType[*store.BatchError](err); found {
		return batch.Err
	}
	return err
}
