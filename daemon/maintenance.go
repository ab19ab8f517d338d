package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	promoteBatch = 1000
	// promoteGap is the least time between two looks for due messages while
	// wake-ups pour in.
	promoteGap = 50 * time.Millisecond
	// promoteDeaf is how often due messages are looked for without wake-ups.
	promoteDeaf  = time.Second
	expireBatch  = 1000
	expireEvery  = time.Minute
	workersEvery = time.Hour
	// stoppedFor is how long the rows of stopped workers are kept.
	stoppedFor = 24 * time.Hour
)

// maintenance is what the elected daemon does for all.
type maintenance struct {
	d       *Daemon
	lead    time.Time // until when this daemon is the elected one
	elect   time.Time // when to ask again
	promote time.Time // when the next delayed message is due
	expire  time.Time
	workers time.Time
}

// maintain asks to be the elected daemon, and does the maintenance while it is.
func (d *Daemon) maintain(ctx context.Context) error {
	m := &maintenance{d: d, workers: time.Now().Add(time.Minute), expire: time.Now().Add(jittered(expireEvery / 4))}
	var back retry
	defer d.setLeads(false)
	for {
		began := time.Now()
		wait, err := m.round(ctx)
		var notReady *store.NotReadyError
		switch {
		case ctx.Err() != nil:
			return nil
		case fatal(err):
			return err
		case errors.As(err, &notReady): // suspended: others do it
			m.lead = time.Time{}
			d.setLeads(false)
			wait = d.cfg.MaintenanceInterval
		case err != nil:
			if !transient(err) {
				d.log.Error("maintenance failed; trying again", "error", err)
			}
			wait = back.next()
		default:
			back.reset()
		}
		alive, woken := doze(ctx, wait, d.due)
		if !alive {
			return nil
		}
		if gap := promoteGap - time.Since(began); gap > 0 && !sleep(ctx, gap, nil) {
			return nil
		}
		if woken {
			m.promote = time.Now() // something may be due earlier
		}
	}
}

// round does what is due now and says when it wants to be called again.
func (m *maintenance) round(ctx context.Context) (time.Duration, error) {
	call, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	admin := m.d.workers.admin()
	now := time.Now()
	if !now.Before(m.elect) {
		if err := m.election(call, admin, now); err != nil {
			return 0, err
		}
		if now.Before(m.lead) {
			if err := m.rescue(call, admin); err != nil {
				return 0, err
			}
		}
	}
	if !now.Before(m.lead) {
		return time.Until(m.elect), nil
	}
	if !now.Before(m.promote) {
		if err := m.promoteDue(call, admin); err != nil {
			return 0, err
		}
	}
	if !now.Before(m.expire) {
		if err := m.purge(call, admin); err != nil {
			return 0, err
		}
	}
	next := m.elect
	for _, t := range []time.Time{m.promote, m.expire} {
		if t.Before(next) {
			next = t
		}
	}
	return max(0, time.Until(next)), nil
}

func (m *maintenance) election(ctx context.Context, admin store.Admin, now time.Time) error {
	interval := m.d.cfg.MaintenanceInterval
	ttl := 3 * interval
	led := now.Before(m.lead)
	leads, err := admin.Lead(ctx, ttl)
	if m.d.database.noteRead(err) != nil {
		return fmt.Errorf("ask to do the maintenance: %w", err)
	}
	m.elect = now.Add(jittered(interval))
	if !leads {
		m.lead = time.Time{}
		m.d.setLeads(false)
		return nil
	}
	m.lead = now.Add(ttl)
	if !led {
		m.promote = now
		m.d.setLeads(true)
		m.d.log.Debug("this daemon does the maintenance")
	}
	return nil
}

// rescue takes back what dead workers and run-out leases hold.
func (m *maintenance) rescue(ctx context.Context, admin store.Admin) error {
	var left error
	if m.mayReclaim(time.Now()) {
		back, err := admin.Reclaim(ctx, m.d.cfg.WorkerTimeout)
		if back != (store.GivenBack{}) {
			m.d.log.Warn("dead workers' messages were taken back", "workers", back.Workers, "ready", back.Ready, "dead", back.Dead)
		}
		if m.d.database.noteRead(err) != nil {
			left = fmt.Errorf("reclaim dead workers: %w", err)
			if !errors.Is(err, store.ErrUnavailable) {
				return left
			}
			// A row that somebody keeps locked is no reason to leave the leases.
		}
	}
	back, err := admin.GiveBack(ctx)
	if back.Ready+back.Dead > 0 {
		m.d.log.Info("run-out leases were given back", "ready", back.Ready, "dead", back.Dead)
	}
	if m.d.database.noteRead(err) != nil {
		return fmt.Errorf("give back run-out leases: %w", err)
	}
	return left
}

// mayReclaim keeps the living from being taken for dead. After the database was
// away every heartbeat is old, so all get time to beat again; and a daemon that
// was itself stopped for a while beats before it judges.
func (m *maintenance) mayReclaim(now time.Time) bool {
	beat := time.Unix(0, m.d.beat.Load())
	return now.Sub(beat) < m.d.cfg.WorkerTimeout/2 && now.Sub(m.d.database.upSince()) > m.d.cfg.WorkerTimeout
}

// promoteDue makes delayed messages ready that are due, and notes when the next is.
func (m *maintenance) promoteDue(ctx context.Context, admin store.Admin) error {
	for {
		moved, next, err := admin.Promote(ctx, promoteBatch)
		if m.d.database.noteRead(err) != nil {
			return fmt.Errorf("make due messages ready: %w", err)
		}
		if moved > 0 {
			m.d.wakeQueue("")
		}
		if moved == promoteBatch || next == 0 && moved > 0 {
			continue
		}
		// Who delays a message wakes this daemon; the look without is for the
		// wake-up that got lost.
		longest := 3 * m.d.cfg.MaintenanceInterval
		if !m.d.listening.Load() {
			longest = min(m.d.cfg.MaintenanceInterval, promoteDeaf)
		}
		if next < 0 || next > longest {
			next = longest
		}
		m.promote = time.Now().Add(max(next, time.Millisecond))
		return nil
	}
}

// purge removes what is past its retention, a batch a round while there is more.
func (m *maintenance) purge(ctx context.Context, admin store.Admin) error {
	n, err := admin.PurgeExpired(ctx, expireBatch)
	if m.d.database.noteRead(err) != nil {
		return fmt.Errorf("purge archived messages: %w", err)
	}
	m.expire = time.Now().Add(jittered(expireEvery))
	if n == expireBatch {
		m.expire = time.Now()
	}
	if time.Now().Before(m.workers) {
		return nil
	}
	if _, err := admin.PurgeWorkers(ctx, stoppedFor); m.d.database.noteRead(err) != nil {
		return fmt.Errorf("purge stopped workers: %w", err)
	}
	m.workers = time.Now().Add(jittered(workersEvery))
	return nil
}

// sample reads the queues' depths for the metrics.
func (d *Daemon) sample(ctx context.Context) error {
	said := time.Now() // when workflows without a handler were looked for; those of a start may yet come
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		samples, err := d.workers.admin().SampleMetrics(call)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case d.database.noteRead(err) == nil:
			d.metrics.sampled(samples, d.known)
			if d.leads.Load() && time.Since(said) >= strandedEvery {
				said = time.Now()
				if err := d.sayUnserved(ctx, samples); err != nil && ctx.Err() == nil {
					d.log.Debug("workflows without a handler could not be looked for", "error", err)
				}
			}
		case fatal(err):
			return err
		case !transient(err):
			d.log.Warn("queue depths could not be sampled", "error", err)
		}
		if !sleep(ctx, jittered(d.cfg.SampleInterval), nil) {
			return nil
		}
	}
}

// setLeads notes whether this daemon does the maintenance.
func (d *Daemon) setLeads(leads bool) {
	d.leads.Store(leads)
	n := 0.0
	if leads {
		n = 1
	}
	d.metrics.leader.Set(n)
}
