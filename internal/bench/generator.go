package bench

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	// singleRate is up to which rate each message is committed by itself; one
	// client reaches no more. Beyond, batches come at batchRate.
	singleRate = 500
	batchRate  = 100
)

// sent is a message that was enqueued.
type sent struct {
	id int64
	// commit is when the enqueue returned, in Unix nanoseconds.
	commit int64
	// fails says that its first attempt was asked to.
	fails bool
}

// generator enqueues at a rate. Its arrivals are as random as those of real
// applications, so that they do not keep step with anything that ticks.
type generator struct {
	r    *run
	rand *rand.Rand
	// n counts what was sent; the rest is for the goroutine that runs it alone
	// until it has returned.
	n    atomic.Int64
	sent []sent
}

func (r *run) newGenerator() *generator {
	return &generator{r: r, rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
}

// run enqueues until the end. When the database is too slow for the rate, what
// has arrived meanwhile goes together.
func (g *generator) run(ctx context.Context, end time.Time) error {
	arrivals := min(g.r.Rate, singleRate)
	if g.r.Rate > singleRate {
		arrivals = batchRate
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	owed := 0.0
	for next := time.Now(); next.Before(end); {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		for now := time.Now(); !next.After(now) && next.Before(end); {
			owed += g.r.Rate / arrivals
			next = next.Add(time.Duration(g.gap() / arrivals * float64(time.Second)))
		}
		whole := min(int(owed), fillBatch)
		owed -= float64(whole)
		if err := g.enqueue(ctx, whole); err != nil {
			return err
		}
	}
	return nil
}

// gap is the time to the next arrival, 1 on average: exponential, as of many
// who know nothing of each other. Batches vary less, or they would miss the rate.
func (g *generator) gap() float64 {
	if g.r.Rate > singleRate {
		return 0.5 + g.rand.Float64()
	}
	return g.rand.ExpFloat64()
}

func (g *generator) enqueue(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	batch := make([]store.NewMessage, n)
	fails := make([]bool, n)
	first := int(g.n.Load())
	for i := range batch {
		do := doTell
		if fails[i] = g.rand.Float64() < g.r.FailRate; fails[i] {
			do = doFail
		}
		batch[i] = g.r.message(do, first+i)
	}
	ids, err := g.r.scratch.store.Messages().Insert(ctx, batch)
	if err != nil {
		return err
	}
	commit := time.Now().UnixNano()
	for i, id := range ids {
		g.sent = append(g.sent, sent{id, commit, fails[i]})
	}
	g.n.Add(int64(n))
	return nil
}
