package sqlite_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

// benchPayload is a payload of 200 bytes.
var benchPayload = json.RawMessage(`{"path":"` + strings.Repeat("a", 189) + `"}`)

func openBench(b *testing.B) store.Store {
	b.Helper()
	s, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.Install(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Queues().Insert(b.Context(), "bench", store.QueuePolicy{}); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchMessages(n int) []store.NewMessage {
	msgs := make([]store.NewMessage, n)
	for i := range msgs {
		msgs[i] = store.NewMessage{Queue: "bench", Payload: benchPayload}
	}
	return msgs
}

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// reportJobs also reports the CPU time per job, which other work on the machine
// disturbs less than the rate.
func reportJobs(b *testing.B, jobs int, cpu time.Duration) {
	b.ReportMetric(float64(jobs)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(jobs), "cpu-us/job")
}

// BenchmarkEnqueueBatch enqueues batches, flushed to the disk.
func BenchmarkEnqueueBatch(b *testing.B) {
	for _, size := range []int{1, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := openBench(b)
			p, err := s.Producer(b.Context(), store.ProducerOptions{})
			if err != nil {
				b.Fatal(err)
			}
			msgs := benchMessages(size)
			jobs := 0
			before := cpuTime(b)
			for b.Loop() {
				if _, err := p.EnqueueBatch(b.Context(), msgs); err != nil {
					b.Fatal(err)
				}
				jobs += size
			}
			reportJobs(b, jobs, cpuTime(b)-before)
		})
	}
}

// BenchmarkClaimSettle leases batches and settles them as done, flushed to the
// disk, on a backlog that does not run out.
func BenchmarkClaimSettle(b *testing.B) {
	for _, size := range []int{1, 64, 500, 2000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			claimSettle(b, size, store.Outcome{Kind: store.OutcomeDone, Output: json.RawMessage(`{"lines":100,"bytes":4096}`)})
		})
	}
}

// BenchmarkClaimDelete is BenchmarkClaimSettle where nothing is kept.
func BenchmarkClaimDelete(b *testing.B) {
	for _, size := range []int{500, 2000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			claimSettle(b, size, store.Outcome{Kind: store.OutcomeDelete})
		})
	}
}

func claimSettle(b *testing.B, size int, outcome store.Outcome) {
	s := openBench(b)
	c, err := s.Consumer(b.Context(), "bench", store.WorkerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	msgs := benchMessages(5000)
	ready, jobs := 0, 0
	before, filling := cpuTime(b), time.Duration(0)
	for b.Loop() {
		if ready < size {
			b.StopTimer()
			began := cpuTime(b)
			for range 10 {
				if _, err := s.Messages().Insert(b.Context(), msgs); err != nil {
					b.Fatal(err)
				}
			}
			ready += 10 * len(msgs)
			filling += cpuTime(b) - began
			b.StartTimer()
		}
		leased, err := c.Dequeue(b.Context(), size, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		if len(leased) != size {
			b.Fatalf("leased %d messages, want %d", len(leased), size)
		}
		outcomes := make([]store.Outcome, len(leased))
		for i, m := range leased {
			outcomes[i] = outcome
			outcomes[i].Lease = m.Lease
		}
		settled, err := c.Settle(b.Context(), outcomes)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range settled {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		ready -= size
		jobs += size
	}
	reportJobs(b, jobs, cpuTime(b)-before-filling)
}
