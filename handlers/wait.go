package handlers

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// ErrTimeout is what [Receive]'s error is when its time is over.
var ErrTimeout = errors.New("timed out")

// wait is what a branch waits for.
type wait struct {
	kind  string
	what  string    // for people
	until time.Time // zero is no limit
	// alone says that the time is all that it waits for, so that the branch can
	// go on by itself, as long as others keep the run going.
	alone bool
	// step is to be recorded; nil if it is.
	step *handlerpb.Step
}

func (w *wait) due(now time.Time) bool {
	return w.alone && !w.until.IsZero() && !w.until.After(now)
}

// park lets the branch wait. It returns when the time has come and others have
// kept the run going, or when the step was refused. Otherwise the run gives up
// its lease, which ends this goroutine, and the code comes here again with the
// next one.
func (b *branch) park(w wait) {
	f := b.flow
	f.mu.Lock()
	if f.active > 1 && w.step != nil {
		// The run goes on, maybe for long: what it waits for begins now.
		f.mu.Unlock()
		f.record(b, w.step)
		if w.step.State == handlerpb.StepState_STEP_STATE_FAILED {
			return
		}
		w.step = nil
		f.mu.Lock()
	}
	if w.due(time.Now()) && w.step == nil && f.verdict == nil {
		f.mu.Unlock()
		return
	}
	if f.verdict == nil {
		b.wait, b.parked = w, true
		f.parked = append(f.parked, b)
		f.rest()
	}
	if f.verdict != nil {
		f.mu.Unlock()
		runtime.Goexit()
	}
	if b.wake == nil {
		b.wake = make(chan struct{}, 1)
	}
	parked := b.parked
	f.mu.Unlock()
	if parked {
		b.doze(w)
	} else {
		<-b.wake // its time came in this moment
	}
	f.unwind()
}

// doze waits to be woken, or until the time has come.
func (b *branch) doze(w wait) {
	var timeout <-chan time.Time
	if w.alone && !w.until.IsZero() {
		timer := time.NewTimer(time.Until(w.until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-b.wake:
		return
	case <-timeout:
	}
	f := b.flow
	f.mu.Lock()
	defer f.mu.Unlock()
	if !b.parked {
		<-b.wake // came at the same moment
		return
	}
	f.parked = slices.DeleteFunc(f.parked, func(other *branch) bool { return other == b })
	f.active++
	b.parked = false
}

// unpark wakes the branch. The lock is held.
func (b *branch) unpark() {
	b.parked = false
	if b.wake == nil {
		b.wake = make(chan struct{}, 1)
	}
	b.wake <- struct{}{}
}

// rest notes that a branch moves no more. When none does, those whose time has
// come go on; if there are none the run gives up its lease. The lock is held.
func (f *flow) rest() {
	f.active--
	if f.active > 0 || f.verdict != nil || len(f.parked) == 0 {
		return
	}
	now := time.Now()
	f.parked = slices.DeleteFunc(f.parked, func(b *branch) bool {
		due := b.wait.due(now) && b.wait.step == nil
		if due {
			f.active++
			b.unpark()
		}
		return due
	})
	if f.active > 0 {
		return
	}
	v := verdict{outcome: handlerpb.Outcome_OUTCOME_WAIT}
	first := &f.parked[0].wait
	for _, b := range f.parked {
		w := &b.wait
		if w.step != nil {
			v.steps = append(v.steps, w.step)
		}
		if !w.until.IsZero() && (first.until.IsZero() || w.until.Before(first.until)) {
			first = w
		}
	}
	v.wait = &handlerpb.Wait{Kind: first.kind, For: first.what, DelayMs: -1, News: f.job.msg.News}
	if !first.until.IsZero() {
		v.wait.DelayMs = *milliseconds(max(first.until.Sub(now), 0))
	}
	f.pass(v)
}

// Sleep lets the run sleep for d, as a step called name. It holds no process,
// no slot and no lease meanwhile, however long it is, and a restart of whatever
// does not make it longer. The error is that ctx is not a workflow's.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	p, err := come(ctx, kindSleep, name)
	if err != nil {
		return err
	}
	defer p.leave()
	w := wait{kind: "sleep", what: p.name, alone: true}
	switch {
	case p.record == nil && d > 0:
		w.until = time.Now().Add(d)
		w.step = p.step(handlerpb.StepState_STEP_STATE_WAITING)
		w.step.DelayMs = milliseconds(d)
		p.branch.park(w)
	case p.waits():
		w.until = p.branch.flow.due(p.record.DelayMs)
		p.branch.park(w)
	case p.record != nil:
		return nil
	}
	p.branch.flow.slept(p.step(handlerpb.StepState_STEP_STATE_SUCCEEDED))
	return nil
}

// Receive takes the oldest signal of a topic that was sent to this run and not
// taken, as a step called as the topic, and returns its payload. If there is
// none the run waits, at most for timeout, without holding a process, a slot or
// a lease; 0 or less is without limit. It does not matter whether a signal comes
// before, while or after the run waits. Each is taken once, together with its
// step. While other branches of the run go on, one that waits does not hear of
// signals that came after the run was leased.
//
// When the time is over the error is a [*StepError] that is [ErrTimeout]. Other
// errors are that the payload cannot be decoded into T, which counts as taken,
// and that ctx is not a workflow's.
func Receive[T any](ctx context.Context, topic string, timeout time.Duration) (T, error) {
	var payload T
	p, err := come(ctx, kindSignal, topic)
	if err != nil {
		return payload, err
	}
	defer p.leave()
	record := p.receive(topic, timeout)
	if record.State == handlerpb.StepState_STEP_STATE_FAILED {
		return payload, p.failed(record)
	}
	payload, err = decodeOutput[T](record.Output) // a signal without a payload is the zero T
	if err != nil {
		err = unusable{fmt.Errorf("decode the payload of signal %s into %s: %w", topic, reflect.TypeFor[T](), err)}
	}
	return payload, err
}

// receive returns the step's result, once it is recorded.
func (p place) receive(topic string, timeout time.Duration) *handlerpb.Step {
	if p.record != nil && !p.waits() {
		return p.record
	}
	var result *handlerpb.Step
	f := p.branch.flow
	if s := f.take(topic); s != nil {
		result = p.step(handlerpb.StepState_STEP_STATE_SUCCEEDED)
		result.Signal, result.Output = s.Id, s.Payload
	} else if p.waits() && p.record.DelayMs != nil && *p.record.DelayMs <= 0 {
		result = p.step(handlerpb.StepState_STEP_STATE_FAILED)
		result.Error = ErrTimeout.Error()
	}
	if result != nil {
		result.Topic = topic
		f.record(p.branch, result)
		return result
	}
	w := wait{kind: kindSignal, what: topic}
	if p.waits() {
		w.until = f.due(p.record.DelayMs)
	} else {
		w.step = p.step(handlerpb.StepState_STEP_STATE_WAITING)
		w.step.Topic = topic
		if timeout > 0 {
			w.until, w.step.DelayMs = time.Now().Add(timeout), milliseconds(timeout)
		}
	}
	p.branch.park(w)
	return nil // park does not return: only another lease brings what it waits for
}
