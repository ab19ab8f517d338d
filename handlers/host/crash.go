package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/status"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// crash says how the process ended, for people.
func (p *process) crash(cause error) string {
	p.mu.Lock()
	why := p.why
	p.mu.Unlock()
	switch {
	case why != "":
	case p.child.selfEnded():
		why = p.child.ending()
	case cause != nil && !errors.Is(cause, io.EOF) && !errors.Is(cause, context.Canceled):
		why = fmt.Sprintf("broke off its stream (%s) and was killed", short(status.Convert(cause).Message()))
	default:
		why = "ended its stream and was killed"
	}
	text := fmt.Sprintf("handler %s (pid %d) %s", p.name, p.child.pid, why)
	if line := p.out.panicLine(); line != "" {
		text += ": " + short(line)
	}
	return text
}

// giveLastResults gives every job that is left its result. The process is dead.
func (p *process) giveLastResults(cause error) {
	crash := p.crash(cause)
	now := p.clock()
	p.sinkMu.Lock()
	defer p.sinkMu.Unlock()
	p.mu.Lock()
	results := p.local
	p.local = nil
	p.suspect()
	for _, j := range p.jobs {
		results = append(results, laneResult{j.lane, p.lastResult(j, now, crash)})
	}
	clear(p.jobs)
	p.mu.Unlock()
	p.deliver(results)
}

// lastResult is what a job gets whose process ended before it had a result.
func (p *process) lastResult(j *job, now time.Duration, crash string) Result {
	r := Result{
		Result:  &handlerpb.Result{Id: j.ref.ID, Claim: j.ref.Claim, Outcome: handlerpb.Outcome_OUTCOME_RELEASE},
		Crashed: true,
	}
	if j.suspected {
		r.Outcome, r.Started, r.Elapsed = handlerpb.Outcome_OUTCOME_RETRY, true, now-j.sent
		r.Error = crash + " when the job may just have begun"
		return r
	}
	if j.started == 0 {
		r.Error = crash + " before the job had started"
		return r
	}
	r.Outcome = handlerpb.Outcome_OUTCOME_RETRY
	r.Started = true
	r.Elapsed = now - j.started
	switch {
	case j.evicted:
		// That pgqrsd had its process end is not the job's fault.
		r.Outcome = handlerpb.Outcome_OUTCOME_RELEASE
		r.Error = crash + " while the job ran"
		if j.stuck {
			r.Error = ignored(j, p.host.cfg.CancelGrace)
		}
	case j.stuck && j.timedOut(now):
		r.Error = fmt.Sprintf("timed out after %s and ignored its cancellation; its process was killed", j.timeout)
	case j.stuck:
		r.Error = ignored(j, p.host.cfg.CancelGrace)
	default:
		r.Error = crash + " while the job ran"
	}
	return r
}

// ignored is the error of a job that went on after its cancellation.
func ignored(j *job, grace time.Duration) string {
	return fmt.Sprintf("was cancelled (%s) and did not stop within %s; its process was killed", j.reason, grace)
}

// suspect marks the jobs that may have begun although no Started had come when
// the process ended of itself. A job that ends its process at once does so
// before its Started is on the wire; if it cost no attempt it would end one
// process after the other for ever. Handlers start a queue's jobs in order, so
// the suspects are the first ones that there was room to run. mu is held.
func (p *process) suspect() {
	if p.why != "" && !p.hung {
		return
	}
	for _, pt := range p.ports {
		slots := pt.concurrency
		var unstarted []*job
		for _, j := range p.jobs {
			switch {
			case j.port != pt || j.sent == 0:
			case j.started != 0:
				slots--
			default:
				unstarted = append(unstarted, j)
			}
		}
		slices.SortFunc(unstarted, func(a, b *job) int { return cmp.Compare(a.order, b.order) })
		for _, j := range unstarted[:min(max(slots, 0), len(unstarted))] {
			j.suspected = true
		}
	}
}
