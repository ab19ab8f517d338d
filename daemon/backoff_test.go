package daemon

import (
	"context"
	"testing"
	"time"
)

func TestBackoffDelay(t *testing.T) {
	for _, c := range []struct {
		name    string
		backoff Backoff
		want    []time.Duration // of attempts 1, 2, 3...
	}{
		{"exponential", Backoff{Exponential, time.Second, 10 * time.Minute, -1},
			[]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}},
		{"capped", Backoff{Exponential, 3 * time.Second, 10 * time.Second, -1},
			[]time.Duration{3 * time.Second, 6 * time.Second, 10 * time.Second, 10 * time.Second}},
		{"fixed", Backoff{Fixed, 5 * time.Second, time.Minute, -1},
			[]time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"first delay above the cap", Backoff{Fixed, time.Hour, time.Minute, -1}, []time.Duration{time.Minute}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, want := range c.want {
				if got := c.backoff.delay(i + 1); got != want {
					t.Errorf("attempt %d waits %s, want %s", i+1, got, want)
				}
			}
		})
	}
	// Doubling for ever must not overflow into a delay in the past.
	if got := (Backoff{Exponential, time.Second, 1<<63 - 1, -1}).delay(1000); got <= 0 {
		t.Errorf("attempt 1000 waits %s", got)
	}
}

func TestBackoffJitterStaysInItsShare(t *testing.T) {
	b := Backoff{Exponential, time.Second, time.Minute, 0.5}
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := b.delay(1)
		if d < 750*time.Millisecond || d > 1250*time.Millisecond {
			t.Fatalf("delay %s is outside 1s give or take a quarter", d)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("only %d different delays in 1000", len(seen))
	}
}

func TestRetryGrowsToItsCapAndStartsOver(t *testing.T) {
	var r retry
	if d := r.next(); d > 2*retryMin {
		t.Errorf("the first wait is %s", d)
	}
	for range 20 {
		if d := r.next(); d > retryMax*5/4 {
			t.Fatalf("waits %s, the cap is %s", d, retryMax)
		}
	}
	if d := r.next(); d < retryMax*3/4 {
		t.Errorf("after many tries waits %s, want about %s", d, retryMax)
	}
	r.reset()
	if d := r.next(); d > 2*retryMin {
		t.Errorf("after a success waits %s", d)
	}
}

func TestSleepEndsEarly(t *testing.T) {
	wake := newSignal()
	wake.raise()
	wake.raise() // twice is once
	if alive, woken := doze(t.Context(), time.Hour, wake); !alive || !woken {
		t.Errorf("alive %v, woken %v", alive, woken)
	}
	if alive, woken := doze(t.Context(), time.Millisecond, wake); !alive || woken {
		t.Errorf("a signal was heard twice: alive %v, woken %v", alive, woken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if sleep(ctx, time.Hour, nil) {
		t.Error("sleep outlives its context")
	}
}
