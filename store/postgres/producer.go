package postgres

import (
	"context"
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
	limiter   *rate.Limiter // nil is no limit
}

var _ store.Producer = (*producer)(nil)

// Producer registers a producer.
func (s *Store) Producer(ctx context.Context, opts store.ProducerOptions) (store.Producer, error) {
	const op = "register a producer"
	if opts.Rate < 0 || math.IsNaN(opts.Rate) || opts.Burst < 0 {
		return nil, store.Invalidf("%s: rate %v and burst %d must not be negative", op, opts.Rate, opts.Burst)
	}
	w, err := s.register(ctx, op, store.KindProducer, "", opts.WorkerOptions)
	if err != nil {
		return nil, err
	}
	p := &producer{worker: w, validator: opts.Validator}
	if opts.Rate > 0 {
		burst := opts.Burst
		if burst == 0 {
			burst = int(min(math.Ceil(opts.Rate), math.MaxInt32))
		}
		p.limiter = rate.NewLimiter(rate.Limit(opts.Rate), burst)
	}
	return p, nil
}

func (p *producer) Enqueue(ctx context.Context, msg store.NewMessage) (int64, error) {
	ids, err := p.enqueue(ctx, []store.NewMessage{msg}, false)
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

func (p *producer) EnqueueBatch(ctx context.Context, msgs []store.NewMessage) ([]int64, error) {
	return p.enqueue(ctx, msgs, true)
}

func (p *producer) enqueue(ctx context.Context, msgs []store.NewMessage, batch bool) ([]int64, error) {
	return p.s.enqueue(ctx, enqueueing{validator: p.validator, producer: &p.id, batch: batch, admit: p.admit}, msgs)
}

// admit takes n from the rate limit.
func (p *producer) admit(n int) error {
	if p.limiter == nil {
		return nil
	}
	now := p.s.clockTime()
	r := p.limiter.ReserveN(now, n)
	if !r.OK() {
		return store.Invalidf("a batch of %d is larger than the burst of %d", n, p.limiter.Burst())
	}
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		// Rounded up: asking any earlier would be refused again.
		return &store.RateLimitError{RetryAfter: (wait + time.Microsecond - 1).Truncate(time.Microsecond)}
	}
	return nil
}

func (p *producer) Get(ctx context.Context, id int64) (store.Message, error) {
	return p.s.Messages().Get(ctx, id)
}

func (p *producer) Replay(ctx context.Context, id int64) error {
	op := fmt.Sprintf("replay message %d", id)
	if err := p.s.checkReady(ctx, op, p.id); err != nil {
		return err
	}
	return p.s.replayOne(ctx, id)
}
