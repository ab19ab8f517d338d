package postgres

import (
	"context"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgqrs/pgqrsd/internal/pgtest"
	"github.com/pgqrs/pgqrsd/store"
)

// sqlConstants finds every constant of this package whose name begins with sql, with its
// value as the compiler sees it.
func sqlConstants(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	// The constants need no other package: errors about imports are no matter.
	conf := types.Config{Error: func(error) {}}
	pkg, _ := conf.Check("postgres", fset, files, nil)
	found := map[string]string{}
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if !ok || !strings.HasPrefix(name, "sql") {
			continue
		}
		if c.Val().Kind() != constant.String {
			t.Fatalf("%s is not a string", name)
		}
		found[name] = constant.StringVal(c.Val())
	}
	return found
}

// Every SQL constant prepares against the migrated schema, also one whose name
// needs quotes.
func TestSQLConstantsPrepare(t *testing.T) {
	schema := `Odd "name" ` + pgtest.Schema(t)
	s := openStore(t, Config{Schema: schema})
	if err := s.Install(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropSchema(t, schema) })
	conn, err := pgx.Connect(context.Background(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	constants := sqlConstants(t)
	if len(constants) < 80 {
		t.Fatalf("found %d constants", len(constants))
	}
	for name, text := range constants {
		text = expandEstimate(expand(text, s.schema), 1, store.Done)
		if strings.Contains(text, "{{") {
			t.Errorf("%s has a placeholder that is not filled in: %s", name, text)
		}
		if _, err := conn.Prepare(context.Background(), name, text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

func dropSchema(t *testing.T, schema string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), pgtest.DSN(t))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "drop schema "+pgx.Identifier{schema}.Sanitize()+" cascade"); err != nil {
		t.Error(err)
	}
}
