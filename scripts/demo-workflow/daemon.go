package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is `pgqrsd run` in a directory of its own, and the command line beside it.
type daemon struct {
	dir, dsn, bin string
	cmd           *exec.Cmd
	exited        chan struct{} // closed at its end
	err           error         // of its end
	log           *os.File
}

func newDaemon(dir string, opts options) (*daemon, error) {
	d := &daemon{dir: dir, bin: opts.pgqrsd, dsn: "sqlite:" + filepath.Join(dir, "pgqrs.db")}
	if err := os.Mkdir(d.plugins(), 0o755); err != nil {
		return nil, err
	}
	order, err := os.ReadFile(opts.order)
	if err != nil {
		return nil, fmt.Errorf("find the order handler: %w; build it with `make examples`", err)
	}
	if err := os.WriteFile(filepath.Join(d.plugins(), "order"), order, 0o755); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("[handlers.order.env]\nORDER_LEDGER = %q\nORDER_COOL_OFF = %q\n", d.ledger(), coolOff)
	if err := os.WriteFile(d.config(), []byte(config), 0o600); err != nil {
		return nil, err
	}
	if d.log, err = os.Create(filepath.Join(dir, "pgqrsd.log")); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *daemon) plugins() string { return filepath.Join(d.dir, "plugins") }
func (d *daemon) config() string  { return filepath.Join(d.dir, "config.toml") }

func (d *daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.bin, append([]string{"--config", d.config(), "--dsn", d.dsn}, args...)...) //nolint:gosec // its own binary
	cmd.Env = append(os.Environ(), "PGQRS_DAEMON_STATE_DIR="+filepath.Join(d.dir, "state"))
	return cmd
}

// cli runs a command beside the daemon and returns its standard output.
func (d *daemon) cli(ctx context.Context, args ...string) ([]byte, error) {
	cmd := d.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pgqrsd %s: %w: %s\n%s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()), d.logTail())
	}
	return out.Bytes(), nil
}

func (d *daemon) cliJSON(ctx context.Context, v any, args ...string) error {
	out, err := d.cli(ctx, append([]string{"-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("read what pgqrsd %s printed: %w", strings.Join(args, " "), err)
	}
	return nil
}

// start runs the daemon and waits until order is serving.
func (d *daemon) start(ctx context.Context) error {
	d.cmd = d.command(context.WithoutCancel(ctx), "run", "--plugins", d.plugins(), "--http", "127.0.0.1:0")
	d.cmd.Stderr = d.log
	// Ctrl-C is for the demo, which then stops the daemon.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start pgqrsd: %w", err)
	}
	exited := make(chan struct{})
	d.exited = exited
	go func() {
		d.err = d.cmd.Wait()
		close(exited)
	}()
	return d.poll(ctx, func() (bool, error) {
		var handlers []struct{ State, Error string }
		if err := d.cliJSON(ctx, &handlers, "handler", "list"); err != nil {
			// Until the daemon has made the file there is nothing to read.
			return false, nil //nolint:nilerr // tried again; the daemon's end is seen by poll
		}
		for _, h := range handlers {
			switch h.State {
			case "refused":
				return false, fmt.Errorf("the order handler was refused: %s", h.Error)
			case "serving":
				return true, nil
			}
		}
		return false, nil
	})
}

// poll asks again and again until done, or until the daemon or ctx ends.
func (d *daemon) poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", ctx.Err(), d.logTail())
		case <-d.exited:
			return fmt.Errorf("pgqrsd ended: %w\n%s", errors.Join(d.err), d.logTail())
		}
	}
}

// kill is SIGKILL, waited for.
func (d *daemon) kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill pgqrsd: %w", err)
	}
	<-d.exited
	return nil
}

// stop ends the daemon as a deploy does, and wants exit status 0.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("send SIGTERM to pgqrsd: %w", err)
	}
	<-d.exited
	if d.err != nil {
		return fmt.Errorf("pgqrsd did not end well after SIGTERM: %w\n%s", d.err, d.logTail())
	}
	return nil
}

// close leaves nothing behind, however the demo ended.
func (d *daemon) close() error {
	if d.exited != nil {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.exited:
		case <-time.After(time.Minute):
			_ = d.cmd.Process.Kill()
			<-d.exited
		}
	}
	return d.log.Close()
}

func (d *daemon) logTail() string {
	raw, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}
