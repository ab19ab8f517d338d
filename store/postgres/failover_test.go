package postgres

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// Connections that lead to a server which became read-only are given up.
func TestReadOnlyServerIsLeft(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	s.notifier.close() // it uses connections too
	for _, conn := range s.pool.AcquireAllIdle(t.Context()) {
		if _, err := conn.Exec(t.Context(), `set default_transaction_read_only = on`); err != nil {
			t.Fatal(err)
		}
		conn.Release()
	}
	msgs := []store.NewMessage{{Queue: "q", Payload: []byte(`1`)}}
	if _, err := s.Messages().Insert(t.Context(), msgs); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("insert on a read-only server: %v, want %v", err, store.ErrUnavailable)
	}
	if _, err := s.Messages().Insert(t.Context(), msgs); err != nil {
		t.Errorf("insert on a new connection: %v", err)
	}
}

// A notification that failed goes out with the next one.
func TestFailedNotificationIsSentAgain(t *testing.T) {
	t.Parallel()
	s, cfg := installed(t, "q", store.QueuePolicy{})
	other := openStore(t, cfg)
	heard := make(chan string, 100)
	go func() { _ = other.Listen(t.Context(), func(q string) { heard <- q }) }()
	<-heard // it listens

	channel := s.channel
	s.channel = "" // which the server refuses
	s.notifier.keep([]string{"q"})
	if s.notifier.send() {
		t.Fatal("a refused notification was sent")
	}
	s.channel = channel
	s.notifier.add("r")
	var got []string
	for deadline := time.After(time.Minute); len(got) < 2; {
		select {
		case q := <-heard:
			got = append(got, q)
		case <-deadline:
			t.Fatalf("heard of %v, want q and r", got)
		}
	}
	if slices.Sort(got); !slices.Equal(got, []string{"q", "r"}) {
		t.Errorf("heard of %v, want q and r", got)
	}
}
