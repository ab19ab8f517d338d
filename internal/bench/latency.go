package bench

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// life is a message's way: when its enqueue had committed, when its handler
// began and when it was archived, in Unix nanoseconds of this machine's clock.
type life struct {
	commit, start, done int64
}

// lives reads from the archive what became of messages. Those whose first
// attempt failed are left out: they waited for their retry. The database's
// clock is ahead by so much.
func (r *run) lives(ctx context.Context, messages []sent, ahead time.Duration) ([]life, error) {
	byID := make(map[int64]sent, len(messages))
	after := int64(math.MaxInt64)
	for _, m := range messages {
		byID[m.id] = m
		after = min(after, m.id-1)
	}
	var found []life
	for _, queue := range r.queues {
		for after := after; ; {
			page, err := r.scratch.store.Archive().List(ctx, store.MessageFilter{Queue: queue, State: store.Done, Page: store.Page{Limit: fillBatch, After: after}})
			if err != nil {
				return nil, err
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].ID
			for i := range page {
				m, ok := byID[page[i].ID]
				if !ok {
					continue
				}
				delete(byID, m.id)
				start, err := strconv.ParseInt(string(page[i].Output), 10, 64)
				if err != nil {
					return nil, fmt.Errorf("message %d: its output should be the time of its start: %w", m.id, err)
				}
				if !m.fails {
					found = append(found, life{m.commit, start, page[i].FinishedAt.Add(-ahead).UnixNano()})
				}
			}
		}
	}
	if len(byID) > 0 {
		return nil, fmt.Errorf("%d of %d messages are not in the archive as done", len(byID), len(messages))
	}
	return found, nil
}

// latencyFigures describes the lives of messages that were committed from a
// time on, as a whole and in windows, whose backlogs are known.
func latencyFigures(lives []life, from time.Time, ready []int64) *LatencyFigures {
	slices.SortFunc(lives, func(a, b life) int { return cmp.Compare(a.commit, b.commit) })
	starts, dones := times(lives)
	f := &LatencyFigures{Latency: latency(starts, dones), Windows: []Window{}}
	if len(lives) > 0 {
		f.StartMaxMs, f.DoneMaxMs = starts[len(starts)-1], dones[len(dones)-1]
	}
	for i, n := range ready {
		end := from.Add(time.Duration(i+1) * windowTime).UnixNano()
		cut, _ := slices.BinarySearchFunc(lives, end, func(l life, t int64) int { return cmp.Compare(l.commit, t) })
		starts, dones := times(lives[:cut])
		f.Windows = append(f.Windows, Window{
			StartSeconds: (time.Duration(i) * windowTime).Seconds(), Messages: int64(cut), Latency: latency(starts, dones), Ready: n,
		})
		lives = lives[cut:]
	}
	return f
}

// times are how long messages took to be started and to be done, in
// milliseconds, sorted. A handler may begin before the enqueue has returned.
func times(lives []life) (starts, dones []float64) {
	for _, l := range lives {
		starts = append(starts, milliseconds(l.start-l.commit))
		dones = append(dones, milliseconds(l.done-l.commit))
	}
	slices.Sort(starts)
	slices.Sort(dones)
	return starts, dones
}

func milliseconds(ns int64) float64 { return float64(max(ns, 0)) / 1e6 }

func latency(starts, dones []float64) Latency {
	return Latency{
		StartP50Ms: percentile(starts, 50), StartP99Ms: percentile(starts, 99),
		DoneP50Ms: percentile(dones, 50), DoneP99Ms: percentile(dones, 99),
	}
}

// percentile is the nearest rank of sorted values; 0 of none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(p/100*float64(len(sorted))))-1)]
}
