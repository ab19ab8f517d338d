package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

const (
	// childFile names the database to the test binary that runs as the other process.
	childFile = "PGQRS_TEST_SQLITE_CHILD"
	// childOnDemand has it write once for each line that it reads.
	childOnDemand = "PGQRS_TEST_SQLITE_ON_DEMAND"
	childCalls    = 200
)

// TestMain lets the test binary be the other process, too.
func TestMain(m *testing.M) {
	path := os.Getenv(childFile)
	if path == "" {
		os.Exit(m.Run())
	}
	write := writeAsChild
	if os.Getenv(childOnDemand) != "" {
		write = writeOnDemand
	}
	if err := write(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func writeAsChild(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path, MustExist: true})
	if err != nil {
		return err
	}
	for range childCalls {
		if _, err := s.Messages().Insert(ctx, []store.NewMessage{{Queue: "theirs", Payload: []byte(`1`)}}); err != nil {
			return err
		}
	}
	return s.Close()
}

// TestTwoProcesses writes from two processes at once: both get their turns, no
// id is given twice, and this one hears of the other's writes.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path})
	for _, q := range []string{"ours", "theirs"} {
		if _, err := s.Queues().Insert(t.Context(), q, store.QueuePolicy{}); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), exe)
	child.Env = append(os.Environ(), childFile+"="+path)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for range childCalls {
		if _, err := s.Messages().Insert(t.Context(), []store.NewMessage{{Queue: "ours", Payload: []byte(`1`)}}); err != nil {
			t.Error(err)
			break
		}
	}
	if err := child.Wait(); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	n, err := s.Messages().Count(t.Context(), store.MessageFilter{})
	if err != nil || n != 2*childCalls {
		t.Errorf("%d messages, %v; want %d", n, err, 2*childCalls)
	}
}

// TestListenHearsOtherProcesses waits for the write of a process that starts
// when the listener is at rest.
func TestListenHearsOtherProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgqrs.db")
	s := installed(t, sqlite.Config{Path: path})
	if _, err := s.Queues().Insert(t.Context(), "theirs", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	heard, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- s.Listen(ctx, func(queue string) {
			select {
			case heard <- queue:
			default:
			}
		})
	}()
	<-heard // what came before it listened
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(ctx, exe)
	child.Env = append(os.Environ(), childFile+"="+path)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case err := <-done:
		t.Errorf("the listener ended: %v", err)
	case <-ctx.Done():
		t.Error("the listener heard nothing of another process's writes")
	}
	if err := child.Wait(); err != nil {
		t.Errorf("the other process: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the listener ended with %v", err)
	}
}

// writeOnDemand enqueues a message for each line of its input, and answers with
// the time when that was done.
func writeOnDemand(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path, MustExist: true})
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if _, err := s.Messages().Insert(ctx, []store.NewMessage{{Queue: "theirs", Payload: []byte(`1`)}}); err != nil {
			return err
		}
		fmt.Println(time.Now().UnixNano())
	}
	return s.Close()
}

// BenchmarkHear measures from the end of another process's enqueue until the
// message is leased here, when nothing else happens.
func BenchmarkHear(b *testing.B) {
	path := filepath.Join(b.TempDir(), "pgqrs.db")
	s, err := sqlite.Open(b.Context(), sqlite.Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Install(b.Context()); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Queues().Insert(b.Context(), "theirs", store.QueuePolicy{}); err != nil {
		b.Fatal(err)
	}
	c, err := s.Consumer(b.Context(), "theirs", store.WorkerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	heard, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- s.Listen(ctx, func(string) {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	demand, answers := onDemand(b, path)
	var delays []time.Duration
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for b.Loop() {
		<-pause.C
		fmt.Fprintln(demand)
		var leased []store.LeasedMessage
		var at time.Time
		for len(leased) == 0 {
			<-heard
			if leased, err = c.Dequeue(b.Context(), 1, time.Minute); err != nil {
				b.Fatal(err)
			}
			at = time.Now()
		}
		var done int64
		if _, err := fmt.Fscanln(answers, &done); err != nil {
			b.Fatal(err)
		}
		delays = append(delays, at.Sub(time.Unix(0, done)))
		if errs, err := c.Archive(b.Context(), leased[0].Lease); err != nil || errs[0] != nil {
			b.Fatal(errs, err)
		}
	}
	slices.Sort(delays)
	for name, share := range map[string]float64{"p50-us": 0.5, "p99-us": 0.99} {
		b.ReportMetric(float64(delays[int(share*float64(len(delays)-1))].Microseconds()), name)
	}
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// onDemand starts a process that writes for each line that it is sent.
func onDemand(b *testing.B, path string) (demand io.Writer, answers io.Reader) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	child := exec.CommandContext(context.WithoutCancel(b.Context()), exe)
	child.Env = append(os.Environ(), childFile+"="+path, childOnDemand+"=1")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := child.Wait(); err != nil {
			b.Errorf("the other process: %v", err)
		}
	})
	return in, bufio.NewReader(out)
}
