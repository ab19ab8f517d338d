package postgres

import (
	"math"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// scan remembers how far the consumer has claimed, so that a claim need not
// pass over what is claimed or dead already. It is a hint: a message may commit
// late and below the mark, or come back. So what lies below is looked at again
// with each claim while that is cheap, else at intervals and before a claim
// comes back short. Where dead rows lie there in thousands, because an old
// snapshot keeps them from being cleaned away, a probe looks beside the claims
// instead, so that none of them waits for it.
type scan struct {
	// marks are the last claimed message of each priority, most urgent first.
	// Without any, the queue is scanned from its start.
	marks []mark
	// last is when what lies below was looked at last, took how long that took.
	last time.Time
	took time.Duration
	// cheap says that the look touched hardly more than its messages, dear that
	// it touched far more.
	cheap, dear bool
	// found are messages that a probe found ready below the marks.
	found []mark
}

// mark is a message's place in the line.
type mark struct {
	priority int16
	id       int64
}

const (
	// rescanGap and rescanShare bound the cost of looking below the marks: once
	// in rescanGap, and one rescanShare-th of the time.
	rescanGap   = 250 * time.Millisecond
	rescanShare = 20
	// rescanMax is the longest time without a look: one that took long may have
	// waited for others, not worked.
	rescanMax = 5 * time.Second
	// A look is cheap if it touched no more than cheapBlocks, and one more for
	// every cheapShare of its messages. It is dear if it
	// touched dearBlocks more than its messages.
	cheapBlocks, cheapShare = 64, 8
	dearBlocks              = 500
	// maxMarks bounds the ranges of one claim.
	maxMarks = 32
	// noPriority is beyond every priority.
	noPriority = math.MaxInt16
)

// rescanPause is how long to wait after a look that took so long.
func rescanPause(took time.Duration) time.Duration {
	return min(max(rescanGap, rescanShare*took), rescanMax)
}

func (s *scan) pause() time.Duration { return rescanPause(s.took) }

// due reports whether it is time to look below the marks.
func (s *scan) due() bool { return time.Since(s.last) >= s.pause() }

// full reports whether to scan from the start; returned says that messages of
// this consumer's came back.
func (s *scan) full(returned bool) bool {
	if len(s.marks) == 0 {
		return true
	}
	return !s.dear && (returned || s.cheap || s.due())
}

// take takes what a probe found. So many that it did not find all are claimed
// by their ranges: the marks go back to the first of them.
func (s *scan) take(found []mark) {
	s.found = found
	if len(found) < maxFound {
		return
	}
	s.found = nil
	for i, m := range found {
		if i == 0 || found[i-1].priority != m.priority {
			s.move(mark{m.priority, m.id - 1}, true)
		}
	}
}

// ranges are the places that a claim scans, each after (priority, id) and
// before the priority below: all that lies beyond the marks.
func (s *scan) ranges(full bool) (priorities []int16, ids []int64, below []int16) {
	after := mark{priority: math.MinInt16}
	add := func(to int16) {
		priorities, ids, below = append(priorities, after.priority), append(ids, after.id), append(below, to)
	}
	if !full {
		for _, m := range s.marks {
			add(m.priority)
			after = m
		}
	}
	add(noPriority)
	return priorities, ids, below
}

// candidates are the ids of what a probe found. What is beyond a mark, which
// may have moved back meanwhile, is left to the ranges: it must not be claimed
// twice.
func (s *scan) candidates() []int64 {
	s.found = slices.DeleteFunc(s.found, func(m mark) bool {
		i, marked := s.find(m.priority)
		return !marked || m.id > s.marks[i].id
	})
	ids := make([]int64, len(s.found))
	for i, m := range s.found {
		ids[i] = m.id
	}
	return ids
}

// find is where a priority's mark is, or would be.
func (s *scan) find(priority int16) (int, bool) {
	return slices.BinarySearchFunc(s.marks, priority, func(m mark, p int16) int { return int(m.priority) - int(p) })
}

// looked takes note of a look below the marks that touched so many blocks and
// found so many messages.
func (s *scan) looked(began, ended time.Time, blocks int64, found int) {
	s.last, s.took = ended, ended.Sub(began)
	s.cheap = blocks <= cheapBlocks+int64(found/cheapShare)
	s.dear = blocks >= dearBlocks+int64(found)
}

// claimed moves the marks behind what a claim got. One from the start that
// filled its limit may have left messages below an older mark.
func (s *scan) claimed(full bool, limit int, got []store.LeasedMessage) {
	if len(got) == 0 {
		return
	}
	for i := range got {
		p := int16(got[i].Priority)
		if i+1 == len(got) || got[i+1].Priority != got[i].Priority {
			back := full && len(got) == limit && i+1 == len(got)
			s.move(mark{p, got[i].ID}, back)
		}
	}
	if len(s.marks) > maxMarks {
		s.marks = nil
	}
	s.leave(got, limit)
}

// move moves a priority's mark up, or wherever it is if back is set.
func (s *scan) move(to mark, back bool) {
	i, there := s.find(to.priority)
	switch {
	case !there:
		s.marks = slices.Insert(s.marks, i, to)
	case back || to.id > s.marks[i].id:
		s.marks[i] = to
	}
}

// leave forgets finds that are claimed now, all of them when the claim was not
// filled: then the others are not ready any more.
func (s *scan) leave(got []store.LeasedMessage, limit int) {
	if len(s.found) == 0 {
		return
	}
	if len(got) < limit {
		s.found = nil
		return
	}
	claimed := make(map[int64]struct{}, len(got))
	for i := range got {
		claimed[got[i].ID] = struct{}{}
	}
	s.found = slices.DeleteFunc(s.found, func(m mark) bool {
		_, ok := claimed[m.id]
		return ok
	})
}
