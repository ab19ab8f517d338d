package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/store"
)

// The architecture page names tests and Go identifiers; each must exist, so that
// a renamed test does not leave a rule that nothing holds.
func TestArchitectureNamesExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/architecture.md")
	must(t, err)
	_, tables, found := strings.Cut(string(page), "## The rules, and the tests that hold them")
	if !found {
		t.Fatal("docs/architecture.md has no section on the rules")
	}
	source := goSource(t)
	for line := range strings.Lines(tables) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 2 || strings.HasPrefix(line, "|---") {
			continue
		}
		for _, name := range quoted(cells[len(cells)-1]) {
			if !strings.Contains(source, "func "+name+"(") && !strings.Contains(source, `name: "`+name+`"`) && !strings.HasSuffix(name, "/") {
				t.Errorf("no test or conformance group is called %s: %s", name, line)
			}
		}
		if len(cells) == 3 {
			for _, name := range quoted(cells[1]) {
				if !declared(source, name) {
					t.Errorf("nothing in Go is called %s: %s", name, line)
				}
			}
		}
	}
}

// declared reports whether a type, function, variable or method of this name
// is declared; Type.Method only asks for the method.
func declared(source, name string) bool {
	if strings.HasPrefix(name, "store/") {
		return true
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	return regexp.MustCompile(`(?m)^(type |func (\([^)]*\) )?|\t)` + last + `\b`).MatchString(source)
}

func quoted(cell string) []string {
	var names []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		if !strings.Contains(m[1], "/") {
			names = append(names, m[1])
		}
	}
	return names
}

func goSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"../store", "../daemon", "../handlers", "../cmd", "../internal", "."} {
		must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			raw, err := os.ReadFile(path)
			all.Write(raw)
			return err
		}))
	}
	return all.String()
}

// The SQL that the page on workflows shows runs on a schema as it is installed.
func TestWorkflowSQLRuns(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/workflows.md")
	must(t, err)
	w := newPostgresWorld(t)
	_, err = w.store.Queues().Insert(t.Context(), "order", store.QueuePolicy{Kind: store.WorkflowQueue})
	must(t, err)
	id, _, err := w.store.CreateWorkflow(t.Context(), store.NewRun{Workflow: "order", Input: []byte("1"), Delay: time.Hour})
	must(t, err)
	conn, err := pgx.Connect(t.Context(), w.dsn)
	must(t, err)
	defer func() { must(t, conn.Close(t.Context())) }()
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 4 {
		t.Fatalf("the page shows %d pieces of SQL", len(blocks))
	}
	of := func(block int, run int64) string {
		return strings.NewReplacer("pgqrs.", w.schema+".", "42", strconv.FormatInt(run, 10)).Replace(blocks[block][1])
	}
	for i := range blocks {
		if _, err := conn.Exec(t.Context(), of(i, id)); err != nil {
			t.Errorf("%v\n%s", err, of(i, id))
		}
	}
	// Why a run waits, and that none that waits is left out of the count.
	paused := pauseRunning(t, w)
	for run, want := range map[int64]string{id: "start", paused: "resume"} {
		var why string
		var name *string
		must(t, conn.QueryRow(t.Context(), of(0, run)).Scan(&why, &name, nil, nil))
		if why != want || name != nil {
			t.Errorf("run %d waits for %s, want %s", run, why, want)
		}
	}
	counted := map[string]int{}
	rows, err := conn.Query(t.Context(), of(2, id))
	must(t, err)
	var why string
	var n int
	for rows.Next() {
		must(t, rows.Scan(nil, &why, nil, &n, nil))
		counted[why] += n
	}
	must(t, rows.Err())
	if len(counted) != 2 || counted["start"] != 1 || counted["resume"] != 1 {
		t.Errorf("the runs that wait are counted as %v", counted)
	}
	signals, err := w.store.Workflows().Signals(t.Context(), id)
	must(t, err)
	if len(signals) != 1 || signals[0].Topic != "approved" || string(signals[0].Payload) != "true" {
		t.Errorf("the signals that SQL sent are %+v", signals)
	}
}

// pauseRunning starts a run, and pauses it while it runs.
func pauseRunning(t *testing.T, w *world) int64 {
	t.Helper()
	id, _, err := w.store.CreateWorkflow(t.Context(), store.NewRun{Workflow: "order", Input: []byte("2")})
	must(t, err)
	c, err := w.store.Consumer(t.Context(), "order", store.WorkerOptions{})
	must(t, err)
	leased, err := c.Dequeue(t.Context(), 1, time.Minute)
	must(t, err)
	if len(leased) != 1 || leased[0].ID != id {
		t.Fatalf("leased are %+v, want run %d", leased, id)
	}
	must(t, w.store.Workflows().Pause(t.Context(), id))
	settled, err := c.Settle(t.Context(), []store.Outcome{{Lease: leased[0].Lease, Kind: store.OutcomeWait,
		Wait: &store.Wait{Kind: store.WaitSignal, For: "resume", Delay: -1}}})
	must(t, err)
	must(t, settled[0].Err)
	return id
}
