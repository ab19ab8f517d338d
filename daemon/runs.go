package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
	"github.com/pgqrs/pgqrsd/store"
)

const (
	// minWait keeps a handler that waits for no time from running the same run
	// over and over as fast as it can.
	minWait    = 10 * time.Millisecond
	maxWaitFor = 512
)

// load asks what leased runs carry on from, in the order of the messages.
func (q *queue) load(ctx context.Context, msgs []store.LeasedMessage) ([]store.RunState, error) {
	ids := make([]int64, len(msgs))
	for i := range msgs {
		ids[i] = msgs[i].ID
	}
	states, err := q.d.cfg.Store.Workflows().Load(ctx, ids...)
	if q.d.database.noteRead(err) != nil {
		return nil, fmt.Errorf("load the steps of %d runs: %w", len(ids), err)
	}
	if len(states) != len(ids) {
		return nil, fmt.Errorf("load the steps of %d runs: the store answered for %d", len(ids), len(states))
	}
	return states, nil
}

// resume fills in what a run carries on from, and returns how many bytes that is.
func resume(p *handlerpb.Job, s *store.RunState) int {
	p.Version, p.News = s.Version, s.News
	size := 0
	if len(s.Steps) > 0 {
		slab := make([]handlerpb.Step, len(s.Steps))
		p.Steps = make([]*handlerpb.Step, 0, len(s.Steps))
		for i := range s.Steps {
			rec := &s.Steps[i]
			if rec.State == store.StepRunning {
				continue // nothing is recorded of it: it runs again
			}
			recorded(&slab[i], rec)
			p.Steps = append(p.Steps, &slab[i])
			size += len(rec.Output) + len(rec.Error)
		}
	}
	if len(s.Signals) > 0 {
		p.Signals = make([]*handlerpb.Signal, len(s.Signals))
		for i := range s.Signals {
			sig := &s.Signals[i]
			p.Signals[i] = &handlerpb.Signal{Id: sig.ID, Topic: sig.Topic, Payload: sig.Payload}
			size += len(sig.Payload)
		}
	}
	return size
}

// recorded is a recorded step in the protocol's words.
func recorded(p *handlerpb.Step, rec *store.StepRecord) {
	p.Name, p.Occurrence, p.Position = rec.Name, uint32(rec.Occurrence), uint32(rec.Position)
	p.Output, p.Error, p.Tries, p.Topic = rec.Output, rec.Error, uint32(rec.Tries), rec.Topic
	if rec.Kind != store.StepBody {
		p.Kind = string(rec.Kind)
	}
	switch rec.State {
	case store.StepFailed:
		p.State = handlerpb.StepState_STEP_STATE_FAILED
	case store.StepWaiting:
		p.State = handlerpb.StepState_STEP_STATE_WAITING
		if !rec.DueAt.IsZero() {
			// Rounded up, or it would be over before its time.
			ms := int64(max(0, rec.Remaining)+time.Millisecond-1) / int64(time.Millisecond)
			p.DelayMs = &ms
		}
	default:
		p.State = handlerpb.StepState_STEP_STATE_SUCCEEDED
	}
}

// halted is the outcome of a run that must not run now; ok is false if it may.
func halted(lease store.Lease, s *store.RunState) (o store.Outcome, ok bool) {
	switch s.Halt {
	case store.HaltCancel:
		return store.Outcome{Lease: lease, Kind: store.OutcomeCancel}, true
	case store.HaltPause:
		return store.Outcome{Lease: lease, Kind: store.OutcomeWait, Wait: pausing(s.News)}, true
	}
	return o, false
}

// pausedWait is the kind of wait of a run that stopped to be paused.
const pausedWait store.WaitKind = "pause"

// pausing is what a run waits for that is paused.
func pausing(news int64) *store.Wait {
	return &store.Wait{Kind: store.WaitSignal, For: "resume", Delay: -1, News: news}
}

// wait is what a run waits for. It wants the lock.
func (q *queue) wait(j *job, w *handlerpb.Wait) (*store.Wait, error) {
	if w == nil {
		return nil, fmt.Errorf("the handler let the run wait without saying for what")
	}
	// What the run has seen is what it was sent, whatever the handler says.
	out := &store.Wait{Kind: store.WaitKind(w.GetKind()), For: shorten(w.GetFor(), maxWaitFor), Delay: -1, News: j.news}
	switch out.Kind {
	case pausedWait:
		return pausing(j.news), nil
	case "":
		out.Kind = store.WaitSleep // the kind is for people; how long it waits is said beside it
	case store.WaitVersion:
		out.Delay = q.strays.putOff(time.Now())
		q.m.stranded.Inc()
		q.stranded[w.GetFor()]++
		return out, nil
	case store.WaitSleep, store.WaitSignal, store.WaitChild, store.WaitRetry:
	default:
		return nil, fmt.Errorf("the handler let the run wait for something that pgqrsd does not know: %q", shorten(w.GetKind(), maxWaitFor))
	}
	if w.GetDelayMs() >= 0 {
		out.Delay = max(minWait, millis(w.GetDelayMs()))
	}
	return out, nil
}

// shorten keeps a name within a limit of bytes.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
