package integration

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// transferLoad is a workload of transfers, each to an account of its own.
type transferLoad struct {
	*bank
	rng *rand.Rand
}

// Each transfer happens exactly once, to the cent, when the daemon, the handler
// or Postgres dies by SIGKILL at each place on the way through the application's
// transaction: before it has done anything, before and after the step is
// recorded in it, and after it was committed and before anybody knows. Beside
// these it kills at a part of the places that TestKillMatrix does, or all of them,
// by the same variables.
func TestTransferMatrix(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Start(t)
	w := newWorld(t, cluster.DSN(), "pgqrs")
	m := newMatrix(w)
	b := newBank(t, w, cluster.DSN(), "FAILPOINTS="+m.dir)
	w.plugin("failing-transfer", "transfer")
	m.s, m.work = b.settings, &transferLoad{b, m.rng}
	m.killAt([]string{"begun.step-tx", "wrote.step-tx", "commits.step-tx", "committed.step-tx"}, []string{"daemon", "handler", "postgres"},
		"host-sends.jobs", "host-took.results", "handler-took.jobs", "handler-sends.results")
}

func (l *transferLoad) open() {
	l.t.Helper()
	l.queueThere("transfer")
	l.fund()
}

func (l *transferLoad) load() []int64 {
	l.t.Helper()
	ids := make([]int64, 12)
	for i := range ids {
		ids[i] = l.book(l.rng, fmt.Sprint("of transfer ", l.booked))
	}
	return ids
}

// progress counts the transfers that have ended.
func (l *transferLoad) progress() int { return l.booked - int(max(l.unfinishedRuns(), 0)) }

func (l *transferLoad) check(what string, ids []int64) {
	l.t.Helper()
	l.allBooked(what, ids)
	for _, id := range ids {
		steps := l.steps(id)
		if len(steps) != 2 || steps[0].Name != "take" || steps[1].Name != "bring" || steps[0].State != store.StepSucceeded || steps[1].State != store.StepSucceeded {
			l.t.Errorf("%s: the steps of transfer %d are %+v", what, id, steps)
		}
	}
}
