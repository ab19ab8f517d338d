package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// Limits of names, in bytes: of one, and of one with the branches before it.
const (
	maxStepName = 200
	maxFullName = 256
)

// The kinds of steps.
const (
	kindStep   = "step"
	kindSleep  = "sleep"
	kindSignal = "signal"
	kindSend   = "send"
	kindChild  = "child"
	kindEvent  = "event"
)

// branch is a strand of a run: the function itself, or what it started by
// Group.Go. One goroutine walks it. It is the context that a group's function
// gets.
type branch struct {
	context.Context // the one that its group was made of; the root's is the job
	flow            *flow
	// prefix is what its steps' names begin with: "" or "outer/inner/".
	prefix string
	// recorded are its recorded steps that the code has not come by, by position.
	recorded []*handlerpb.Step
	position uint32
	used     map[string]uint32 // the uses of steps' names
	named    map[string]int    // the uses of branches' names
	turn     int               // see moment
	started  []*branch
	groups   []*Group
	replies  chan *handlerpb.StepReply

	group  *Group // that it is one of; nil is the root
	began  int    // when its parent started it: that one's turn
	joined moment // when its parent first waited for it; zero is never

	// Guarded by the flow's lock.
	err    error // that it ended with
	busy   bool  // a step is open
	wait   wait  // while it is parked
	parked bool
	wake   chan struct{} // has room for one token
	live   *liveStep     // whose body runs
	slow   *time.Timer   // shows it
}

type branchKey struct{}

// Value implements context.Context.
func (b *branch) Value(key any) any {
	if _, ok := key.(branchKey); ok {
		return b
	}
	return b.Context.Value(key)
}

var (
	errNoRun  = errors.New("the context is not a workflow's")
	errInside = errors.New("the context is that of a step's body; steps cannot hold steps, make it after the step")
)

// branchOf finds the branch that ctx came from.
func branchOf(ctx context.Context) (*branch, error) {
	switch at := ctx.Value(branchKey{}).(type) {
	case *branch:
		return at, nil
	case *liveStep:
		return nil, errInside
	}
	return nil, errNoRun
}

// place is where a step stands in its run.
type place struct {
	branch     *branch
	kind       string
	name       string // with its branch
	occurrence uint32
	position   uint32
	turn       int
	// record is what is recorded of it; nil is nothing.
	record *handlerpb.Step
}

// come counts the step that the code has come by, and finds what is recorded of
// it. Unless it returns an error, leave is owed.
func come(ctx context.Context, kind, name string) (place, error) {
	b, err := branchOf(ctx)
	if err == nil {
		err = b.flow.gate()
	}
	if err != nil {
		return place{}, unusable{fmt.Errorf("%s %s: %w", kind, name, err)}
	}
	busy := b.busy
	b.busy = true
	b.flow.mu.Unlock()
	if busy {
		b.flow.discard(fmt.Errorf("%s %s: another step is open in the same branch; use handlers.NewGroup for steps at the same time", kind, name))
	}
	if err := checkName("name", name); err != nil {
		b.flow.discard(fmt.Errorf("%s: %w", kind, err))
	}
	p := place{branch: b, kind: kind, name: name, position: b.position, occurrence: b.used[name], turn: b.next().turn}
	if b.used == nil {
		b.used = make(map[string]uint32)
	}
	b.used[name]++
	b.position++
	if b.prefix != "" {
		p.name = b.prefix + name
		if len(p.name) > maxFullName {
			b.flow.discard(fmt.Errorf("%s %s: the name is %d bytes long with its branch, the limit is %d", kind, p.name, len(p.name), maxFullName))
		}
	}
	if err := p.find(); err != nil {
		b.flow.discard(err)
	}
	return p, nil
}

// leave closes the step that come opened.
func (p place) leave() {
	p.branch.flow.mu.Lock()
	p.branch.busy = false
	p.branch.flow.mu.Unlock()
}

// checkName holds the rule for names of steps and topics: what says of which.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the %s is empty", what)
	case len(name) > maxStepName:
		return fmt.Errorf("the %s %.40q... is %d bytes long, the limit is %d", what, name, len(name), maxStepName)
	case strings.ContainsAny(name, "/\x00"), !utf8.ValidString(name):
		return fmt.Errorf("the %s %q must be UTF-8 without \"/\" and NUL", what, name)
	}
	return nil
}

// load sorts the recorded steps by branch and position.
func (f *flow) load(steps []*handlerpb.Step) {
	inBranch := func(s *handlerpb.Step) bool { return strings.Contains(s.GetName(), "/") }
	if slices.ContainsFunc(steps, inBranch) {
		f.branches = make(map[string][]*handlerpb.Step)
		for _, s := range steps {
			prefix := s.Name[:strings.LastIndexByte(s.Name, '/')+1]
			f.branches[prefix] = append(f.branches[prefix], s)
		}
		for _, in := range f.branches {
			sortSteps(in)
		}
		f.root.recorded = f.branches[""]
		return
	}
	sortSteps(steps)
	f.root.recorded = steps
}

// sortSteps sorts by position. The order of recording is that already, unless
// another SDK had it otherwise.
func sortSteps(steps []*handlerpb.Step) {
	slices.SortStableFunc(steps, func(a, b *handlerpb.Step) int { return cmp.Compare(a.GetPosition(), b.GetPosition()) })
}

// find sets the step's record. The error is that the code has changed.
func (p *place) find() error {
	b := p.branch
	if len(b.recorded) == 0 {
		return nil
	}
	if at := b.recorded[0]; at.Position <= p.position {
		b.recorded = b.recorded[1:]
		if !p.is(at) {
			return p.diverged(at)
		}
		p.record = at
		return nil
	}
	// Nothing is recorded at this place, but something is further on: another SDK
	// had its reasons. The same step there would be recorded twice.
	for _, later := range b.recorded {
		if later.Name == p.name && later.Occurrence == p.occurrence {
			return p.diverged(later)
		}
	}
	return nil
}

func (p *place) is(s *handlerpb.Step) bool {
	return s.Position == p.position && s.Name == p.name && s.Occurrence == p.occurrence && kindOf(s) == p.kind
}

func kindOf(s *handlerpb.Step) string {
	if s.Kind == "" {
		return kindStep
	}
	return s.Kind
}

func (p *place) diverged(s *handlerpb.Step) error {
	run := p.branch.flow.job.msg.Id
	return fmt.Errorf("run %d diverged from what is recorded of it: %s %s is recorded as number %d of its branch, "+
		"but the code came with %s %s as number %d; make the code do again what it did before that, "+
		"then carry the run on: pgqrsd workflow retry %d",
		run, kindOf(s), stepText(s.Name, int(s.Occurrence)), s.Position+1, p.kind, stepText(p.name, int(p.occurrence)), p.position+1, run)
}

// stepText is a step as `pgqrsd workflow fork --from` takes it: its name, with
// #occurrence after the first use.
func stepText(name string, occurrence int) string {
	if occurrence == 0 {
		return name
	}
	return fmt.Sprintf("%s#%d", name, occurrence)
}

// step returns what there is to record of the step.
func (p place) step(state handlerpb.StepState) *handlerpb.Step {
	return &handlerpb.Step{Name: p.name, Occurrence: p.occurrence, Kind: p.kind, Position: p.position, State: state}
}

// waits says that the recorded step still waits.
func (p place) waits() bool {
	return p.record != nil && p.record.State == handlerpb.StepState_STEP_STATE_WAITING
}

func (b *branch) replyChannel() chan *handlerpb.StepReply {
	if b.replies == nil {
		b.replies = make(chan *handlerpb.StepReply, 1)
	}
	return b.replies
}

// join waits for the branches that this one has started and not waited for,
// which are stopped.
func (b *branch) join(returned bool) {
	f := b.flow
	for _, g := range b.groups {
		f.mu.Lock()
		if g.left > 0 && returned {
			f.pass(verdict{err: unusable{errors.New("the function returned while branches that it started still ran; call Wait of their group")}})
		} else if g.left > 0 {
			f.pass(verdict{err: errGoexit})
		}
		f.mu.Unlock()
		g.await()
	}
}

// unwind ends the branch's goroutine if the run is to stop.
func (f *flow) unwind() {
	f.mu.Lock()
	stopped := f.verdict != nil
	f.mu.Unlock()
	if stopped {
		runtime.Goexit()
	}
}
