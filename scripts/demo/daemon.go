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

	"github.com/jackc/pgx/v5"
)

// schema is the demo's own in a PostgreSQL database, dropped when it ends.
const schema = "pgqrsd_demo"

// daemon is `pgqrsd run` in a directory of its own, and the command line beside it.
type daemon struct {
	dir, dsn, bin string
	postgres      bool
	cmd           *exec.Cmd
	exited        chan struct{} // closed at its end
	err           error         // of its end
	log           *os.File
}

func newDaemon(ctx context.Context, dir string, opts options) (*daemon, error) {
	d := &daemon{dir: dir, bin: opts.pgqrsd, dsn: opts.dsn, postgres: opts.dsn != ""}
	if err := os.Mkdir(d.plugins(), 0o755); err != nil {
		return nil, err
	}
	census, err := os.ReadFile(opts.census)
	if err != nil {
		return nil, fmt.Errorf("find the census handler: %w; build it with `make build`", err)
	}
	if err := os.WriteFile(filepath.Join(d.plugins(), "census"), census, 0o755); err != nil {
		return nil, err
	}
	if !d.postgres {
		d.dsn = "sqlite:" + filepath.Join(dir, "pgqrs.db")
		return d, nil
	}
	if err := d.dropSchema(ctx); err != nil {
		return nil, err
	}
	_, err = d.cli(ctx, nil, "install")
	return d, err
}

func (d *daemon) plugins() string { return filepath.Join(d.dir, "plugins") }

func (d *daemon) backend() string {
	if d.postgres {
		return "PostgreSQL, in schema " + schema
	}
	return d.dsn
}

func (d *daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.bin, args...) //nolint:gosec // its own binary
	cmd.Env = append(os.Environ(), "PGQRS_DSN="+d.dsn, "PGQRS_DAEMON_STATE_DIR="+filepath.Join(d.dir, "state"))
	if d.postgres {
		cmd.Env = append(cmd.Env, "PGQRS_SCHEMA="+schema)
	}
	return cmd
}

// cli runs a command beside the daemon and returns its standard output.
func (d *daemon) cli(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := d.command(ctx, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pgqrsd %s: %w: %s", args[0], err, strings.TrimSpace(errOut.String()))
	}
	return out.Bytes(), nil
}

func (d *daemon) cliJSON(ctx context.Context, v any, args ...string) error {
	out, err := d.cli(ctx, nil, append([]string{"-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("read what pgqrsd %s printed: %w", strings.Join(args, " "), err)
	}
	return nil
}

// start runs the daemon and waits until census is serving.
func (d *daemon) start(ctx context.Context) error {
	log, err := os.Create(filepath.Join(d.dir, "pgqrsd.log"))
	if err != nil {
		return err
	}
	d.log = log
	d.cmd = d.command(context.WithoutCancel(ctx), "run", "--plugins", d.plugins(), "--http", "127.0.0.1:0")
	d.cmd.Stderr = log
	// Ctrl-C is for the demo, which then stops the daemon.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start pgqrsd: %w", err)
	}
	d.exited = make(chan struct{})
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	return d.poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var handlers []struct{ Name, State, Error string }
		if err := d.cliJSON(ctx, &handlers, "handler", "list"); err != nil {
			// Until the daemon has made the file there is nothing to read.
			return false, nil //nolint:nilerr // tried again; the daemon's end is seen by poll
		}
		for _, h := range handlers {
			if h.State == "refused" {
				return false, fmt.Errorf("handler %s was refused: %s", h.Name, h.Error)
			}
			if h.State == "serving" {
				return true, nil
			}
		}
		return false, nil
	})
}

// poll asks again and again until done, or until the daemon or ctx ends.
func (d *daemon) poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.exited:
			return fmt.Errorf("pgqrsd ended: %w\n%s", errors.Join(d.err), d.logTail())
		}
	}
}

// enqueue puts one message for each file on the queue, and some for files that
// do not exist, as an application in any language could: JSON lines.
func (d *daemon) enqueue(ctx context.Context, files []string, absent int) error {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, path := range files {
		if err := enc.Encode(map[string]string{"path": path}); err != nil {
			return err
		}
	}
	for i := range absent {
		if err := enc.Encode(map[string]string{"path": filepath.Join(d.dir, fmt.Sprintf("no-such-file-%d", i+1))}); err != nil {
			return err
		}
	}
	_, err := d.cli(ctx, lines.Bytes(), "message", "enqueue", "census", "--ndjson", "-")
	return err
}

// watch shows how far the queue is until all is archived.
func (d *daemon) watch(ctx context.Context, all int) error {
	return d.poll(ctx, 250*time.Millisecond, func() (bool, error) {
		var count struct{ Count int }
		if err := d.cliJSON(ctx, &count, "archive", "count", "census"); err != nil {
			return false, err
		}
		fmt.Printf("\r%6d of %d jobs finished", count.Count, all)
		if count.Count >= all {
			fmt.Println()
			return true, nil
		}
		return false, nil
	})
}

// results reads the archive, a page at a time.
func (d *daemon) results(ctx context.Context) (census, int, error) {
	found, dead := make(census), 0
	for after := int64(0); ; {
		var page []struct {
			ID     int64
			State  string
			Output result
		}
		if err := d.cliJSON(ctx, &page, "archive", "list", "census", "--limit", "2000", "--after", fmt.Sprint(after)); err != nil {
			return nil, 0, err
		}
		if len(page) == 0 {
			return found, dead, nil
		}
		for _, m := range page {
			after = m.ID
			if m.State == "dead" {
				dead++
				continue
			}
			found[m.Output.Path] = m.Output
		}
	}
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
	var err error
	if d.log != nil {
		err = d.log.Close()
	}
	if d.postgres {
		err = errors.Join(err, d.dropSchema(context.Background()))
	}
	return err
}

func (d *daemon) dropSchema(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		return fmt.Errorf("connect to the database of the demo: %w", err)
	}
	_, err = conn.Exec(ctx, "drop schema if exists "+schema+" cascade")
	return errors.Join(err, conn.Close(ctx))
}

func (d *daemon) logTail() string {
	raw, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}
