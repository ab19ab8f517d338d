package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// graphileProcesses is how many Node processes share the work: one a core of
// the machine that the targets are for.
const graphileProcesses = 2

const graphileSettings = "2 processes, concurrentJobs 24, maxPoolSize 25, localQueue.size 500, completeJobBatchDelay 0, failJobBatchDelay 0, no-op task, jobs deleted"

// graphileDrain works jobs off with Graphile Worker. The clock runs from when
// the processes, started and loaded, are told to go until the last has found
// nothing more to do and has written what it did.
func (l *lab) graphileDrain(ctx context.Context, jobs int) (figures, error) {
	if err := l.installGraphile(ctx); err != nil {
		return nil, err
	}
	return cleanly(ctx, l.dsn, func() (figures, error) {
		if _, err := output(l.node(ctx, "migrate")); err != nil {
			return nil, err
		}
		if err := fillGraphile(ctx, l.dsn, jobs); err != nil {
			return nil, err
		}
		if err := settleDown(ctx, l.dsn, schemaGraphile); err != nil {
			return nil, err
		}
		spent, err := l.runGraphile(ctx)
		if err != nil {
			return nil, err
		}
		left, err := count(ctx, l.dsn, "select count(*) from "+schemaGraphile+".jobs")
		if err != nil || left > 0 {
			return nil, fmt.Errorf("%d of %d jobs are left: %w", left, jobs, err)
		}
		return drained(jobs, spent), nil
	})
}

// installGraphile fetches the packages that the lock file pins, once.
func (l *lab) installGraphile(ctx context.Context) error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return &skipError{program + " is not installed"}
		}
	}
	if graphileInstalled(l.graphile) {
		return nil
	}
	cmd := command(ctx, "npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = l.graphile
	if _, err := output(cmd); err != nil {
		return fmt.Errorf("install Graphile Worker: %w", err)
	}
	return nil
}

const graphileModule = "node_modules/graphile-worker"

// graphileInstalled reports whether the locked version is there.
func graphileInstalled(dir string) bool {
	var installed struct {
		Version string `json:"version"`
	}
	err := readJSON(filepath.Join(dir, graphileModule, "package.json"), &installed)
	return err == nil && installed.Version == lockedGraphile(dir)
}

// lockedGraphile is the version that the lock file pins, "" without one.
func lockedGraphile(dir string) string {
	var lock struct {
		Packages map[string]struct {
			Version string `json:"version"`
		} `json:"packages"`
	}
	if err := readJSON(filepath.Join(dir, "package-lock.json"), &lock); err != nil {
		return ""
	}
	return lock.Packages[graphileModule].Version
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// node is worker.mjs in one of its modes. The DSN goes through the environment.
func (l *lab) node(ctx context.Context, mode string) *exec.Cmd {
	cmd := command(ctx, "node", "worker.mjs", mode, schemaGraphile)
	cmd.Dir = l.graphile
	// As in its perfTest: without it a line is logged for every job.
	cmd.Env = append(os.Environ(), "DATABASE_URL="+l.dsn, "NO_LOG_SUCCESS=1", "NODE_ENV=production")
	return cmd
}

// fillGraphile adds the jobs of its perfTest, in batches.
func fillGraphile(ctx context.Context, dsn string, jobs int) error {
	const add = "select count(*) from " + schemaGraphile + ".add_jobs(array(" +
		"select row('noop', json_build_object('id', i), null, null, null, null, null, null)::" + schemaGraphile + ".job_spec " +
		"from generate_series($1::int, $2::int) i))"
	return onConnection(ctx, dsn, func(conn *pgx.Conn) error {
		for first := 1; first <= jobs; first += enqueueBatch {
			if _, err := conn.Exec(ctx, add, first, min(first+enqueueBatch-1, jobs)); err != nil {
				return fmt.Errorf("add Graphile Worker's jobs: %w", err)
			}
		}
		return nil
	})
}

// A graphileProcess waits, loaded, for the word to go.
type graphileProcess struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said bytes.Buffer
}

func (l *lab) runGraphile(ctx context.Context) (spent time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var processes []*graphileProcess
	defer func() {
		if err != nil {
			cancel() // what still runs is not waited for in vain
		}
		for _, p := range processes {
			if waited := p.cmd.Wait(); waited != nil {
				err = errors.Join(err, commandError(p.cmd, waited, p.said.Bytes()))
			}
		}
		cancel()
	}()
	for range graphileProcesses {
		p, err := l.startGraphile(ctx)
		if err != nil {
			return 0, err
		}
		processes = append(processes, p)
	}
	for _, p := range processes {
		if err := p.expect("ready"); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	var group errgroup.Group
	for _, p := range processes {
		group.Go(func() error {
			if _, err := io.WriteString(p.in, "go\n"); err != nil {
				return fmt.Errorf("tell Graphile Worker to go: %w", err)
			}
			return p.expect("done")
		})
	}
	err = group.Wait()
	return time.Since(began), err
}

func (l *lab) startGraphile(ctx context.Context) (*graphileProcess, error) {
	p := &graphileProcess{cmd: l.node(ctx, "work")}
	p.cmd.Stderr = &p.said
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Graphile Worker: %w", err)
	}
	return p, nil
}

// expect reads lines, of which some are Graphile Worker's log, up to one word.
func (p *graphileProcess) expect(word string) error {
	for {
		line, err := p.out.ReadString('\n')
		if strings.TrimSpace(line) == word {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for Graphile Worker to say %q: %w", word, err)
		}
	}
}
