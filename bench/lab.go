package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lab is what the contenders are measured with.
type lab struct {
	dsn      string // of PostgreSQL; may hold a password
	pgqrsd   string // the binary to measure
	self     string // this program, which is started again for some contenders
	graphile string
	rounds   int
	scale    float64
}

func newLab(ctx context.Context, o options) (*lab, error) {
	l := &lab{dsn: os.Getenv("DSN"), rounds: o.rounds, scale: o.scale}
	if l.dsn == "" {
		l.dsn = os.Getenv("PGQRS_TEST_DSN")
	}
	if l.dsn == "" {
		return nil, errors.New("no database: set DSN to a PostgreSQL URL, or run it through scripts/with-postgres.sh --durable")
	}
	var err error
	if l.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if l.pgqrsd, err = filepath.Abs(o.pgqrsd); err != nil {
		return nil, fmt.Errorf("find pgqrsd: %w", err)
	}
	if _, err := os.Stat(l.pgqrsd); err != nil {
		return nil, fmt.Errorf("find pgqrsd: %w; build it with make build", err)
	}
	if l.graphile, err = filepath.Abs(o.graphile); err != nil {
		return nil, fmt.Errorf("find the directory of Graphile Worker: %w", err)
	}
	return l, dropSchemas(ctx, l.dsn)
}

// progress tells the person who waits what has come.
func (l *lab) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// messages scales a number of messages.
func (l *lab) messages(n int) int { return max(100, int(float64(n)*l.scale)) }

// duration scales a time, not below what gives any figure at all.
func (l *lab) duration(d time.Duration) time.Duration {
	return max(2*time.Second, time.Duration(float64(d)*l.scale).Round(time.Second))
}
