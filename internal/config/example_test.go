package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const exampleFile = "../../config.toml.example"

// uncomment turns "# key = value" and "# [table]" into what they comment out.
func uncomment(doc string) string {
	return regexp.MustCompile(`(?m)^# ?(\[[a-z_.]+\]|[A-Za-z_]+ = .*)$`).ReplaceAllString(doc, "$1")
}

func readExample(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func TestExampleIsTheDefaults(t *testing.T) {
	environ := []string{"HOME=/home/someone"}
	loaded, err := Load(Options{File: exampleFile, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	got, want := loaded.Config, Default(func(string) string { return "/home/someone" })
	want.Daemon.StateDir = got.Daemon.StateDir // computed, so it stands there as a comment
	want.Payload.ForbiddenKeys, want.Payload.RequiredKeys = []string{}, []string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s gives\n%+v\nthe defaults are\n%+v", exampleFile, got, want)
	}
}

// Every key stands in the example, written out or as a comment, and everything
// that is commented out is right too.
func TestExampleHasEveryKey(t *testing.T) {
	doc := uncomment(readExample(t))
	path := writeFile(t, doc)
	loaded, err := Load(Options{File: path})
	if err != nil {
		t.Fatal(err)
	}
	at := lines([]byte(doc))
	keys := fixedKeys()
	keys = appendKeys(keys, join("queues", "emails"), reflect.TypeFor[Queue]())
	keys = appendKeys(keys, join("handlers", "webhook"), reflect.TypeFor[Handler]())
	for _, key := range keys {
		if at[key] == 0 {
			t.Errorf("%s does not show %s", exampleFile, dotted(key))
		}
	}
	if got := loaded.Handlers["webhook"].Env["WEBHOOK_HOSTS"]; got == "" {
		t.Error("the example of a handler's env is not read")
	}
}

func TestExampleSetsEveryKeyExplicitly(t *testing.T) {
	loaded, err := Load(Options{File: exampleFile})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range loaded.Entries() {
		if e.Source == "default" && e.Key() != "daemon.state_dir" {
			t.Errorf("%s does not set %s", exampleFile, e.Key())
		}
	}
}

func TestShownConfigurationIsReadBack(t *testing.T) {
	doc := uncomment(readExample(t))
	loaded, err := Load(Options{File: writeFile(t, doc)})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	table := ""
	for _, e := range loaded.Entries() {
		if e.Table != table {
			table = e.Table
			b.WriteString("[" + table + "]\n")
		}
		b.WriteString(e.Name + " = " + e.TOML() + "\n")
	}
	again, err := Load(Options{File: writeFile(t, b.String())})
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for _, h := range loaded.Handlers {
		for i := range h.Args {
			h.Args[i] = Masked
		}
		for name := range h.Env {
			h.Env[name] = Masked
		}
	}
	if !reflect.DeepEqual(again.Config, loaded.Config) {
		t.Errorf("shown and read back:\n%+v\nwas:\n%+v", again.Config, loaded.Config)
	}
}
