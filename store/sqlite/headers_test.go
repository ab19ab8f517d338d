package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/sqlite"
)

// A row that somebody else wrote does not keep its queue from being served, and
// one that nothing could be made of is refused.
func TestForeignHeaders(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	s := installed(t, sqlite.Config{Path: path})
	if _, err := s.Queues().Insert(t.Context(), "q", store.QueuePolicy{}); err != nil {
		t.Fatal(err)
	}
	msg := store.NewMessage{Queue: "q", Payload: []byte(`1`)}
	ids, err := s.Messages().Insert(t.Context(), []store.NewMessage{msg, msg})
	if err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	execute(t, db, fmt.Sprintf(`UPDATE messages SET headers = '{"n": 1, "s": "x"}' WHERE id = %d`, ids[0]))
	c, err := s.Consumer(t.Context(), "q", store.WorkerOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Dequeue(t.Context(), 2, time.Hour)
	if err != nil || len(got) != 2 || got[0].Headers["n"] != "1" || got[0].Headers["s"] != "x" {
		t.Errorf("leased %+v, %v; want both, the first with its headers", got, err)
	}
	if m, err := s.Messages().Get(t.Context(), ids[0]); err != nil || m.Headers["n"] != "1" {
		t.Errorf("got %+v, %v; want its headers", m, err)
	}
	for _, set := range []string{`headers = '[1]'`, `headers = 'x'`, `errors = '{}'`} {
		if _, err := db.ExecContext(t.Context(), `UPDATE messages SET `+set); err == nil {
			t.Errorf("set %s was let through", set)
		}
	}
}
