package host

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// unit is one handler: a file of the plugins directory or a command, with the
// processes that run it. It belongs to Run's goroutine.
type unit struct {
	name, path string
	command    *Command
	present    bool   // in the directory
	blocked    string // why the file cannot even be tried

	seen    fileID // at the last scan
	started fileID // what was last tried to start
	image   image  // what cur runs, or is restarted
	waiting bool   // for the file to be complete
	served  bool   // image has served before: a failed start is a crash

	settings HandlerSettings // of the last start
	starting *start
	ready    *launched // has started and waits to be let in
	readyImg image
	cur      *process // serves
	old      map[*process]bool
	stuck    bool // cur has a job that does not stop

	state    State
	err      string
	takenBy  string // the handler that has one of its queues
	restarts int
	failures int // crashes in a row
	timer    *time.Timer
}

// why a unit is started.
type why int

const (
	whyFirst    why = iota
	whyChanged      // the file has another content
	whySettings     // other settings, or asked for
	whyRestart      // it crashed
	whySlow         // its start had taken too long
)

// start is a start under way.
type start struct {
	why    why
	began  time.Time
	cancel context.CancelFunc
	again  *why // start once more, for this reason
}

func newUnit(name, path string, command *Command) *unit {
	return &unit{name: name, path: path, command: command, present: command != nil, state: Starting, old: make(map[*process]bool)}
}

func (h *Host) sorted() []*unit {
	return slices.SortedFunc(maps.Values(h.units), func(a, b *unit) int { return cmp.Compare(a.name, b.name) })
}

// tried reports whether it was ever started, so that settings matter.
func (u *unit) tried() bool { return u.command != nil || u.started != fileID{} }

// gone reports whether nothing of the unit is left.
func (u *unit) gone() bool {
	return !u.present && u.cur == nil && u.starting == nil && u.ready == nil && len(u.old) == 0
}

// settled reports whether nothing more is going to happen to the unit soon.
func (u *unit) settled() bool {
	if u.waiting {
		return true // a copy may take long
	}
	return u.state != Starting && (u.state != Restarting || u.err != "")
}

func (u *unit) status() Status {
	s := Status{Name: cleanText(u.name), Path: cleanText(u.path), State: u.state, Queues: []string{}, Error: u.err, Restarts: u.restarts}
	p := u.cur
	if p == nil && u.state == Draining {
		for o := range u.old {
			p = o
		}
	}
	if p != nil {
		s.PID = p.child.pid
		s.describe(p.launched)
	}
	return s
}

// describe fills in what a handler says of itself.
func (s *Status) describe(l *launched) {
	s.Version, s.SDK = cutText(l.desc.GetVersion(), maxLine), cutText(l.desc.GetSdk(), maxLine)
	s.Queues = []string{}
	for _, q := range l.desc.GetQueues() {
		s.Queues = append(s.Queues, q.GetName())
	}
}

func sameStatus(a, b Status) bool {
	queues := slices.Equal(a.Queues, b.Queues)
	a.Queues, b.Queues = nil, nil
	return queues && a.Name == b.Name && a.Path == b.Path && a.State == b.State && a.Error == b.Error &&
		a.PID == b.PID && a.Version == b.Version && a.SDK == b.SDK && a.Restarts == b.Restarts
}

func sameSettings(a, b HandlerSettings) bool {
	return maps.Equal(a.Env, b.Env) && slices.Equal(a.Args, b.Args)
}

// start starts the unit, or lets the start that is under way begin again.
func (h *Host) start(u *unit, reason why) {
	u.stopTimer()
	if u.starting != nil {
		u.starting.again = &reason
		u.starting.cancel()
		return
	}
	if u.ready != nil {
		h.discard(u.ready)
		u.ready = nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &start{why: reason, began: time.Now(), cancel: cancel}
	u.starting = s
	u.settings = h.applied.Handlers[u.name]
	if u.cur == nil && reason != whyRestart && reason != whySlow && !u.waiting {
		u.state, u.err = Starting, ""
	}
	job := startJob{unit: u.name, path: u.path, id: u.started, settings: u.settings, command: u.command}
	if reason == whyRestart {
		job.image = u.image
	} else if u.cur != nil && reason == whyChanged {
		job.running = u.image
	}
	h.busy++
	go func() {
		l, img, err := h.carryOut(ctx, job)
		cancel()
		h.post(func() {
			h.busy--
			h.onStarted(u, s, l, img, err)
		})
	}()
}

// halt ends whatever would start the unit.
func (h *Host) halt(u *unit) {
	u.stopTimer()
	if u.starting != nil {
		u.starting.again = nil
		u.starting.cancel()
	}
	if u.ready != nil {
		h.discard(u.ready)
		u.ready = nil
	}
}

func (u *unit) stopTimer() {
	if u.timer != nil {
		u.timer.Stop()
		u.timer = nil
	}
}

// discard ends a process that was never let in.
func (h *Host) discard(l *launched) {
	h.busy++
	go func() {
		l.destroy()
		h.post(func() { h.busy-- })
	}()
}

// restartLater starts the unit after its backoff.
func (h *Host) restartLater(u *unit, reason why) time.Duration {
	u.stopTimer()
	d := backoff(u.failures, h.cfg.RestartMin, h.cfg.RestartMax)
	u.failures++
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		h.post(func() {
			if u.timer != timer || h.drainBegun {
				return
			}
			if reason == whyRestart {
				h.countRestart(u)
			}
			h.start(u, reason)
		})
	})
	u.timer = timer
	return d
}

func (h *Host) countRestart(u *unit) {
	u.restarts++
	h.cfg.OnRestart(u.name)
}

// backoff doubles from least to most and takes a random part of its upper half.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := most
	if failures < 32 && least<<failures < most {
		d = least << failures
	}
	return d/2 + rand.N(d/2+1)
}
