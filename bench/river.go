package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// What River's own benchmark sets (`river bench`, package riverbench). Its
// count of available jobs, once a second, is left out: it only costs time.
const (
	riverMaxWorkers    = 2000
	riverFetchCooldown = 2 * time.Millisecond
	riverPollInterval  = 20 * time.Millisecond
)

const riverSettings = "in process, MaxWorkers 2000, FetchCooldown 2 ms, FetchPollInterval 20 ms, no-op worker, completed jobs kept"

// riverArgs and riverWorker are as in River's benchmark.
type riverArgs struct {
	Num int `json:"num"`
}

func (riverArgs) Kind() string { return "benchmark" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
}

func (*riverWorker) Work(context.Context, *river.Job[riverArgs]) error { return nil }

// quiet is a logger of warnings, River's default for its command line.
func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// riverPool opens the pool as River's command line does: pgx's default size,
// with its time-outs.
func riverPool(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the DSN: %w", err)
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "river CLI"
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "11000"
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = "10000"
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return pool, nil
}

// openRiver connects as River does, and makes its tables. done closes the
// connections.
func openRiver(ctx context.Context, dsn string) (driver *riverpgxv5.Driver, done func(), err error) {
	pool, err := riverPool(ctx, dsn)
	if err != nil {
		return nil, nil, err
	}
	driver = riverpgxv5.New(pool)
	if err := createRiverSchema(ctx, dsn, driver); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return driver, pool.Close, nil
}

// createRiverSchema makes River's tables.
func createRiverSchema(ctx context.Context, dsn string, driver *riverpgxv5.Driver) error {
	err := onConnection(ctx, dsn, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create schema "+schemaRiver)
		return err
	})
	if err != nil {
		return fmt.Errorf("create schema %s: %w", schemaRiver, err)
	}
	return migrateRiver(ctx, driver, schemaRiver)
}

func migrateRiver[Tx any](ctx context.Context, driver riverdriver.Driver[Tx], schema string) error {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Schema: schema, Logger: quiet()})
	if err != nil {
		return fmt.Errorf("make River's migrator: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate River's tables: %w", err)
	}
	return nil
}

// riverDrain works jobs off with River on PostgreSQL.
func riverDrain(ctx context.Context, t task) (figures, error) {
	driver, done, err := openRiver(ctx, t.DSN)
	if err != nil {
		return nil, err
	}
	defer done()
	prepare := func() error { return settleDown(ctx, t.DSN, schemaRiver) }
	f, err := drainRiver(ctx, driver, schemaRiver, t.Messages, prepare)
	if err != nil {
		return nil, err
	}
	n, err := count(ctx, t.DSN, "select count(*) from "+schemaRiver+".river_job where state = 'completed'")
	if err != nil || n != t.Messages {
		return nil, fmt.Errorf("%d of %d jobs are completed in the table: %w", n, t.Messages, err)
	}
	return f, nil
}

// drainRiver is River's benchmark with the clock from the start of the client
// to the event of the last job, which comes after it is recorded as completed.
func drainRiver[Tx any](ctx context.Context, driver riverdriver.Driver[Tx], schema string, jobs int, prepare func() error) (f figures, err error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{})
	client, err := river.NewClient(driver, &river.Config{
		FetchCooldown:     riverFetchCooldown,
		FetchPollInterval: riverPollInterval,
		Logger:            quiet(),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverMaxWorkers}},
		Schema:            schema,
		Workers:           workers,
	})
	if err != nil {
		return nil, fmt.Errorf("make a River client: %w", err)
	}
	events, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: jobs, // so that no event is dropped
		Kinds:    []river.EventKind{river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed},
	})
	defer unsubscribe()
	if err := fillRiver(ctx, client, jobs); err != nil {
		return nil, err
	}
	if err := prepare(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := client.Start(ctx); err != nil {
		return nil, fmt.Errorf("start River: %w", err)
	}
	defer func() { err = errors.Join(err, client.Stop(context.WithoutCancel(ctx))) }()
	if err := awaitRiver(ctx, events, jobs); err != nil {
		return nil, err
	}
	return drained(jobs, time.Since(began)), nil
}

func fillRiver[Tx any](ctx context.Context, client *river.Client[Tx], jobs int) error {
	for done := 0; done < jobs; {
		params := make([]river.InsertManyParams, min(enqueueBatch, jobs-done))
		for i := range params {
			params[i] = river.InsertManyParams{Args: riverArgs{Num: done + i + 1}}
		}
		if _, err := client.InsertManyFast(ctx, params); err != nil {
			return fmt.Errorf("insert River's jobs: %w", err)
		}
		done += len(params)
	}
	return nil
}

// awaitRiver waits until every job is completed.
func awaitRiver(ctx context.Context, events <-chan *river.Event, jobs int) error {
	const patience = time.Minute
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	for done := 0; done < jobs; {
		select {
		case event := <-events:
			if event == nil || event.Kind != river.EventKindJobCompleted {
				return fmt.Errorf("a River job was not completed after %d of %d were", done, jobs)
			}
			done++
			// Resetting for each job would be measured.
			if done%1000 == 0 {
				stuck.Reset(patience)
			}
		case <-stuck.C:
			return fmt.Errorf("no job was completed for a minute, %d of %d in all", done, jobs)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
