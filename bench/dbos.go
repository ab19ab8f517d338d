package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"golang.org/x/sync/errgroup"
)

const (
	// dbosInFlight is how many of its workflows are in flight, and of ours.
	dbosInFlight = 100
	dbosQueue    = "bench"
	dbosWorkflow = "bench"
	// dbosPoll is how often its queue is asked: at its default of a second a
	// hundred workflows in flight are a hundred a second.
	dbosPoll     = 5 * time.Millisecond
	dbosPatience = time.Minute
	dbosStopTime = 10 * time.Second
)

// Its pool is as large as it makes it by itself.
const (
	dbosAloneSettings = "in process, one workflow after the other; its own pool of 20 connections"
	dbosStartSettings = "in process, 100 goroutines that each run a workflow and wait for its result, one after the other; its own pool of 20 connections"
	dbosQueueSettings = "in process, from a queue that is full, WorkerConcurrency 100, polled every 5 ms instead of every second; its own pool of 20 connections"
)

// dbosWork is a workflow of so many steps. done counts those that have come to
// their end, but are not recorded yet, and took is told of each step's time.
func dbosWork(done *atomic.Int64, took func(time.Duration)) dbos.Workflow[int, int] {
	return func(ctx dbos.Context, steps int) (int, error) {
		for range steps {
			began := time.Now()
			if _, err := dbos.RunAsStep(ctx, dbosStep, dbos.WithStepName("nothing")); err != nil {
				return 0, err
			}
			took(time.Since(began))
		}
		done.Add(1)
		return steps, nil
	}
}

func dbosStep(context.Context) (int, error) { return 0, nil }

// openDBOS makes its tables and a context, which is not launched.
func openDBOS(ctx context.Context, dsn string, work dbos.Workflow[int, int]) (dbos.Context, error) {
	d, err := dbos.NewContext(ctx, dbos.Config{AppName: "side-by-side", DatabaseURL: dsn, DatabaseSchema: schemaDBOS, Logger: quiet()})
	if err != nil {
		return nil, fmt.Errorf("open DBOS: %w", err)
	}
	dbos.RegisterWorkflow(d, work, dbos.WithWorkflowName(dbosWorkflow))
	return d, nil
}

// dbosStart starts workflows directly, a hundred at once.
func dbosStart(ctx context.Context, t task) (figures, error) {
	return dbosRun(ctx, t, dbosInFlight, func(time.Duration) {})
}

// dbosAlone starts them one by one, and measures each step.
func dbosAlone(ctx context.Context, t task) (figures, error) {
	var took []float64
	f, err := dbosRun(ctx, t, 1, func(d time.Duration) { took = append(took, float64(d.Microseconds())/1000) })
	if err != nil {
		return nil, err
	}
	f[figStepP50], f[figStepP99] = quantile(took, 0.5), quantile(took, 0.99)
	return f, nil
}

func dbosRun(ctx context.Context, t task, inFlight int, took func(time.Duration)) (f figures, err error) {
	var done atomic.Int64
	work := dbosWork(&done, took)
	d, err := openDBOS(ctx, t.DSN, work)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dbos.Shutdown(d, dbosStopTime)) }()
	if err := dbos.Launch(d); err != nil {
		return nil, fmt.Errorf("launch DBOS: %w", err)
	}
	if err := settleDown(ctx, t.DSN, schemaDBOS); err != nil {
		return nil, err
	}
	began := time.Now()
	err = inParallel(ctx, t.Messages, inFlight, func() error {
		h, err := dbos.RunWorkflow(d, work, t.Steps)
		if err != nil {
			return fmt.Errorf("run a DBOS workflow: %w", err)
		}
		_, err = h.GetResult()
		return err
	})
	if err != nil {
		return nil, err
	}
	return dbosFigures(ctx, t, time.Since(began))
}

// dbosDrain works off a queue that is filled beforehand. The clock runs from the
// launch until all workflows are recorded as done.
func dbosDrain(ctx context.Context, t task) (f figures, err error) {
	var done atomic.Int64
	d, err := openDBOS(ctx, t.DSN, dbosWork(&done, func(time.Duration) {}))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dbos.Shutdown(d, dbosStopTime)) }()
	_, err = dbos.RegisterQueue(d, dbosQueue, dbos.WithWorkerConcurrency(dbosInFlight), dbos.WithQueueBasePollingInterval(dbosPoll))
	if err != nil {
		return nil, fmt.Errorf("register a DBOS queue: %w", err)
	}
	err = inParallel(ctx, t.Messages, dbosInFlight, func() error {
		_, err := dbos.Enqueue[int](d, dbosQueue, dbosWorkflow, t.Steps)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fill a DBOS queue: %w", err)
	}
	if err := settleDown(ctx, t.DSN, schemaDBOS); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := dbos.Launch(d); err != nil {
		return nil, fmt.Errorf("launch DBOS: %w", err)
	}
	if err := awaitDBOS(ctx, t, &done); err != nil {
		return nil, err
	}
	return dbosFigures(ctx, t, time.Since(began))
}

// awaitDBOS waits until all workflows are recorded as done. The database is not
// asked before they have come to their end.
func awaitDBOS(ctx context.Context, t task, done *atomic.Int64) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for before, progressed := int64(0), time.Now(); ; {
		if n := done.Load(); n != before {
			before, progressed = n, time.Now()
		}
		if before >= int64(t.Messages) {
			if n, err := dbosSucceeded(ctx, t); err != nil || n == t.Messages {
				return err
			}
		}
		if time.Since(progressed) > dbosPatience {
			return fmt.Errorf("no workflow was done for a minute, %d of %d in all", before, t.Messages)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func dbosSucceeded(ctx context.Context, t task) (int, error) {
	return count(ctx, t.DSN, "select count(*) from "+schemaDBOS+".workflow_status where status = 'SUCCESS'")
}

// dbosFigures checks that everything is recorded.
func dbosFigures(ctx context.Context, t task, spent time.Duration) (figures, error) {
	n, err := dbosSucceeded(ctx, t)
	if err != nil || n != t.Messages {
		return nil, fmt.Errorf("%d of %d workflows are recorded as done: %w", n, t.Messages, err)
	}
	n, err = count(ctx, t.DSN, "select count(*) from "+schemaDBOS+".operation_outputs")
	if err != nil || n != t.Messages*t.Steps {
		return nil, fmt.Errorf("%d of %d steps are recorded: %w", n, t.Messages*t.Steps, err)
	}
	perSecond := float64(t.Messages) / spent.Seconds()
	return figures{figSeconds: spent.Seconds(), figWorkflows: perSecond, figSteps: perSecond * float64(t.Steps)}, nil
}

// inParallel does n times what do does, so many at once.
func inParallel(ctx context.Context, n, atOnce int, do func() error) error {
	var began atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(n, atOnce) {
		group.Go(func() error {
			for began.Add(1) <= int64(n) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
