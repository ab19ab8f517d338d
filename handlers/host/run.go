package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// Run finds, starts and restarts handlers until ctx ends. Then it ends every
// process, kills what is left, and returns nil once all are gone. It is called
// once. The error is for a host that could not begin.
//
// All that changes handlers happens in this goroutine, one thing after the
// other: it never waits for a process, which report through post.
func (h *Host) Run(ctx context.Context) error {
	defer close(h.done)
	lifeline, heldOpen, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("handler host: %w", err)
	}
	h.launcher.lifeline, h.launcher.forker = lifeline, newForker()
	defer func() {
		h.launcher.forker.close()
		_, _ = heldOpen.Close(), lifeline.Close()
		_, _ = os.RemoveAll(h.launcher.sockets), os.RemoveAll(h.staging)
	}()

	h.begin()
	tick := time.NewTicker(h.cfg.ScanInterval)
	defer tick.Stop()
	for h.publish(); ; h.publish() {
		select {
		case <-ctx.Done():
			h.stop()
			return nil
		case <-tick.C:
			h.scan()
		case <-h.wake:
			h.attend()
		case fn := <-h.actions:
			fn()
		}
	}
}

// begin starts what is there.
func (h *Host) begin() {
	for _, u := range h.sorted() {
		h.start(u, whyFirst)
	}
	h.scan()
	h.unsettled = make(map[string]bool)
	for name := range h.units {
		h.unsettled[name] = true
	}
	// A file that keeps changing must not hold up readiness. This is longer than
	// any start takes, staging included.
	time.AfterFunc(2*h.cfg.StartTimeout, func() {
		h.post(func() { clear(h.unsettled) })
	})
}

// attend sees to what other goroutines asked for.
func (h *Host) attend() {
	h.mu.Lock()
	settings, reloaded, draining := h.settings, h.reloaded, h.draining
	h.reloaded = false
	h.mu.Unlock()
	if draining && !h.drainBegun {
		h.retireAll("was told to drain")
	}
	if reloaded && !h.drainBegun {
		h.apply(settings)
	}
}

// apply takes new settings: what a handler is started with restarts it.
func (h *Host) apply(s Settings) {
	h.applied = s
	for _, u := range h.sorted() {
		if !u.present {
			continue
		}
		switch {
		case u.blocked != "" || !u.tried(): // the scan sees to it
		case u.state == Refused || !sameSettings(u.settings, s.Handlers[u.name]):
			h.start(u, whySettings)
		case u.state == Serving && u.err != "":
			h.start(u, whyChanged)
		}
	}
	for _, p := range h.processes() {
		p.hello(h.cfg.Version, s)
	}
	h.scan()
}

// Drain lets no more jobs be sent, asks every process to finish what it has,
// and waits until all have, and have exited. When ctx ends first it returns
// its error; Run's end then kills what is left. It needs a Run that runs.
func (h *Host) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	poke(h.wake)
	select {
	case <-h.drained:
		return nil
	case <-h.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain the handlers: jobs still run in %d processes: %w", len(h.processes()), ctx.Err())
	}
}

// retireAll ends the search for handlers and drains those that serve.
func (h *Host) retireAll(why string) {
	h.drainBegun = true
	for _, u := range h.sorted() {
		h.halt(u)
		if u.cur != nil {
			u.cur.closePorts()
			u.cur.retire(why, 0, false)
		}
		u.state = Draining
	}
}

// stop ends every process and waits for all of them.
func (h *Host) stop() {
	h.stopping = true
	if !h.drainBegun {
		h.retireAll("was told to stop")
	}
	for _, p := range h.processes() {
		p.stop()
	}
	for h.busy > 0 {
		(<-h.actions)()
	}
	clear(h.unsettled)
	h.publish()
}

// publish makes the state of things known, and tells of changes.
func (h *Host) publish() {
	var status []Status
	for _, u := range h.sorted() {
		status = append(status, u.status())
		if u.settled() {
			delete(h.unsettled, u.name)
		}
	}
	h.mu.Lock()
	changed := !slices.EqualFunc(h.status, status, sameStatus)
	h.status = status
	h.mu.Unlock()
	for name := range h.unsettled {
		if h.units[name] == nil {
			delete(h.unsettled, name)
		}
	}
	if len(h.unsettled) == 0 {
		closeOnce(h.settled)
	}
	if h.drainBegun && len(h.processes()) == 0 {
		closeOnce(h.drained)
	}
	if changed {
		h.cfg.OnChange()
	}
}

// closeOnce closes a channel that only one goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
