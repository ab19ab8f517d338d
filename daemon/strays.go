package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	// versionWait is about how long a run waits for a handler of its version
	// before it is leased again, to see whether there is one.
	versionWait = 15 * time.Second
	// versionGap is the least time between two such looks of a queue, so that many
	// runs wait longer, though no longer than versionMost.
	versionGap  = 50 * time.Millisecond
	versionMost = 10 * time.Minute
	// strandedEvery is how often runs without a handler are logged.
	strandedEvery = time.Minute
	// wakeBatch is how many runs are woken at once when a handler comes, wakeTwice
	// how often they are: another daemon may put one off at the same moment.
	wakeBatch = 1000
	wakeTwice = 2
)

// strays paces the leases of runs that no handler here carries on. A handler
// that comes wakes them itself; to look is for what that has missed.
type strays struct {
	next time.Time // when the last one that was put off is leased again
}

// putOff is how long the next one waits.
func (s *strays) putOff(now time.Time) time.Duration {
	at := now.Add(jittered(versionWait))
	if turn := s.next.Add(versionGap); turn.After(at) {
		at = turn
	}
	if at.Sub(now) > versionMost {
		// More of them than have a turn: they spread over a while, of which every
		// moment is as good.
		return versionMost/2 + rand.N(versionMost/2)
	}
	s.next = at
	return at.Sub(now)
}

// offered is what a queue's handler carries on, and how often its runs are still
// to be woken for that. It belongs to the supervision's goroutine.
type offered struct {
	versions string
	left     int
}

// wakeStranded wakes the runs that waited for a handler such as this one.
func (d *Daemon) wakeStranded(ctx context.Context, s host.ServedQueue) error {
	d.mu.Lock()
	q := d.queues[s.Name]
	d.mu.Unlock()
	if q == nil || q.kind != store.WorkflowQueue || kindOfQueue(s) != q.kind {
		return nil
	}
	if versions := fmt.Sprintf("%q", s.Versions); q.offered.versions != versions {
		q.offered = offered{versions: versions, left: wakeTwice}
		q.mu.Lock()
		q.strays = strays{}
		q.mu.Unlock()
	}
	if q.offered.left == 0 {
		return nil
	}
	total := int64(0)
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		n, err := d.cfg.Store.Workflows().WakeStranded(call, s.Name, s.Versions, wakeBatch)
		cancel()
		if d.database.note(err) != nil {
			return fmt.Errorf("wake the runs that wait for the versions of handler %s: %w", s.Handler, err)
		}
		if total += n; n < wakeBatch {
			break
		}
	}
	q.offered.left--
	if total > 0 {
		q.log.Info("runs go on that waited for a handler of their version", "handler", s.Handler, "runs", total)
		q.news.raise()
	}
	return nil
}

// sayStranded logs, now and then, the versions whose runs no handler here
// carries on.
func (q *queue) sayStranded(now time.Time) {
	q.mu.Lock()
	if len(q.stranded) == 0 || !q.strandedSaid.may(now, strandedEvery) {
		q.mu.Unlock()
		return
	}
	versions := slices.Sorted(maps.Keys(q.stranded))
	n := 0
	for _, v := range versions {
		n += q.stranded[v]
	}
	clear(q.stranded)
	handler := q.handler
	q.mu.Unlock()
	q.log.Warn("runs wait because the handler does not carry on their version; install a handler that does, or cancel them",
		"handler", handler, "versions", versions, "times", n)
}

// sayUnserved logs, now and then, the workflows whose runs wait because no
// daemon serves them at all. The daemon that does the maintenance says it.
func (d *Daemon) sayUnserved(ctx context.Context, samples []store.QueueMetrics) error {
	var names []string
	for _, m := range samples {
		if m.Ready == 0 || d.serves(m.Queue) {
			continue
		}
		q, err := d.cfg.Store.Queues().Get(ctx, m.Queue)
		if err == nil && q.Kind == store.WorkflowQueue {
			var stats []store.WorkerStats
			if stats, err = d.workers.admin().WorkerStats(ctx, m.Queue); err == nil && !slices.ContainsFunc(stats, hasConsumers) {
				names = append(names, m.Queue)
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return d.database.noteRead(err)
		}
	}
	if len(names) > 0 {
		d.log.Warn("runs wait because no daemon has a handler of their workflow; install one, or cancel them",
			"workflows", strings.Join(names, ", "))
	}
	return nil
}

func hasConsumers(s store.WorkerStats) bool { return s.Ready+s.Suspended > 0 }

func (d *Daemon) serves(queue string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queues[queue] != nil
}
