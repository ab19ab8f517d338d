package daemon

import (
	"context"
	"math/rand/v2"
	"time"
)

// delay is how long a message waits after its failed attempt number attempt,
// which is 1 for the first.
func (b Backoff) delay(attempt int) time.Duration {
	d := b.Delay
	if b.Kind != Fixed {
		for i := 1; i < attempt && d < b.Cap; i++ {
			d += min(d, b.Cap-d) // doubled, but never beyond what fits
		}
	}
	d = min(d, b.Cap)
	if b.Jitter > 0 {
		d = time.Duration(float64(d) * (1 + b.Jitter*(rand.Float64()-0.5)))
	}
	return d
}

// jittered is d give or take a quarter, so that daemons do not march in step.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// retry paces the attempts of a loop while the database is away: 50ms, 100ms,
// ... 5s, jittered. The zero value is ready.
type retry struct{ last time.Duration }

const (
	retryMin = 50 * time.Millisecond
	retryMax = 5 * time.Second
)

func (r *retry) next() time.Duration {
	r.last = min(max(retryMin, 2*r.last), retryMax)
	return jittered(r.last)
}

func (r *retry) reset() { r.last = 0 }

// sleep waits for d, or less when ctx ends or something arrives on wake. It
// reports whether ctx lives on.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	alive, _ := doze(ctx, d, wake)
	return alive
}

// doze is sleep that also reports whether it was woken.
func doze(ctx context.Context, d time.Duration, wake <-chan struct{}) (alive, woken bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, false
	case <-t.C:
	case <-wake:
		woken = true
	}
	return ctx.Err() == nil, woken
}

// signal is a flag that one goroutine waits for: raising it twice is once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}
