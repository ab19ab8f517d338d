package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/riverqueue/river"
)

// A client that has just started is slower until its loops and connections are
// up, so that its first jobs are not measured.
const (
	riverWarmUpJobs  = 100
	riverWarmUpEvery = 20 * time.Millisecond
)

// stampWorker tells when each job starts.
type stampWorker struct {
	river.WorkerDefaults[riverArgs]
	started chan<- stamp
}

type stamp struct {
	num int
	at  time.Time
}

func (w *stampWorker) Work(_ context.Context, job *river.Job[riverArgs]) error {
	w.started <- stamp{job.Args.Num, time.Now()}
	return nil
}

// riverLatency measures River at its defaults from the commit of an insert,
// which is when Insert returns, to the start of the worker. One job is inserted
// at each interval.
func riverLatency(ctx context.Context, t task) (f figures, err error) {
	driver, done, err := openRiver(ctx, t.DSN)
	if err != nil {
		return nil, err
	}
	defer done()
	started := make(chan stamp, max(riverWarmUpJobs, t.Messages))
	workers := river.NewWorkers()
	river.AddWorker(workers, &stampWorker{started: started})
	client, err := river.NewClient(driver, &river.Config{
		Logger:  quiet(),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
		Schema:  schemaRiver,
		Workers: workers,
	})
	if err != nil {
		return nil, fmt.Errorf("make a River client: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return nil, fmt.Errorf("start River: %w", err)
	}
	defer func() { err = errors.Join(err, client.Stop(context.WithoutCancel(ctx))) }()
	if _, err := startLatencies(ctx, client, started, riverWarmUpEvery, riverWarmUpJobs); err != nil {
		return nil, err
	}
	latencies, err := startLatencies(ctx, client, started, t.Every, t.Messages)
	if err != nil {
		return nil, err
	}
	return figures{
		figStartP50: quantile(latencies, 0.50),
		figStartP99: quantile(latencies, 0.99),
		figStartMax: slices.Max(latencies),
	}, nil
}

// startLatencies inserts jobs and returns how long each took to start, in
// milliseconds.
func startLatencies[Tx any](ctx context.Context, client *river.Client[Tx], started <-chan stamp, every time.Duration, jobs int) ([]float64, error) {
	committed, err := insertEvery(ctx, client, every, jobs)
	if err != nil {
		return nil, err
	}
	return awaitStamps(ctx, started, committed)
}

// insertEvery returns when each insert was committed.
func insertEvery[Tx any](ctx context.Context, client *river.Client[Tx], every time.Duration, jobs int) ([]time.Time, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	committed := make([]time.Time, jobs)
	for i := range committed {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if _, err := client.Insert(ctx, riverArgs{Num: i}, nil); err != nil {
			return nil, fmt.Errorf("insert a River job: %w", err)
		}
		committed[i] = time.Now()
	}
	return committed, nil
}

// awaitStamps waits for every job. One that starts before its insert returned
// has no latency.
func awaitStamps(ctx context.Context, started <-chan stamp, committed []time.Time) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	latencies := make([]float64, 0, len(committed))
	for range committed {
		select {
		case s := <-started:
			latencies = append(latencies, max(0, s.at.Sub(committed[s.num]).Seconds()*1000))
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for River's jobs, %d of %d started: %w", len(latencies), len(committed), ctx.Err())
		}
	}
	return latencies, nil
}

// quantile is the smallest value that at least the share q of them does not exceed.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
