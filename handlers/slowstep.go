package handlers

import (
	"fmt"
	"slices"
	"time"
)

// slowStep is how long a body must have run before the run's progress tells of
// it. Quicker ones cost neither a frame nor a timer of their own.
const slowStep = time.Second

// watch shows the step as the run's progress if its body takes long.
func (b *branch) watch(s *liveStep) {
	b.flow.mu.Lock()
	defer b.flow.mu.Unlock()
	b.live = s
	if b.slow == nil {
		b.slow = time.AfterFunc(slowStep, b.show)
	} else {
		b.slow.Reset(slowStep)
	}
}

// unwatch ends what watch began.
func (b *branch) unwatch(s *liveStep) {
	f := b.flow
	f.mu.Lock()
	defer f.mu.Unlock()
	b.live = nil
	b.slow.Stop()
	if s.shown {
		s.shown = false // its next try may be slow, too
		f.shown = slices.DeleteFunc(f.shown, func(other *liveStep) bool { return other == s })
		f.tell()
	}
}

// show is called when a body has run for long. The one that it was called for may
// have returned in that moment.
func (b *branch) show() {
	f := b.flow
	f.mu.Lock()
	defer f.mu.Unlock()
	s := b.live
	if s == nil || s.shown || time.Since(s.began) < slowStep {
		return
	}
	s.shown = true
	f.shown = append(f.shown, s)
	f.tell()
}

// tell says which steps run. The lock is held.
func (f *flow) tell() {
	text := ""
	if n := len(f.shown); n > 0 {
		text = "step " + stepText(f.shown[0].name, int(f.shown[0].occurrence))
		if n > 1 {
			text += fmt.Sprintf(" and %d more", n-1)
		}
	}
	f.job.lane.session.out.tell(f.job, text)
}

// tell is progress that the SDK tells by itself. What the author tells comes
// before it, until the attempt ends.
func (o *outbox) tell(j *job, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !j.spoke {
		o.beatOf(j, -1, message)
	}
}
