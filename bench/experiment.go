package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// figures are what one round of a contender gave, by name.
type figures map[string]float64

// A contender is one of those that an experiment lets take turns.
type contender struct {
	name string
	// settings says what it runs, for the report.
	settings string
	// measure is one round. A *skipError leaves the contender out.
	measure func(ctx context.Context) (figures, error)
}

// skipError says why a contender cannot take part on this machine.
type skipError struct{ reason string }

func (e *skipError) Error() string { return e.reason }

// An experiment is contenders that are measured in turns, and the rows of the
// report that are made of their medians.
type experiment struct {
	name       string
	suite      string
	contenders []contender
	rows       []row
}

// The suites.
const (
	suiteTargets = "targets"
	suiteLatency = "latency"
)

// outcome is what an experiment's rounds gave.
type outcome struct {
	rounds   map[string][]figures
	failures map[string][]string
	skipped  map[string]string
}

// run alternates: A B C A B C. A round that fails is left out and does not keep
// the others from being measured.
func (e experiment) run(ctx context.Context, l *lab) outcome {
	out := outcome{rounds: map[string][]figures{}, failures: map[string][]string{}, skipped: map[string]string{}}
	for round := range l.rounds {
		for _, c := range e.contenders {
			if ctx.Err() != nil {
				return out
			}
			if out.skipped[c.name] != "" {
				continue
			}
			began := time.Now()
			f, err := c.measure(ctx)
			took := time.Since(began).Round(100 * time.Millisecond)
			var skip *skipError
			switch {
			case errors.As(err, &skip):
				out.skipped[c.name] = skip.reason
				l.progress("%s: %s is skipped: %s", e.name, c.name, skip.reason)
			case ctx.Err() != nil:
				return out // cut short, no failure of the contender's
			case err != nil:
				out.failures[c.name] = append(out.failures[c.name], fmt.Sprintf("round %d: %v", round+1, err))
				l.progress("%s: round %d of %d: %s failed after %s: %v", e.name, round+1, l.rounds, c.name, took, err)
			default:
				out.rounds[c.name] = append(out.rounds[c.name], f)
				l.progress("%s: round %d of %d: %s: %s (in %s)", e.name, round+1, l.rounds, c.name, f, took)
			}
		}
	}
	return out
}

// choose takes the experiments of a suite, or those that are named, or of them
// the rows that are named with the contenders that they need.
func choose(all []experiment, only []string, suite string) ([]experiment, error) {
	if suite != suiteTargets && suite != suiteLatency {
		return nil, fmt.Errorf("-suite %q: %s or %s", suite, suiteTargets, suiteLatency)
	}
	var chosen []experiment
	known := map[string]bool{}
	for _, e := range all {
		known[e.name] = true
		var rows []row
		for _, r := range e.rows {
			known[r.name] = true
			if slices.Contains(only, r.name) {
				rows = append(rows, r)
			}
		}
		switch {
		case len(only) == 0 && e.suite == suite, slices.Contains(only, e.name):
			chosen = append(chosen, e)
		case len(rows) > 0:
			chosen = append(chosen, e.narrowed(rows))
		}
	}
	for _, name := range only {
		if !known[name] {
			return nil, fmt.Errorf("-only %s: no such experiment or row. There are:\n%s", name, listing(all))
		}
	}
	return chosen, nil
}

// narrowed keeps these rows and the contenders that they need.
func (e experiment) narrowed(rows []row) experiment {
	e.rows = rows
	e.contenders = slices.DeleteFunc(slices.Clone(e.contenders), func(c contender) bool {
		return !slices.ContainsFunc(rows, func(r row) bool { return slices.Contains(r.needs, c.name) })
	})
	return e
}

func listing(all []experiment) string {
	var b strings.Builder
	for _, e := range all {
		var rows []string
		for _, r := range e.rows {
			rows = append(rows, r.name)
		}
		fmt.Fprintf(&b, "  %-18s %s\n", e.name, strings.Join(rows, " "))
	}
	return strings.TrimRight(b.String(), "\n")
}
