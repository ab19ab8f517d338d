package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// BenchmarkDrain runs no-op jobs through a handler process from a full queue to
// the archive.
func BenchmarkDrain(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		drain(b, anystore.Config{DSN: "sqlite:" + filepath.Join(b.TempDir(), "bench.db")})
	})
	b.Run("postgres", func(b *testing.B) {
		drain(b, anystore.Config{DSN: pgtest.DSN(b), Schema: pgtest.Schema(b)})
	})
}

func drain(b *testing.B, cfg anystore.Config) {
	ctx := context.Background()
	s, err := anystore.OpenConfig(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Install(ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Queues().Ensure(ctx, "work", store.QueuePolicy{}); err != nil {
		b.Fatal(err)
	}
	payload := []byte(`{"file":"` + strings.Repeat("x", 150) + `"}`)
	batch := slices.Repeat([]store.NewMessage{{Queue: "work", Payload: payload}}, 5000)
	for n := b.N; n > 0; n -= len(batch) {
		if _, err := s.Messages().Insert(ctx, batch[:min(n, len(batch))]); err != nil {
			b.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(Config{
		Store: s, StateDir: b.TempDir(), Commands: []host.Command{{Name: "testhandler", Path: exe}},
		Registry: prometheus.NewRegistry(), // without the process's own, which are slow to gather
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		b.Fatal(err)
	}
	f := &fixture{d: d}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- d.Run(run) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for f.metric("pgqrsd_settled_total", "queue", "work", "outcome", "done") < float64(b.N) {
		<-tick.C
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64(b.N)/f.metric("pgqrsd_settle_batch_size"), "jobs/settle")
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
