package host

// scan looks at the plugins directory and takes in what changed.
func (h *Host) scan() {
	if h.drainBegun {
		return
	}
	files, err := scanDir(h.cfg.Dir)
	if err != nil {
		// Handlers that run are not given up because the directory cannot be read.
		if h.scanTrouble != err.Error() {
			h.scanTrouble = err.Error()
			h.log.Error("plugins directory cannot be read; handlers stay as they are", "error", err)
		}
		return
	}
	h.scanTrouble = ""
	listed := make(map[string]bool, len(files))
	for _, f := range files {
		listed[f.name] = true
		u := h.units[f.name]
		switch {
		case u == nil:
			u = newUnit(f.name, f.path, nil)
			h.units[f.name] = u
		case u.command != nil:
			if u.seen != f.id {
				u.seen = f.id
				h.log.Warn("file is left alone: a built-in handler has its name", "handler", f.name, "path", f.path)
			}
			continue
		}
		u.present = true
		h.look(u, f)
	}
	for _, u := range h.sorted() {
		if u.present && u.command == nil && !listed[u.name] {
			h.remove(u)
		}
	}
}

// look starts a file that is new or has changed, once it is complete.
func (h *Host) look(u *unit, f found) {
	if f.err != nil {
		h.block(u, f.err.Error())
		return
	}
	u.blocked = ""
	if f.id == u.started {
		return
	}
	same := f.id == u.seen
	u.seen = f.id
	if !same && !f.id.settledAlready() {
		return
	}
	u.started = f.id
	h.start(u, whyChanged)
}

// await lets the file be looked at again: it is not complete yet.
func (h *Host) await(u *unit) {
	u.started, u.seen = fileID{}, fileID{}
	if !u.waiting {
		u.waiting = true
		if u.err = errBeingWritten.Error(); u.cur == nil {
			u.state = Starting
		}
		h.log.Info("handler's file is still being written; waiting until it stays as it is", "handler", u.name, "path", u.path)
	}
}

// block refuses a file that cannot even be tried; what served is drained.
func (h *Host) block(u *unit, why string) {
	if u.blocked == why {
		return
	}
	u.blocked, u.waiting = why, false
	u.started, u.seen = fileID{}, fileID{}
	h.halt(u)
	h.retireCurrent(u, "was removed")
	h.refuse(u, &refusal{reason: why})
}

// remove drains a handler whose file is gone.
func (h *Host) remove(u *unit) {
	h.log.Info("handler's file was removed; it is drained", "handler", u.name, "path", u.path)
	u.present, u.blocked, u.waiting = false, "", false
	u.started, u.seen, u.image, u.served = fileID{}, fileID{}, image{}, false
	h.halt(u)
	h.retireCurrent(u, "was removed")
	u.state, u.err, u.takenBy, u.failures = Draining, "", "", 0
	h.release(u, nil)
	h.forget(u)
}
