package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	gotoml "github.com/pelletier/go-toml/v2"

	"github.com/pgqrs/pgqrsd/store"
)

const (
	envPrefix  = "PGQRS_"
	testPrefix = "PGQRS_TEST_" // reserved for tests
)

// Options say what to load.
type Options struct {
	// File is the configuration file that was asked for; empty is DefaultFile
	// if it exists.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are the values that flags set.
	Flags []Flag
}

// Flag is a key's value from the command line.
type Flag struct {
	Key   string // dotted, such as "http.addr"
	Name  string // the flag, without its dashes
	Value string
}

// Loaded is a Config that knows where its values came from.
type Loaded struct {
	Config
	// File is the file that was read; empty when there was none.
	File string
	// Variables are the environment variables that were used.
	Variables []string

	// origins says for each key that is not at its default where it was set.
	origins map[string]origin
}

// origin is where a value was set.
type origin struct {
	Layer string // "file", "env" or "flag"
	Text  string // for people, such as "/etc/pgqrsd/config.toml:3"
}

// Load reads the configuration. Its error is an *Error with everything that is
// wrong, except when the file could not be read at all.
func Load(opts Options) (*Loaded, error) {
	env := environment(opts.Environ)
	l := &loader{
		merged: koanf.New(sep),
		loaded: &Loaded{Config: Default(func(name string) string { return env[name] }), origins: map[string]origin{}},
	}
	if err := l.file(opts.File); err != nil {
		return nil, err
	}
	if err := l.environment(env); err != nil {
		return nil, err
	}
	if err := l.flags(opts.Flags); err != nil {
		return nil, err
	}
	if err := l.decode(); err != nil {
		return nil, err
	}
	if len(l.problems) == 0 {
		l.check()
	}
	if len(l.problems) > 0 {
		return nil, &Error{l.problems}
	}
	return l.loaded, nil
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	return env
}

// loader merges the layers, each checked before it is merged.
type loader struct {
	merged   *koanf.Koanf
	loaded   *Loaded
	problems []Problem
}

func (l *loader) bad(source, key, format string, args ...any) {
	if key != "" {
		key = dotted(key)
	}
	l.problems = append(l.problems, Problem{source, key, fmt.Sprintf(format, args...)})
}

func (l *loader) file(path string) error {
	asked := path != ""
	if !asked {
		path = DefaultFile
	}
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		l.bad(path, "", "cannot read the configuration: %v", errors.Unwrap(err))
		return nil
	}
	l.loaded.File = path
	raw, err := toml.Parser().Unmarshal(doc)
	if err != nil {
		l.syntax(path, err)
		return nil
	}
	w := walker{loader: l, path: path, lines: lines(doc)}
	return l.merged.Load(confmap.Provider(w.root(raw), ""), nil)
}

// syntax reports a file that is not TOML. The library's message quotes the
// text of the document, which may be a secret, only in its long form.
func (l *loader) syntax(path string, err error) {
	var syntax *gotoml.DecodeError
	if errors.As(err, &syntax) {
		line, _ := syntax.Position()
		path = fmt.Sprintf("%s:%d", path, line)
	}
	l.bad(path, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
}

func (l *loader) environment(env map[string]string) error {
	keys := map[string]string{}
	for _, key := range fixedKeys() {
		keys[envName(key)] = key
	}
	values := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, testPrefix) {
			continue
		}
		key, known := keys[name]
		if !known {
			l.bad("environment", "", "%s: no such variable%s", name, envHint(name, slices.Collect(maps.Keys(keys))))
			continue
		}
		l.loaded.Variables = append(l.loaded.Variables, name)
		l.text(values, key, env[name], origin{"env", "environment " + name})
	}
	return l.merged.Load(confmap.Provider(values, sep), nil)
}

func envHint(name string, known []string) string {
	for _, table := range []string{"QUEUES_", "HANDLERS_"} {
		if strings.HasPrefix(name, envPrefix+table) {
			return "; single queues and handlers are configured in the file"
		}
	}
	if near := store.NearNames(name, known); len(near) > 0 {
		return "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return "; variables that start with " + envPrefix + " are named after the configuration's keys"
}

func (l *loader) flags(flags []Flag) error {
	values := map[string]any{}
	for _, f := range flags {
		l.text(values, strings.ReplaceAll(f.Key, ".", sep), f.Value, origin{"flag", "flag --" + f.Name})
	}
	return l.merged.Load(confmap.Provider(values, sep), nil)
}

// text sets a key to a value that was written as text.
func (l *loader) text(values map[string]any, key, text string, from origin) {
	value, err := parseText(kindOf(typeOf(key)), text)
	if err != nil {
		l.bad(from.Text, key, "%v", err)
		return
	}
	values[key] = value
	l.loaded.origins[key] = from
}

// decode turns the merged layers into the Config, on top of the defaults.
func (l *loader) decode() error {
	cfg := &l.loaded.Config
	conf := koanf.UnmarshalConf{Tag: "koanf"}
	if err := l.merged.UnmarshalWithConf("", cfg, conf); err != nil {
		return fmt.Errorf("decode the configuration: %w", err)
	}
	for name := range cfg.Queues {
		q := cfg.QueueDefaults
		if err := l.merged.UnmarshalWithConf(join("queues", name), &q, conf); err != nil {
			return fmt.Errorf("decode the configuration of queue %q: %w", name, err)
		}
		cfg.Queues[name] = q
	}
	if _, set := l.loaded.origins[join("daemon", "state_dir")]; !set {
		cfg.Daemon.StateDir = filepath.Join(cfg.Daemon.StateDir, databaseKey(cfg.DSN, cfg.Schema))
	}
	return nil
}
