package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// startJob is all that a start needs, apart from Run's goroutine.
type startJob struct {
	unit, path string
	command    *Command
	id         fileID
	settings   HandlerSettings
	image      image // to be run again; else the file is staged
	running    image // which is not started a second time
}

// errSameContent says that a file was touched, and no more.
var errSameContent = errors.New("the file's content has not changed")

// carryOut stages the file and starts it.
func (h *Host) carryOut(ctx context.Context, j startJob) (*launched, image, error) {
	s := spec{name: j.unit, path: j.path, args: j.settings.Args, env: j.settings.Env}
	img := j.image
	switch {
	case j.command != nil:
		s.args = slices.Concat(j.command.Args, j.settings.Args)
	case img == image{}:
		var err error
		if img, err = stage(h.staging, j.unit, j.path, j.id); err != nil {
			return nil, img, err
		}
		if img == j.running {
			return nil, img, errSameContent
		}
		s.path = img.path
	default:
		s.path = img.path
	}
	l, err := h.launcher.launch(ctx, s, h.log.With("handler", j.unit))
	if err == nil {
		if refused := checkDescription(l.desc); refused != nil {
			l.destroy()
			return nil, img, refused
		}
	}
	return l, img, err
}

// onStarted takes the outcome of a start.
func (h *Host) onStarted(u *unit, s *start, l *launched, img image, err error) {
	u.starting = nil
	if img != (image{}) {
		h.images[img] = true
	}
	switch {
	case !u.present || h.drainBegun || s.again != nil:
		if l != nil {
			h.discard(l)
		}
		if s.again != nil && u.present && !h.drainBegun {
			h.start(u, *s.again)
		}
		h.forget(u)
	case err != nil:
		h.onStartFailed(u, s.why, err)
	default:
		u.ready, u.readyImg = l, img
	}
	h.admit()
	h.sweepImages()
}

// onStartFailed decides what becomes of a unit whose start failed.
func (h *Host) onStartFailed(u *unit, reason why, err error) {
	var refused *refusal
	log := h.log.With("handler", u.name, "path", u.path)
	if !errors.Is(err, errBeingWritten) {
		u.waiting = false
	}
	switch {
	case errors.Is(err, errSameContent):
		u.err = ""
	case errors.Is(err, errBeingWritten):
		h.await(u)
	case u.stuck:
		// There is no replacement, but the stuck job has to end.
		log.Error("handler could not be replaced", "error", err)
		h.retireCurrent(u, stuckReason)
		h.crashed(u, err.Error())
	case errors.As(err, &refused) && (reason != whyRestart || !u.served):
		h.refuse(u, refused)
	case u.cur != nil:
		u.err = "its new version could not be started: " + err.Error()
		log.Error("handler's new version could not be started; the old one serves on", "error", err,
			"in", h.restartLater(u, whyChanged).Round(time.Millisecond).String())
	default:
		h.crashed(u, err.Error())
	}
}

// slowRetry counts for so many failures that the backoff is the longest.
const slowRetry = 32

// refuse leaves the unit alone until its file changes; an older version that
// serves goes on.
func (h *Host) refuse(u *unit, r *refusal) {
	u.takenBy = r.takenBy
	if u.cur != nil {
		u.err = "its new version was refused: " + r.reason
		h.log.Warn("handler's new version was refused; the old one serves on", "handler", u.name, "path", u.path, "error", r.reason)
		return
	}
	if u.state != Refused || u.err != r.reason {
		u.state, u.err = Refused, r.reason
		h.log.Warn("handler was refused", "handler", u.name, "path", u.path, "error", r.reason)
	}
	h.release(u, nil)
	if r.slow {
		u.failures = slowRetry
		h.restartLater(u, whySlow)
	}
}

// crashed lets the unit be started again after its backoff.
func (h *Host) crashed(u *unit, text string) {
	u.state, u.err = Restarting, text
	reason := whyRestart
	if !u.served {
		reason = whySettings
	}
	in := h.restartLater(u, reason)
	h.log.Error("handler failed and will be started again", "handler", u.name, "error", text, "in", in.Round(time.Millisecond).String())
}

// claimWait is how long a handler waits for those before it in the alphabet,
// which were started at the same time and may want the same queues.
const claimWait = 2 * time.Second

// admit lets in, by name, the handlers that have started.
func (h *Host) admit() {
	var earlier time.Duration // how long somebody earlier may still take
	for _, u := range h.sorted() {
		if s := u.starting; s != nil && u.cur == nil && s.why != whyRestart {
			earlier = max(earlier, claimWait-time.Since(s.began))
		}
		if u.ready == nil {
			continue
		}
		if earlier > 0 && h.wantsMore(u) {
			time.AfterFunc(earlier, func() { h.post(h.admit) })
			continue
		}
		l := u.ready
		u.ready = nil
		if taken := h.conflict(u, l); taken != nil {
			h.discard(l)
			h.onStartFailed(u, whyChanged, taken)
			continue
		}
		h.letIn(u, l)
	}
}

// wantsMore reports whether a started unit describes queues that it does not have.
func (h *Host) wantsMore(u *unit) bool {
	for _, q := range u.ready.desc.GetQueues() {
		if h.owners[q.GetName()] != u {
			return true
		}
	}
	return false
}

func (h *Host) conflict(u *unit, l *launched) error {
	for _, q := range l.desc.GetQueues() {
		if o := h.owners[q.GetName()]; o != nil && o != u {
			return &refusal{takenBy: o.name, reason: fmt.Sprintf(
				"queue %q is served by handler %s already, so handler %s is refused; take one of the two out, or give the queue another name",
				q.GetName(), o.name, u.name)}
		}
	}
	return nil
}

// letIn makes a started process the one that serves, in place of the one that
// served until now.
func (h *Host) letIn(u *unit, l *launched) {
	before := u.cur
	p := newProcess(h, l, h.queue)
	u.cur, u.image, u.served = p, u.readyImg, true
	u.state, u.err, u.takenBy, u.waiting = Serving, "", "", false
	h.setLive(append(slices.Clone(h.processes()), p))
	p.hello(h.cfg.Version, h.applied)
	h.busy++
	go func() {
		cause := p.run()
		h.post(func() {
			h.busy--
			h.onDied(u, p, cause)
		})
	}()
	for _, pt := range p.ports {
		h.owners[pt.queue.name] = u
		pt.queue.port.Store(pt)
	}
	if before != nil {
		reason := "was replaced"
		if u.stuck {
			reason = stuckReason
		}
		h.retire(u, before, reason)
	}
	u.stuck = false
	p.announce()
	h.release(u, p)
	h.log.Info("handler serves", "handler", u.name, "pid", p.child.pid, "queues", p.queueNames(), "version", l.desc.GetVersion())
}

// stuckReason follows "the handler", as all reasons of retire do.
const stuckReason = "was replaced because it had a job that would not stop"

func (h *Host) retire(u *unit, p *process, reason string) {
	u.old[p] = true
	p.closePorts()
	p.retire(reason, cmp.Or(h.applied.DrainTimeout, h.cfg.DrainTimeout), true)
}

func (h *Host) retireCurrent(u *unit, reason string) {
	if p := u.cur; p != nil {
		u.cur, u.stuck = nil, false
		h.retire(u, p, reason)
	}
}

// release gives up the queues of u that keep does not serve, and lets those
// handlers try again that were refused because of u.
func (h *Host) release(u *unit, keep *process) {
	freed := false
	for name, owner := range h.owners {
		if owner == u && (keep == nil || keep.byKey[name] == nil) {
			delete(h.owners, name)
			freed = true
		}
	}
	if !freed || h.drainBegun {
		return
	}
	for _, other := range h.sorted() {
		if other.takenBy == u.name && other.present {
			other.takenBy = ""
			h.start(other, whySettings)
		}
	}
}

// replaceStuck starts another process in place of one with a job that does
// not stop.
func (h *Host) replaceStuck(p *process) {
	u := h.units[p.name]
	if u == nil || u.cur != p || u.stuck || h.drainBegun {
		return
	}
	u.stuck = true
	h.log.Error("handler has a job that ignores its cancellation; its process is replaced", "handler", u.name, "pid", p.child.pid)
	h.countRestart(u)
	if u.starting == nil && u.ready == nil {
		h.start(u, whyRestart)
	}
}

// onDied takes the end of a process.
func (h *Host) onDied(u *unit, p *process, cause error) {
	h.setLive(slices.DeleteFunc(slices.Clone(h.processes()), func(o *process) bool { return o == p }))
	delete(u.old, p)
	for _, pt := range p.ports {
		pt.queue.port.CompareAndSwap(pt, nil) // it may have died before letIn had set it
	}
	if u.cur == p {
		u.cur, u.stuck = nil, false
		h.onCurrentDied(u, p, cause)
	}
	h.forget(u)
	h.sweepImages()
}

func (h *Host) onCurrentDied(u *unit, p *process, cause error) {
	if h.drainBegun {
		return
	}
	if unimplemented(cause) {
		h.refuse(u, refuse("it does not implement the handler protocol's Work; build it again with package handlers"))
		return
	}
	if time.Since(p.born) >= h.cfg.RestartMax {
		u.failures = 0
	}
	if u.starting != nil || u.ready != nil {
		u.state, u.err = Restarting, p.crash(cause)
		h.log.Error("handler failed; its replacement is being started", "handler", u.name, "error", u.err)
		return
	}
	h.crashed(u, p.crash(cause))
}

// forget drops a unit of which nothing is left.
func (h *Host) forget(u *unit) {
	if u.gone() && h.units[u.name] == u {
		delete(h.units, u.name)
		h.log.Info("handler is gone", "handler", u.name)
	}
}

func (h *Host) setLive(ps []*process) { h.live.Store(&ps) }

// sweepImages removes staged copies that nothing runs any more.
func (h *Host) sweepImages() {
	used := make(map[string]bool)
	for _, u := range h.units {
		if u.starting != nil {
			return // it may be about to run any of them
		}
		used[u.image.path] = true
		if u.ready != nil {
			used[u.ready.path] = true
		}
	}
	for _, p := range h.processes() {
		used[p.path] = true
	}
	for img := range h.images {
		if !used[img.path] {
			img.remove()
			delete(h.images, img)
		}
	}
}
