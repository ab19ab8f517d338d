package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
)

// A row that somebody else wrote does not keep its queue from being served, and
// one that nothing could be made of is refused.
func TestForeignHeaders(t *testing.T) {
	t.Parallel()
	s, _ := installed(t, "q", store.QueuePolicy{})
	ids := enqueue(t, s, "q", 2)
	if _, err := s.exec(t.Context(), "write headers", `update {{schema}}.messages set headers = '{"n": 1, "s": "x"}' where id = $1`, ids[0]); err != nil {
		t.Fatal(err)
	}
	got, err := newConsumer(t, s, "q").Dequeue(t.Context(), 2, time.Hour)
	if err != nil || len(got) != 2 || got[0].Headers["n"] != "1" || got[0].Headers["s"] != "x" {
		t.Errorf("leased %+v, %v; want both, the first with its headers", got, err)
	}
	if m, err := s.Messages().Get(t.Context(), ids[0]); err != nil || m.Headers["n"] != "1" {
		t.Errorf("got %+v, %v; want its headers", m, err)
	}
	for _, set := range []string{`headers = '[1]'`, `headers = 'null'`, `errors = '{}'`} {
		if _, err := s.exec(t.Context(), "write", `update {{schema}}.messages set `+set); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("set %s: %v, want %v", set, err, store.ErrInvalid)
		}
	}
}
