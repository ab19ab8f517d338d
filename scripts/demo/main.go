// Command demo runs the main job to its end: the real daemon with the census
// handler in its plugins directory counts every file of a source tree, and the
// results are checked against wc and sha256sum. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// missing is how many files the demo asks for that do not exist: each must end
// in the dead letters.
const missing = 5

func main() {
	var opts options
	flag.StringVar(&opts.pgqrsd, "pgqrsd", "bin/pgqrsd", "the daemon's binary")
	flag.StringVar(&opts.census, "census", "bin/examples/census", "the census handler's binary")
	flag.StringVar(&opts.src, "src", "", "source tree to take the census of")
	flag.Parse()
	// A DSN may hold a password, so it is no argument. Empty is a fresh SQLite file.
	opts.dsn = os.Getenv("DSN")

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	fmt.Println("Everything agrees.")
}

type options struct{ pgqrsd, census, src, dsn string }

func run(ctx context.Context, opts options) (err error) {
	files, err := regularFiles(opts.src)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pgqrsd-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	d, err := newDaemon(ctx, dir, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Printf("pgqrsd runs on %s with the census handler in %s\n", d.backend(), d.plugins())

	begin := time.Now()
	if err := d.enqueue(ctx, files, missing); err != nil {
		return err
	}
	fmt.Printf("Enqueued %d files of %s and %d that do not exist.\n", len(files), opts.src, missing)
	if err := d.watch(ctx, len(files)+missing); err != nil {
		return err
	}
	took := time.Since(begin)

	results, dead, err := d.results(ctx)
	if err != nil {
		return err
	}
	total := results.total()
	fmt.Printf("\n  files         %12d\n  lines         %12d\n  bytes         %12d\n  time          %12s\n  jobs/s        %12.0f\n  dead letters  %12d\n\n",
		len(results), total.Lines, total.Bytes, took.Round(time.Millisecond), float64(len(results)+dead)/took.Seconds(), dead)

	if err := d.stop(); err != nil {
		return err
	}
	fmt.Println("pgqrsd stopped after SIGTERM with exit status 0.")
	if dead != missing {
		return fmt.Errorf("%d dead letters, want the %d files that do not exist", dead, missing)
	}
	return check(ctx, files, results)
}

// regularFiles lists every regular file below root.
func regularFiles(root string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Type().IsRegular() {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the files below %s: %w", root, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no files below %s", root)
	}
	return files, nil
}
