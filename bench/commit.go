package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// commitWarmUp is how many commits prepare the statement and the caches.
const commitWarmUp = 20

// bareCommits measures the least that recording anything costs.
func bareCommits(ctx context.Context, t task) (figures, error) {
	var took []float64
	err := onConnection(ctx, t.DSN, func(conn *pgx.Conn) error {
		for _, sql := range []string{
			"create schema " + schemaCommit,
			"create table " + schemaCommit + ".commits (run bigint, name text, output text, primary key (run, name))",
			"checkpoint",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		for i := range commitWarmUp + t.Messages {
			began := time.Now()
			if _, err := conn.Exec(ctx, "insert into "+schemaCommit+".commits values ($1, 'nothing', '{}')", i); err != nil {
				return fmt.Errorf("insert a row: %w", err)
			}
			if i >= commitWarmUp {
				took = append(took, float64(time.Since(began).Microseconds())/1000)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return figures{figCommitP50: quantile(took, 0.5), figCommitP99: quantile(took, 0.99)}, nil
}
