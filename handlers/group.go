package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Group runs branches of a workflow at the same time.
type Group struct {
	ctx    context.Context
	branch *branch // that started it; nil if the context was not a workflow's
	err    error
	// branches are in the order in which they were started.
	branches []*branch
	// Guarded by the flow's lock.
	left int
	done chan struct{} // closed by the last, if someone waits
}

// NewGroup makes a group of branches of the workflow that ctx belongs to.
//
// Group, and what makes it, are used by one goroutine. A function must wait for
// its groups before it returns.
func NewGroup(ctx context.Context) *Group {
	g := &Group{ctx: ctx}
	g.branch, g.err = branchOf(ctx)
	return g
}

// Go runs fn as a branch called name, at the same time as the caller. Its steps,
// which it must make with the ctx it is given, are named "name/step"; branches
// may have branches. When a name is used again "#1", "#2" and so on is added.
// It does not matter in which order the steps of different branches are done.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	parent := g.branch
	if parent == nil {
		return
	}
	f := parent.flow
	if err := f.gate(); err != nil {
		g.err = err
		return
	}
	f.mu.Unlock()
	err := checkName("name", name)
	if err == nil && strings.ContainsRune(name, '#') {
		err = fmt.Errorf("the name %q must not contain \"#\"", name)
	}
	if err != nil {
		f.discard(fmt.Errorf("branch: %w", err))
	}
	if !slices.Contains(parent.groups, g) {
		parent.groups = append(parent.groups, g)
	}
	b := &branch{Context: g.ctx, flow: f, prefix: parent.prefix + parent.number(name) + "/", group: g, began: parent.next().turn}
	parent.started = append(parent.started, b)
	g.branches = append(g.branches, b)
	f.mu.Lock()
	b.recorded = f.branches[b.prefix]
	delete(f.branches, b.prefix)
	g.left++
	f.active++
	f.mu.Unlock()
	go g.run(b, fn)
}

// number makes a branch's name unique among its parent's.
func (b *branch) number(name string) string {
	if b.named == nil {
		b.named = make(map[string]int)
	}
	n := b.named[name]
	b.named[name]++
	if n == 0 {
		return name
	}
	return fmt.Sprintf("%s#%d", name, n)
}

func (g *Group) run(b *branch, fn func(context.Context) error) {
	var err error
	returned := false
	defer func() {
		if v := recover(); v != nil {
			b.flow.crash(&panicError{v, panicStack()})
		} else if !returned {
			b.flow.left()
		}
		b.join(returned)
		g.ended(b, err)
	}()
	err = fn(b)
	returned = true
}

// left notes that a branch has ended its goroutine, which is a mistake unless
// it was told to.
func (f *flow) left() {
	f.mu.Lock()
	told := f.verdict != nil
	f.mu.Unlock()
	if !told {
		f.crash(errGoexit)
	}
}

func (g *Group) ended(b *branch, err error) {
	f := g.branch.flow
	f.mu.Lock()
	defer f.mu.Unlock()
	b.err = err
	g.left--
	if g.left == 0 && g.done != nil {
		f.active++ // the one that waits moves again
		close(g.done)
		g.done = nil
	}
	f.rest()
}

// await returns when the group's branches have gone.
func (g *Group) await() {
	f := g.branch.flow
	f.mu.Lock()
	if g.left == 0 {
		f.mu.Unlock()
		return
	}
	done := make(chan struct{})
	g.done = done
	f.rest()
	f.mu.Unlock()
	<-done
}

// Wait waits for the group's branches, without holding a slot when all of them
// wait, and returns the first error in the order in which they were started. All
// of them run to their end, whatever the others return.
func (g *Group) Wait() error {
	if g.err != nil {
		return unusable{fmt.Errorf("group: %w", g.err)}
	}
	b := g.branch
	g.await()
	b.flow.unwind()
	b.groups = slices.DeleteFunc(b.groups, func(other *Group) bool { return other == g })
	var first error
	at := b.next()
	for _, of := range g.branches {
		if of.joined.turn == 0 {
			of.joined = at
		}
		if first == nil {
			first = of.err
		}
	}
	return first
}
