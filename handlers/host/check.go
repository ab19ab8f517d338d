package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Check starts the handler at path alone, asks what it serves and stops it. It
// uses of cfg the StartTimeout, the Logger and the settings of the file's name.
// The Status is Serving or Refused; the error, which Status.Error repeats, says
// why it is not fit to serve.
func Check(ctx context.Context, path string, cfg Config) (Status, error) {
	cfg = cfg.withDefaults()
	s := Status{Name: filepath.Base(path), Path: path, State: Refused, Queues: []string{}}
	l, stop, err := check(ctx, path, cfg)
	if err == nil {
		defer stop()
		s.State, s.PID = Serving, l.child.pid
		s.describe(l)
		if refused := checkDescription(l.desc); refused != nil {
			s.State, err = Refused, refused
		}
	}
	if err != nil {
		s.Error = err.Error()
		return s, fmt.Errorf("check handler %s: %w", path, err)
	}
	return s, nil
}

func check(ctx context.Context, path string, cfg Config) (*launched, func(), error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, errors.New("it is not a regular file")
	case info.Mode()&0o111 == 0:
		return nil, nil, errors.New("it is not executable; run chmod +x on it")
	}
	sockets, err := os.MkdirTemp("", "pgqrsd-check-")
	if err != nil {
		return nil, nil, err
	}
	lifeline, heldOpen, err := os.Pipe()
	if err != nil {
		_ = os.RemoveAll(sockets)
		return nil, nil, err
	}
	launcher := &launcher{forker: newForker(), lifeline: lifeline, sockets: sockets, timeout: cfg.StartTimeout}
	cleanup := func() {
		launcher.forker.close()
		_, _ = lifeline.Close(), heldOpen.Close()
		_ = os.RemoveAll(sockets)
	}
	name := filepath.Base(path)
	settings := cfg.Settings.Handlers[name]
	l, err := launcher.launch(ctx, spec{name: name, path: path, args: settings.Args, env: settings.Env}, cfg.Logger)
	if err != nil {
		cleanup()
		return nil, nil, err
	}
	return l, func() {
		l.leave()
		cleanup()
	}, nil
}

// leave ends a process that did no work, kindly at first.
func (p *launched) leave() {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		p.client.Kill()
	}()
	select {
	case <-p.child.dead:
	case <-time.After(exitGrace):
		p.child.kill()
	}
	<-gone
	p.destroy()
}
