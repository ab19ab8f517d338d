// Command demo-workflow shows a durable workflow: an order is charged, the
// daemon is killed with SIGKILL, started again, and the order carries on to its
// end without being charged twice. `make demo-workflow` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// limit bounds the demo, on slow machines too.
const limit = 2 * time.Minute

// coolOff is the order's sleep: the daemon dies and comes back within it.
const coolOff = 3 * time.Second

func main() {
	var opts options
	flag.StringVar(&opts.pgqrsd, "pgqrsd", "bin/pgqrsd", "the daemon's binary")
	flag.StringVar(&opts.order, "order", "bin/examples/order", "the order handler's binary")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx, opts)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-workflow:", err)
		os.Exit(1)
	}
	fmt.Println("The order was charged once, and carried on where it was.")
}

type options struct{ pgqrsd, order string }

func run(ctx context.Context, opts options) (err error) {
	dir, err := os.MkdirTemp("", "pgqrsd-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := newDaemon(dir, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Printf("pgqrsd runs on %s with the order handler in %s\n", d.dsn, d.plugins())
	id, err := d.charged(ctx)
	if err != nil {
		return err
	}
	if err := d.kill(); err != nil {
		return err
	}
	fmt.Println("Killed pgqrsd with SIGKILL, in the middle of the order.")
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Println("Started it again.")
	if err := d.finish(ctx, id); err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	return d.checkLedger()
}

// charged starts an order and waits until its charge is recorded.
func (d *daemon) charged(ctx context.Context) (id string, err error) {
	var made struct{ ID int64 }
	if err := d.cliJSON(ctx, &made, "workflow", "create", "order", "--input", `{"item": "book", "cents": 1299}`, "--key", "demo"); err != nil {
		return "", err
	}
	id = fmt.Sprint(made.ID)
	fmt.Printf("Started order %s: charge, cool off for %s, wait for approval, ship.\n", id, coolOff)
	err = d.poll(ctx, func() (bool, error) {
		var run struct {
			Steps []struct{ Name, State string }
		}
		if err := d.cliJSON(ctx, &run, "workflow", "get", id); err != nil {
			return false, err
		}
		for _, s := range run.Steps {
			if s.Name == "charge" {
				return s.State == "succeeded", nil
			}
		}
		return false, nil
	})
	if err != nil {
		return "", fmt.Errorf("wait for the charge: %w", err)
	}
	return id, d.show(ctx, id)
}

// finish approves the order and waits for its receipt.
func (d *daemon) finish(ctx context.Context, id string) error {
	if _, err := d.cli(ctx, "workflow", "send", id, "approved", "--payload", "true"); err != nil {
		return err
	}
	fmt.Println("Sent it the signal approved.")
	receipt, err := d.cli(ctx, "workflow", "result", id, "--wait", "--timeout", "90s")
	if err != nil {
		return err
	}
	fmt.Printf("Its result: %s", receipt)
	return d.show(ctx, id)
}

// show prints the run as an operator sees it.
func (d *daemon) show(ctx context.Context, id string) error {
	out, err := d.cli(ctx, "workflow", "get", id)
	if err != nil {
		return err
	}
	fmt.Println()
	for line := range strings.Lines(string(out)) {
		fmt.Println(strings.TrimRight("  "+line, " \n"))
	}
	fmt.Println()
	return nil
}

// checkLedger counts what the charge's body wrote each time that it ran.
func (d *daemon) checkLedger() error {
	raw, err := os.ReadFile(d.ledger())
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	if n := strings.Count(string(raw), "charge "); n != 1 {
		return fmt.Errorf("the charge's code ran %d times, want once:\n%s", n, raw)
	}
	return nil
}

func (d *daemon) ledger() string { return filepath.Join(d.dir, "ledger") }
