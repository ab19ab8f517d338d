package handlers

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// moment is a point in what a branch does.
type moment struct {
	// turn counts what the branch does to others or records: its steps, the
	// branches that it starts, its waits for groups; from 1.
	turn int
	// position is that of the step that it is at, or comes by next.
	position uint32
}

// next is the moment of what the branch does now.
func (b *branch) next() moment {
	b.turn++
	return moment{b.turn, b.position}
}

// failure finds out what a failure has led to. Branches learn of each other's
// failures when they wait for them, and so it goes on from the failed step in
// its own branch, from the wait for that branch in the one that started it, and
// in all that these start from then on. What ran beside them has nothing to do
// with it, whenever it was recorded.
type failure struct {
	flow   *flow
	from   map[*branch]moment
	groups map[*Group]bool
}

// failedAt is where the failure begins, in each branch, of a run that ended with
// err, in the order of their names; none if err holds no failed step. The
// branches have gone.
func (f *flow) failedAt(err error) []*handlerpb.Place {
	x := failure{f, make(map[*branch]moment), make(map[*Group]bool)}
	x.follow(err)
	places := make([]*handlerpb.Place, 0, len(x.from))
	for b, at := range x.from {
		places = append(places, &handlerpb.Place{Branch: strings.TrimSuffix(b.prefix, "/"), Position: at.position})
	}
	slices.SortFunc(places, func(a, b *handlerpb.Place) int { return cmp.Compare(a.Branch, b.Branch) })
	return places
}

// follow goes on from each failed step that err holds.
func (x *failure) follow(err error) {
	switch e := err.(type) { //nolint:errorlint // it takes the whole tree apart
	case *StepError:
		if b := e.at.branch; b != nil && b.flow == x.flow {
			x.reach(b, moment{e.at.turn, e.at.position})
		}
	case interface{ Unwrap() error }:
		x.follow(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			x.follow(e)
		}
	}
}

// reach notes that what b does from a moment on comes of the failure.
func (x *failure) reach(b *branch, from moment) {
	if at, did := x.from[b]; did && at.turn <= from.turn {
		return
	}
	x.from[b] = from
	for _, started := range b.started {
		if started.began > from.turn {
			x.reach(started, moment{})
		}
	}
	g := b.group
	if g == nil {
		return
	}
	// Wait told of the first error alone. The others would end the run just so.
	if !x.groups[g] {
		x.groups[g] = true
		for _, other := range g.branches {
			x.follow(other.err)
		}
	}
	if b.joined.turn > 0 {
		x.reach(g.branch, b.joined)
	}
}
