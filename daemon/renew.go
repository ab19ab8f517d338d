package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	// keepTick is how often the jobs of a queue that has some are looked at.
	keepTick = 50 * time.Millisecond
	// markAfter is how long a job runs before it is recorded as started. Quick
	// jobs never are, so they cost nothing.
	markAfter = 50 * time.Millisecond
	// recallAfter is how long a job may wait in a handler for its start while
	// nothing there ends. Then it is asked back: another daemon may have room.
	recallAfter = time.Second
	// beatEvery is how often progress is published.
	beatEvery = time.Second
)

// keepLoop keeps what handlers have: it renews leases, records long jobs as
// started, and publishes progress. It goes on while the database is away.
func (q *queue) keepLoop(ctx context.Context) error {
	var (
		back  retry
		beats time.Time
	)
	for {
		if !q.hasClaims() {
			select {
			case <-ctx.Done():
				return nil
			case <-q.keep:
			}
			continue
		}
		wait := keepTick
		err := q.renew(ctx)
		if err == nil {
			err = q.mark(ctx)
		}
		if err == nil && time.Since(beats) >= beatEvery {
			beats = time.Now()
			err = q.publish(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case fatal(err):
			return err
		case err != nil:
			if !transient(err) {
				q.log.Error("leases could not be kept; trying again", "error", err)
			}
			wait = back.next()
		default:
			back.reset()
		}
		q.recall()
		if !sleep(ctx, wait, nil) {
			return nil
		}
	}
}

func (q *queue) hasClaims() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.claims) > 0
}

// renew extends the claims that have used up a third of their lease.
func (q *queue) renew(ctx context.Context) error {
	q.mu.Lock()
	consumer, lease := q.consumer, q.cfg.Lease
	now := time.Now()
	jobs := q.toRenew(now)
	q.mu.Unlock()
	if len(jobs) == 0 {
		return nil
	}
	leases := make([]store.Lease, len(jobs))
	for i, j := range jobs {
		leases[i] = j.lease
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answers, err := consumer.Extend(call, lease, leases...)
	if q.d.database.noteRead(err) != nil {
		return err
	}
	q.mu.Lock()
	var lost []*job
	for i, j := range jobs {
		switch {
		case answers[i] == nil:
			j.claim.lease, j.claim.renewAt = lease, now.Add(lease/3)
		case j.place == running:
			lost = append(lost, j)
		default:
			// Its result was recorded meanwhile, which ends the lease of the one
			// job. The next tick asks with another job of the claim.
		}
	}
	refs := q.lose(lost)
	q.mu.Unlock()
	q.cancelLost(refs)
	return nil
}

// toRenew picks a job of each claim that is due: one that a handler has, if
// there is one, because only then a lost lease means something. It wants the lock.
func (q *queue) toRenew(now time.Time) []*job {
	var jobs []*job
	for _, c := range q.claims {
		// Those that are due soon go along.
		if now.Before(c.renewAt.Add(-c.lease / 12)) {
			continue
		}
		var pick *job
		for i := range c.jobs {
			if j := &c.jobs[i]; j.place == running {
				pick = j
				break
			} else if j.place == ended {
				pick = j
			}
		}
		if pick != nil {
			jobs = append(jobs, pick)
		}
	}
	return jobs
}

// lose forgets the claims of these jobs, whose lease is lost, and returns the
// jobs that handlers still have. It wants the lock.
func (q *queue) lose(lost []*job) []host.Ref {
	var refs []host.Ref
	n := 0
	for _, l := range lost {
		for i := range l.claim.jobs {
			j := &l.claim.jobs[i]
			if j.place == gone {
				continue
			}
			if j.place == running {
				refs = append(refs, j.ref())
			}
			n++
			q.drop(j)
		}
	}
	if n > 0 {
		q.m.lost.Add(float64(n))
		q.counted()
	}
	return refs
}

// loseAll forgets every job, because the consumer that leased them is no more.
func (q *queue) loseAll() {
	q.mu.Lock()
	var lost []*job
	for _, c := range q.claims {
		lost = append(lost, &c.jobs[0])
	}
	refs := q.lose(lost)
	q.mu.Unlock()
	q.cancelLost(refs)
}

func (q *queue) cancelLost(refs []host.Ref) {
	if len(refs) == 0 {
		return
	}
	q.log.Warn("leases were lost; their jobs are cancelled and their results dropped", "jobs", len(refs), "first_id", refs[0].ID)
	q.lane.Cancel("the message's lease was lost", false, refs...)
}

// mark records long jobs as started, so that a daemon that dies has them
// counted as failed attempts.
func (q *queue) mark(ctx context.Context) error {
	q.mu.Lock()
	consumer := q.consumer
	jobs := q.toMark(time.Now())
	q.mu.Unlock()
	if len(jobs) == 0 {
		return nil
	}
	leases := make([]store.Lease, len(jobs))
	for i, j := range jobs {
		leases[i] = j.lease
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answers, err := consumer.Started(call, leases...)
	if q.d.database.noteRead(err) != nil {
		return err
	}
	q.mu.Lock()
	var lost []*job
	for i, j := range jobs {
		if j.place != running {
			continue // its result came meanwhile, and tells more
		}
		if errors.Is(answers[i], store.ErrLeaseLost) {
			lost = append(lost, j)
		} else if !j.marked {
			j.marked = true
			j.claim.unmarked--
		}
	}
	refs := q.lose(lost)
	q.mu.Unlock()
	q.cancelLost(refs)
	return nil
}

// toMark wants the lock.
func (q *queue) toMark(now time.Time) []*job {
	var jobs []*job
	for _, c := range q.claims {
		if c.unmarked == 0 || now.Sub(c.at) < markAfter {
			continue
		}
		for i := range c.jobs {
			j := &c.jobs[i]
			if j.place == running && !j.marked && !j.started.IsZero() && now.Sub(j.started) >= markAfter {
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

// recall asks back the jobs that have waited too long for their start.
func (q *queue) recall() {
	now := time.Now()
	var refs []host.Ref
	q.mu.Lock()
	for _, c := range q.claims {
		if c.unmarked == 0 || now.Sub(c.at) < recallAfter || now.Sub(q.heard) < recallAfter {
			continue
		}
		for i := range c.jobs {
			if j := &c.jobs[i]; j.place == running && j.started.IsZero() && !j.recalled {
				j.recalled = true
				refs = append(refs, j.ref())
			}
		}
	}
	q.mu.Unlock()
	if len(refs) > 0 {
		q.lane.Cancel("the handler has no room for it", true, refs...)
	}
}

// publish writes the progress that running jobs have reported.
func (q *queue) publish(ctx context.Context) error {
	q.mu.Lock()
	consumer, beats := q.consumer, q.beats
	if len(beats) > 0 {
		q.beats = map[store.Lease]store.Progress{}
	}
	q.mu.Unlock()
	if len(beats) == 0 {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := consumer.Progress(call, beats)
	if q.d.database.noteRead(err) == nil || errors.Is(err, store.ErrLeaseLost) {
		return nil
	}
	// Newer words have come meanwhile, or will: old ones are not kept for long.
	q.mu.Lock()
	for lease, p := range beats {
		if _, newer := q.beats[lease]; !newer && len(q.beats) < maxUnsettled {
			q.beats[lease] = p
		}
	}
	q.mu.Unlock()
	return err
}
