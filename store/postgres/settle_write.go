package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgqrs/pgqrsd/internal/failpoint"
)

// write writes what was decided and commits. It returns the claims it dropped.
func (m *mixed) write(ctx context.Context, conn *pgxpool.Conn) ([]int64, error) {
	b := m.s.batch()
	now := m.s.now()
	if m.runs != nil {
		if err := m.runs.write(b, now); err != nil {
			return nil, err
		}
		if len(m.back) > 0 {
			b.add(sqlLockMessages, m.back)
		}
	}
	if len(m.done) > 0 {
		m.addDone(b, m.done)
	}
	if len(m.dead.ids) > 0 {
		failed, err := m.dead.places()
		if err != nil {
			return nil, err
		}
		b.add(sqlSettleDead, now, m.worker, m.dead.ids, m.dead.errors, failed)
	}
	if len(m.wait.ids) > 0 {
		b.add(sqlSettleWait, now, m.worker, m.wait.ids, m.wait.delays, m.wait.errors)
	}
	if len(m.again.ids) > 0 {
		b.add(sqlSettleAgain, now, m.worker, m.again.ids, m.again.errors)
	}
	if len(m.remove) > 0 {
		b.add(sqlSettleDelete, m.remove)
	}
	if m.runs != nil {
		m.runs.writeEnds(b, now, m.worker, m.wait.ids)
	}
	if len(m.remove) > 0 {
		b.add(sqlForget, m.remove)
	}
	if err := m.addFollowUps(b); err != nil {
		return nil, err
	}
	empty := m.addClaims(b)
	b.add(sqlCommit)
	failpoint.At(failpoint.Commits, "settle")
	if err := conn.SendBatch(ctx, &b.b).Close(); err != nil {
		return nil, err
	}
	failpoint.At(failpoint.Committed, "settle")
	if m.runs != nil {
		m.queues = append(m.queues, m.runs.woken...)
	}
	return empty, nil
}

func (m *mixed) addFollowUps(b *batch) error {
	if len(m.enqueue) == 0 {
		return nil
	}
	p, err := packMessages(m.enqueue)
	if err != nil {
		return err
	}
	var ids []int64
	p.add(b, nil, &ids)
	m.queues = append(m.queues, p.distinct...)
	return nil
}

// addClaims drops claims that have nothing left, and shrinks those that lost
// messages which may come back.
func (m *mixed) addClaims(b *batch) []int64 {
	if m.holdings == nil {
		if len(m.gone) > 0 {
			b.add(sqlShrinkClaims, m.worker, m.claims, m.gone)
		}
		b.add(sqlDropEmptyClaims, m.worker, m.claims)
		return nil
	}
	empty := m.holdings.emptied(m.leases(m.left))
	if len(empty) > 0 {
		b.add(sqlDropClaims, m.worker, empty)
	}
	slices.Sort(m.goneFrom)
	if shrunk := without(slices.Compact(m.goneFrom), empty); len(shrunk) > 0 {
		b.add(sqlShrinkClaims, m.worker, shrunk, m.gone)
	}
	return empty
}
