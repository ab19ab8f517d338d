package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	role     = "pgqrs"
	database = "postgres"
	// startLimit is generous: initdb and recovery share two cores with the
	// race detector.
	startLimit = 90 * time.Second
)

// An Option changes how a cluster is set up.
type Option func(*options)

type options struct{ settings []string }

// Setting sets a server parameter, such as ("max_connections", "20").
func Setting(name, value string) Option {
	return func(o *options) {
		o.settings = append(o.settings, name+" = '"+strings.ReplaceAll(value, "'", "''")+"'")
	}
}

// Fast gives up durability for speed. Only for tests that never crash the
// server.
func Fast() Option {
	return func(o *options) {
		o.settings = append(o.settings, "fsync = off", "synchronous_commit = off", "full_page_writes = off")
	}
}

// A Cluster is a PostgreSQL server that one test owns. Its methods fail that
// test when they fail, so call them from the test's own goroutine.
type Cluster struct {
	t        testing.TB
	bin      string
	dir      string // holds the data directory, the socket, the log
	port     int
	password string
	owner    *owner
	server   *server   // nil while it is stopped
	lifeline io.Closer // the watcher cleans up when this is closed
	watcher  *exec.Cmd
}

// Start makes a new cluster with the server's default durability and starts
// it. The test's cleanup stops it and removes it.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c, err := start(opts...)
	if err != nil {
		t.Fatal(err)
	}
	c.t = t
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Errorf("pgtest: clean up: %v", err)
		}
	})
	return c
}

func start(opts ...Option) (*Cluster, error) {
	bin, err := BinDir()
	if err != nil {
		return nil, err
	}
	own, err := findOwner()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(own)
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin, dir: dir, owner: own, password: secret()}
	if err := c.watch(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := c.init(opts); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *Cluster) init(opts []Option) error {
	o := options{settings: []string{
		"listen_addresses = '127.0.0.1'",
		"unix_socket_directories = '" + c.dir + "'",
		"max_connections = 200",
	}}
	for _, opt := range opts {
		opt(&o)
	}
	pwfile := filepath.Join(c.dir, "password")
	if err := os.WriteFile(pwfile, []byte(c.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := c.owner.chown(pwfile); err != nil {
		return err
	}
	if err := c.run("initdb", "--pgdata", c.data(), "--username", role, "--pwfile", pwfile, "--auth", "scram-sha-256",
		"--encoding", "UTF8", "--no-locale", "--no-sync"); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("\n" + strings.Join(o.settings, "\n") + "\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		return err
	}
	// Another process may take the port between our look and the server's
	// bind, so try a few.
	for try := 0; ; try++ {
		if c.port, err = freePort(); err != nil {
			return err
		}
		if err = c.start(); err == nil || try == 4 || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
	}
}

// DSN returns the URL of the cluster's database, over TCP, for its superuser.
func (c *Cluster) DSN() string {
	return c.url(net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)), url.Values{"sslmode": {"disable"}})
}

// SocketDSN is DSN over the cluster's Unix socket.
func (c *Cluster) SocketDSN() string {
	return c.url("", url.Values{"host": {c.dir}, "port": {strconv.Itoa(c.port)}})
}

func (c *Cluster) url(host string, query url.Values) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, c.password), Host: host, Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// Port returns the TCP port on 127.0.0.1. It stays the same over restarts.
func (c *Cluster) Port() int { return c.port }

// Log returns the server's log so far.
func (c *Cluster) Log() string {
	c.t.Helper()
	b, err := os.ReadFile(c.logFile())
	c.check(err)
	return string(b)
}

// Start starts a stopped or killed server again, on the same port and data,
// and returns when it accepts connections.
func (c *Cluster) Start() {
	c.t.Helper()
	c.check(c.start())
}

// StopImmediate stops the server as "pg_ctl stop -m immediate" does, without a
// checkpoint: the next Start recovers from the log.
func (c *Cluster) StopImmediate() {
	c.t.Helper()
	c.check(c.stop(syscall.SIGQUIT))
}

// StopFast ends all sessions and shuts the server down in order.
func (c *Cluster) StopFast() {
	c.t.Helper()
	c.check(c.stop(syscall.SIGINT))
}

// Kill ends every process of the server with SIGKILL.
func (c *Cluster) Kill() {
	c.t.Helper()
	c.check(c.kill())
}

func (c *Cluster) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) data() string    { return filepath.Join(c.dir, "data") }
func (c *Cluster) logFile() string { return filepath.Join(c.dir, "log") }

// run runs one of the server's programs to its end.
func (c *Cluster) run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if out, err := c.command(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: %s: %w\n%s", name, err, out)
	}
	return nil
}

// command prepares one of the server's programs to run as the cluster's owner,
// in a session of its own, where no signal from the terminal reaches it, and
// without any PG* variable of ours.
func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.owner.credential()}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "HOME="+c.dir)
	return cmd
}

// freePort finds a TCP port below the range that the kernel gives to outgoing
// connections: there a client that dials a stopped server in a loop could get
// the server's port as its own and be connected to itself.
func freePort() (int, error) {
	const low, high = 15000, 32000
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(high-low))
		if err != nil {
			return 0, err
		}
		port := low + int(n.Int64())
		ln, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, ln.Close()
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between %d and %d", low, high)
}

func secret() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
