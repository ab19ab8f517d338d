package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

func take(t *testing.T, dir string) *slot {
	t.Helper()
	s, err := takeSlot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func release(t *testing.T, s *slot) {
	t.Helper()
	if err := s.release(); err != nil {
		t.Fatal(err)
	}
}

func TestSlotsAreTakenInOrderAndKnownAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "it")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	first := take(t, dir)
	second := take(t, dir)
	defer release(t, second)
	if first.name != host+"/0" || second.name != host+"/1" {
		t.Errorf("slots are named %s and %s", first.name, second.name)
	}
	if first.id == second.id || !strings.HasSuffix(first.id, "@"+host) {
		t.Errorf("slots have ids %s and %s", first.id, second.id)
	}
	release(t, first)
	again := take(t, dir)
	defer release(t, again)
	if again.id != first.id || again.name != first.name {
		t.Errorf("slot 0 is now %s %s, was %s %s", again.name, again.id, first.name, first.id)
	}
}

func TestASlotFileCutShortGetsANewID(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "slot-0.lock")
	if err := os.WriteFile(path, []byte("123e4567-e89b"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := take(t, dir)
	defer release(t, s)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, _ := strings.Cut(s.id, "@"); len(id) != 36 || id+"\n" != string(b) {
		t.Errorf("the slot is %s, its file holds %q", s.id, b)
	}
}

func TestAStateDirectoryThatCannotBeMadeIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := takeSlot(filepath.Join(file, "state"))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names %s", err, file)
	}
}

// A daemon starts although a row is kept locked that it needs to take back what
// one that died here held. The maintenance does that when the row is free.
func TestADaemonStartsThoughItsSlotIsHeldUp(t *testing.T) {
	schema := pgtest.Schema(t)
	s := openPostgres(t, pgtest.DSN(t), schema)
	cfg := testConfig(t, s)
	cfg.WorkerTimeout = time.Second
	if _, err := s.Queues().Insert(t.Context(), "other", store.QueuePolicy{Kind: store.WorkflowQueue, MaxAttempts: 1}); err != nil {
		t.Fatal(err)
	}
	died := take(t, cfg.StateDir)
	c, err := s.Consumer(t.Context(), "other", store.WorkerOptions{Name: died.name, Slot: died.id})
	if err != nil {
		t.Fatal(err)
	}
	parent, _, err := s.CreateWorkflow(t.Context(), store.NewRun{Workflow: "other"})
	if err != nil {
		t.Fatal(err)
	}
	lease := func() store.Lease {
		t.Helper()
		got, err := c.Dequeue(t.Context(), 1, time.Hour)
		if err != nil || len(got) != 1 {
			t.Fatalf("leased %d, %v", len(got), err)
		}
		return got[0].Lease
	}
	got, err := c.Settle(t.Context(), []store.Outcome{{
		Lease: lease(), Kind: store.OutcomeWait, Version: "v1", Wait: &store.Wait{Kind: store.WaitChild, Delay: -1},
		Steps: []store.StepResult{{
			StepKey: store.StepKey{Name: "child"}, Kind: store.StepChild, State: store.StepWaiting, Delay: -1,
			Child: &store.NewRun{Workflow: "other"},
		}},
	}})
	if err != nil || got[0].Err != nil {
		t.Fatal(got, err)
	}
	child := lease()
	if errs, err := c.Started(t.Context(), child); errors.Join(append(errs, err)...) != nil {
		t.Fatal(errs, err)
	}
	release(t, died)

	conn, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select `+pgx.Identifier{schema}.Sanitize()+`.send_signal($1, 'unasked', 'null')`, parent); err != nil {
		t.Fatal(err)
	}
	f := run(t, cfg)
	f.becomes(f.enqueue(order{})[0], store.Done)
	if m := f.get(child.ID); m.State != store.Leased {
		t.Errorf("the child is %s while its parent's row is kept", m.State)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.becomes(child.ID, store.Dead)
}
