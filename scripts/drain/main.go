// Command drain measures how fast the daemon works off a queue of no-op
// messages on PostgreSQL through a real handler process, and how much memory it
// takes. `make drain` runs it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const schema = "pgqrsd_drain"

type options struct {
	pgqrsd, noop, dsn string
	messages          int
	concurrency       int
}

func main() {
	var opts options
	flag.StringVar(&opts.pgqrsd, "pgqrsd", "bin/pgqrsd", "the daemon's binary")
	flag.StringVar(&opts.noop, "noop", "bin/examples/noop", "the noop handler's binary")
	flag.IntVar(&opts.messages, "messages", 200_000, "how many messages to drain")
	flag.IntVar(&opts.concurrency, "concurrency", 100, "jobs at once")
	flag.Parse()
	// A DSN may hold a password, so it is no argument.
	opts.dsn = os.Getenv("DSN")

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drain:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, opts options) (err error) {
	conn, err := pgx.Connect(ctx, opts.dsn)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.Background())) }()
	dir, err := os.MkdirTemp("", "pgqrsd-drain-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dropSchema := func() error {
		_, err := conn.Exec(context.Background(), "drop schema if exists "+schema+" cascade")
		return err
	}
	if err := dropSchema(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dropSchema()) }()

	if err := prepare(ctx, dir, opts); err != nil {
		return err
	}
	// The planner knows the table and the disk is quiet, as they would be in
	// production.
	for _, sql := range []string{"vacuum analyze " + schema + ".messages", "checkpoint"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	took, peak, err := drain(ctx, conn, dir, opts)
	if err != nil {
		return err
	}
	var version string
	if err := conn.QueryRow(ctx, "show server_version").Scan(&version); err != nil {
		return err
	}
	fmt.Printf("PostgreSQL %s, %d cores, concurrency %d\n", version, runtime.NumCPU(), opts.concurrency)
	fmt.Printf("  messages            %10d\n  time                %10s\n  jobs/s              %10.0f\n  daemon peak memory  %7.0f MB\n",
		opts.messages, took.Round(time.Millisecond), float64(opts.messages)/took.Seconds(), float64(peak)/(1<<20))
	return nil
}

// prepare installs the schema and fills the queue, through the command line as
// any application could.
func prepare(ctx context.Context, dir string, opts options) error {
	plugins := filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return err
	}
	noop, err := os.ReadFile(opts.noop)
	if err != nil {
		return fmt.Errorf("find the noop handler: %w; build it with `make examples`", err)
	}
	if err := os.WriteFile(filepath.Join(plugins, "noop"), noop, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("[http]\naddr = \"127.0.0.1:0\"\n[queues.noop]\nconcurrency = %d\n", opts.concurrency)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	var lines bytes.Buffer
	padding := strings.Repeat("x", 180)
	for i := range opts.messages {
		fmt.Fprintf(&lines, "{\"n\":%d,\"pad\":\"%s\"}\n", i, padding)
	}
	begin := time.Now()
	for _, step := range []struct {
		stdin []byte
		args  []string
	}{
		{nil, []string{"install"}},
		{nil, []string{"queue", "create", "noop"}},
		{lines.Bytes(), []string{"message", "enqueue", "noop", "--ndjson", "-"}},
	} {
		cmd := command(ctx, dir, opts, step.args...)
		cmd.Stdin = bytes.NewReader(step.stdin)
		var errOut bytes.Buffer
		cmd.Stderr = &errOut
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("pgqrsd %s: %w: %s", strings.Join(step.args, " "), err, errOut.String())
		}
	}
	fmt.Printf("Enqueued %d messages in %s.\n", opts.messages, time.Since(begin).Round(time.Millisecond))
	return nil
}

func command(ctx context.Context, dir string, opts options, args ...string) *exec.Cmd {
	args = append([]string{"--config", filepath.Join(dir, "config.toml")}, args...)
	cmd := exec.CommandContext(ctx, opts.pgqrsd, args...) //nolint:gosec // its own binary
	cmd.Env = append(os.Environ(), "PGQRS_DSN="+opts.dsn, "PGQRS_SCHEMA="+schema, "PGQRS_DAEMON_STATE_DIR="+filepath.Join(dir, "state"))
	return cmd
}

// drain runs the daemon until the archive holds every message. The time is from
// the daemon's start to the last message's end, handler start included.
func drain(ctx context.Context, conn *pgx.Conn, dir string, opts options) (took time.Duration, peak int64, err error) {
	cmd := command(context.WithoutCancel(ctx), dir, opts, "run", "--plugins", filepath.Join(dir, "plugins"))
	var log bytes.Buffer
	cmd.Stderr = &log
	var begin time.Time
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&begin); err != nil {
		return 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("start pgqrsd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for left := 1; left > 0; {
		select {
		case err := <-exited:
			return 0, 0, fmt.Errorf("pgqrsd ended: %w\n%s", errors.Join(err), log.String())
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			return 0, 0, errors.Join(ctx.Err(), <-exited)
		case <-tick.C:
		}
		// Asks for one row only, so that asking costs nothing.
		err := conn.QueryRow(ctx, "select count(*) from (select 1 from "+schema+".messages limit 1) m").Scan(&left)
		if err != nil {
			return 0, 0, err
		}
	}
	peak, err = peakMemory(cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, 0, err
	}
	if err := <-exited; err != nil {
		return 0, 0, fmt.Errorf("pgqrsd did not end well after SIGTERM: %w\n%s", err, log.String())
	}
	var done int
	var end time.Time
	if err := conn.QueryRow(ctx, "select count(*), max(finished_at) from "+schema+".archive where state = 'done'").Scan(&done, &end); err != nil {
		return 0, 0, err
	}
	if done != opts.messages {
		return 0, 0, fmt.Errorf("%d messages are done, want %d", done, opts.messages)
	}
	return end.Sub(begin), peak, nil
}

// peakMemory is the most that a process has had resident, in bytes.
func peakMemory(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/%d/status", pid)
}
