package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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
