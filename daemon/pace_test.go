package daemon

import (
	"testing"
	"time"
)

func TestPrefetch(t *testing.T) {
	const concurrency = 100
	begin := time.Now()
	// feed has jobs of one duration finish at a rate for two seconds.
	feed := func(p *pace, every time.Duration, n int, each time.Duration) time.Time {
		at := begin
		for at.Before(begin.Add(2 * time.Second)) {
			at = at.Add(every)
			p.results(at, n, time.Duration(n)*each)
		}
		return at
	}
	t.Run("quick jobs run in batches of hundreds", func(t *testing.T) {
		var p pace
		at := feed(&p, 5*time.Millisecond, 100, 50*time.Microsecond) // 20,000/s
		if n := p.prefetch(at, concurrency); n < 1000 || n > maxPrefetch {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("slow jobs are not hoarded", func(t *testing.T) {
		var p pace
		at := feed(&p, time.Second, 2, time.Minute)
		if n := p.prefetch(at, concurrency); n != 0 {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("a burst of slow jobs' results is not taken for quick ones", func(t *testing.T) {
		var p pace
		p.results(begin, concurrency, concurrency*time.Minute)
		if n := p.prefetch(begin, concurrency); n != 0 {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("jobs of a tenth of a second are held once over at most", func(t *testing.T) {
		var p pace
		at := feed(&p, 10*time.Millisecond, 10, 100*time.Millisecond)
		if n := p.prefetch(at, concurrency); n < 50 || n > concurrency {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("one at a time may still be quick", func(t *testing.T) {
		var p pace
		at := feed(&p, time.Millisecond, 1, 10*time.Microsecond)
		if n := p.prefetch(at, 1); n < 50 || n > 100 {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("a queue that went quiet holds nothing in advance", func(t *testing.T) {
		var p pace
		at := feed(&p, 5*time.Millisecond, 100, 50*time.Microsecond)
		if n := p.prefetch(at.Add(time.Second), concurrency); n != 0 {
			t.Errorf("prefetch is %d", n)
		}
	})
	t.Run("a fresh queue holds nothing in advance", func(t *testing.T) {
		var p pace
		if n := p.prefetch(begin, concurrency); n != 0 {
			t.Errorf("prefetch is %d", n)
		}
	})
}
