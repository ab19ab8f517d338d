package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

const (
	// childFile names the database to the test binary that runs as the other process.
	childFile  = "PGQRS_TEST_SQLITE_CHILD"
	childCalls = 200
)

// TestMain lets the test binary be the other process, too.
func TestMain(m *testing.M) {
	path := os.Getenv(childFile)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := writeAsChild(path); err != nil {
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
	<-heard // the first look is one at a change
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
