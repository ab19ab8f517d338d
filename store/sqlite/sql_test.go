package sqlite

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// openTest opens a new database with the schema.
func openTest(t testing.TB) *database {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "test.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.(*database)
}

// stringConstants finds the string constants of the package by its source.
func stringConstants(t testing.TB) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	packages, err := parser.ParseDir(files, ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // one directory, no build tags
	if err != nil {
		t.Fatal(err)
	}
	exprs := make(map[string]ast.Expr)
	for _, file := range packages["sqlite"].Files {
		for _, decl := range file.Decls {
			gen, is := decl.(*ast.GenDecl)
			if !is || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				value := spec.(*ast.ValueSpec)
				for i, name := range value.Names {
					if i < len(value.Values) {
						exprs[name.Name] = value.Values[i]
					}
				}
			}
		}
	}
	constants := make(map[string]string)
	for name, expr := range exprs {
		if text, is := stringOf(expr, exprs); is {
			constants[name] = text
		}
	}
	return constants
}

// stringOf is the value of a constant expression, if it is a string.
func stringOf(expr ast.Expr, exprs map[string]ast.Expr) (string, bool) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		return stringOf(exprs[e.Name], exprs)
	case *ast.BinaryExpr:
		x, isX := stringOf(e.X, exprs)
		y, isY := stringOf(e.Y, exprs)
		return x + y, isX && isY && e.Op == token.ADD
	case *ast.ParenExpr:
		return stringOf(e.X, exprs)
	}
	return "", false
}

// TestEveryStatementPrepares holds that no SQL constant rots.
func TestEveryStatementPrepares(t *testing.T) {
	d := openTest(t)
	found := 0
	for name, query := range stringConstants(t) {
		if !strings.HasPrefix(name, "sql") {
			continue
		}
		found++
		s, err := d.writer.s.conn.PrepareContext(t.Context(), query)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, query)
			continue
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if found < 60 {
		t.Errorf("only %d statements were found; the test does not see them all", found)
	}
}

// TestNoStatementReadsAWholeTable holds the plans of what runs often: no
// scan of a large table, no sort, and no index that SQLite makes for one run.
func TestNoStatementReadsAWholeTable(t *testing.T) {
	d := openTest(t)
	constants := stringConstants(t)
	for _, name := range []string{
		"sqlNextReady", "sqlConsumerQueue", "sqlInsertLeases", "sqlCountHeld", "sqlCountHeldRun", "sqlListHeld", "sqlArchiveLeased",
		"sqlDelayLeased", "sqlReadyLeased", "sqlFail", "sqlDeleteMessageRun",
		"sqlDeleteMessageRuns", "sqlDeleteLeaseRun", "sqlDeleteLeaseRuns", "sqlDeleteStepRuns", "sqlDeleteRunRuns", "sqlTakeReady",
		"sqlInsertReady", "sqlInsertReadyRest", "sqlArchive", "sqlReplay", "sqlLowerHeld", "sqlLowerHeldOne", "sqlEndClaims", "sqlEndClaimOne",
		"sqlExtendClaims", "sqlMarkStarted", "sqlSetProgress", "sqlInsertMessages", "sqlInsertDelayed",
		"sqlDue", "sqlNextDue", "sqlPromote", "sqlExpired", "sqlOldestReady", "sqlSampleReady", "sqlSampleDelayed",
		"sqlSampleArchived", "sqlGetMessage", "sqlRecordSteps", "sqlAcquireStep", "sqlAnyRun", "sqlLeasedRuns", "sqlRunPlaces",
		"sqlStepStates", "sqlSignalPlaces", "sqlTouchRuns", "sqlSetEvents", "sqlTakeSignals", "sqlEndChildSteps", "sqlAddNews",
		"sqlWakeable", "sqlReadyDelayed", "sqlLoadRuns", "sqlLoadSteps", "sqlLoadSignals", "sqlOpenSignals", "sqlFullRuns", "sqlChildren", "sqlCountUntilWoken",
		"sqlDeleteSignalRuns", "sqlDeleteEventRuns",
	} {
		query, found := constants[name]
		if !found {
			t.Errorf("there is no constant %s", name)
			continue
		}
		for _, step := range plan(t, d, query) {
			for _, table := range []string{"m", "messages", "d", "delayed", "a", "archive", "leases", "l", "x", "ready", "st", "steps", "w", "runs", "sg", "signals", "e", "events"} {
				if strings.HasPrefix(step, "SCAN "+table) && (step == "SCAN "+table || strings.HasPrefix(step, "SCAN "+table+" ")) {
					t.Errorf("%s: %s", name, step)
				}
			}
			if strings.Contains(step, "TEMP B-TREE FOR ORDER BY") || strings.Contains(step, "AUTOMATIC") {
				t.Errorf("%s: %s", name, step)
			}
		}
		t.Logf("%s\n\t%s", name, strings.Join(plan(t, d, query), "\n\t"))
	}
}

// TestNoStatementIsPlannedAnew holds a fact of SQLite: a bare parameter after
// LIMIT has each run with another limit planned anew, which costs more than
// most runs. LIMIT ?1 + 0 does not.
func TestNoStatementIsPlannedAnew(t *testing.T) {
	bare := regexp.MustCompile(`LIMIT \?\d+(\s*\)|\s*$|\s+[^+\s])`)
	for name, query := range stringConstants(t) {
		if strings.HasPrefix(name, "sql") && bare.MatchString(query) {
			t.Errorf("%s: a bare parameter after LIMIT; write LIMIT ?N + 0", name)
		}
	}
	if !bare.MatchString("SELECT 1 LIMIT ?1") || !bare.MatchString("(SELECT 1 LIMIT ?1)") || bare.MatchString("SELECT 1 LIMIT ?1 + 0") {
		t.Error("the test does not tell them apart")
	}
}

var parameter = regexp.MustCompile(`\?(\d+)`)

func plan(t *testing.T, d *database, query string) []string {
	t.Helper()
	parameters := 0
	for _, m := range parameter.FindAllStringSubmatch(query, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		parameters = max(parameters, n)
	}
	rows, err := d.reader.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, parameters)...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
