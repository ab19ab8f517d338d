package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
