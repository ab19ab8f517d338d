package postgres

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// openBench opens a store on an installed schema of its own, with a queue.
func openBench(b *testing.B) *Store {
	b.Helper()
	schema := pgtest.Schema(b)
	s, err := Open(b.Context(), Config{DSN: pgtest.DSN(b), Schema: schema})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	if err := s.Install(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Queues().Insert(b.Context(), "bench", store.QueuePolicy{}); err != nil {
		b.Fatal(err)
	}
	return s.(*Store)
}

// bench200 is a payload of 200 bytes.
var bench200 = json.RawMessage(fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 189)))

func benchMessages(n int) []store.NewMessage {
	msgs := make([]store.NewMessage, n)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: "bench", Payload: bench200}
	}
	return msgs
}

func fill(b *testing.B, s *Store, n int) {
	b.Helper()
	const batch = 5000
	for ; n > 0; n -= batch {
		if _, err := s.Messages().Insert(b.Context(), benchMessages(min(n, batch))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkClaimSettle is the bare loop: messages are claimed on one
// connection and archived on another. One iteration is 200,000 messages.
func BenchmarkClaimSettle(b *testing.B) {
	const messages = 200_000
	for _, size := range []int{500, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := openBench(b)
			c, err := s.Consumer(b.Context(), "bench", store.WorkerOptions{})
			if err != nil {
				b.Fatal(err)
			}
			var spent time.Duration
			for range b.N {
				b.StopTimer()
				fill(b, s, messages)
				b.StartTimer()
				began := time.Now()
				drain(b, c, size, messages)
				spent += time.Since(began)
			}
			b.ReportMetric(float64(b.N*messages)/spent.Seconds(), "jobs/s")
		})
	}
}

// drain claims and settles until n messages are done.
func drain(b *testing.B, c store.Consumer, size, n int) {
	b.Helper()
	claimed := make(chan []store.LeasedMessage, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(claimed)
		for left := n; left > 0; {
			got, err := c.Dequeue(b.Context(), min(size, left), time.Minute)
			if err != nil || len(got) == 0 {
				b.Errorf("dequeue with %d left: %d messages, %v", left, len(got), err)
				return
			}
			left -= len(got)
			claimed <- got
		}
	})
	for got := range claimed {
		outcomes := make([]store.Outcome, len(got))
		for i := range got {
			outcomes[i] = store.Outcome{Lease: got[i].Lease, Kind: store.OutcomeDone}
		}
		settled, err := c.Settle(b.Context(), outcomes)
		if err != nil {
			b.Fatal(err)
		}
		for i := range settled {
			if settled[i].Err != nil {
				b.Fatal(settled[i].Err)
			}
		}
	}
	wg.Wait()
}

// BenchmarkEnqueueBatch stores messages in batches of 5,000, one after another.
func BenchmarkEnqueueBatch(b *testing.B) {
	const batch = 5000
	s := openBench(b)
	msgs := benchMessages(batch)
	for b.Loop() {
		if _, err := s.Messages().Insert(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkEnqueueOne stores messages one at a time from eight goroutines.
func BenchmarkEnqueueOne(b *testing.B) {
	s := openBench(b)
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := s.Messages().Insert(b.Context(), benchMessages(1)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}
