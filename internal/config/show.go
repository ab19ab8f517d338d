package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Entry is one effective value.
type Entry struct {
	// Table is the table that the key stands in, as TOML writes it; empty for
	// the keys at the top. Name is the key in it.
	Table, Name string
	// Value is a string, an int, a float64, a bool or a []string; durations are
	// strings, secrets are masked.
	Value any
	// Source is "default", "queue_defaults" for what a queue's table leaves
	// out, a file with its line, a variable or a flag.
	Source string
}

// Key is the whole dotted key.
func (e Entry) Key() string {
	if e.Table == "" {
		return e.Name
	}
	return e.Table + "." + e.Name
}

// TOML is the value as TOML writes it.
func (e Entry) TOML() string {
	switch v := e.Value.(type) {
	case string:
		return quote(v)
	case int:
		return strconv.Itoa(v)
	case float64:
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	case bool:
		return strconv.FormatBool(v)
	default:
		var items []string
		for _, item := range e.Value.([]string) {
			items = append(items, quote(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
}

// quote writes a basic string; TOML knows fewer escapes than Go.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			b.WriteString(`\u00` + string("0123456789abcdef"[r>>4]) + string("0123456789abcdef"[r&15]))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Entries lists every effective value, table by table, with secrets masked.
func (l *Loaded) Entries() []Entry {
	v := reflect.ValueOf(&l.Config).Elem()
	entries := l.appendEntries(nil, "", v)
	for _, name := range slices.Sorted(maps.Keys(l.Queues)) {
		entries = l.appendEntries(entries, join("queues", name), reflect.ValueOf(l.Queues[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Handlers)) {
		table := join("handlers", name)
		entries = l.appendEntries(entries, table, reflect.ValueOf(l.Handlers[name]))
		for _, variable := range slices.Sorted(maps.Keys(l.Handlers[name].Env)) {
			key := join(table, "env", variable)
			entries = append(entries, Entry{dotted(join(table, "env")), dotted(variable), Masked, l.source(key)})
		}
	}
	return entries
}

// appendEntries adds a table's own keys and then those of the tables in it, as
// the order of a TOML file must be.
func (l *Loaded) appendEntries(entries []Entry, table string, v reflect.Value) []Entry {
	fields := fieldsOf(v.Type())
	key := func(f field) string {
		if table == "" {
			return f.name
		}
		return join(table, f.name)
	}
	for _, f := range fields {
		if k := kindOf(f.typ); k != kindTable && k != kindNames {
			heading := ""
			if table != "" {
				heading = dotted(table)
			}
			entries = append(entries, Entry{heading, f.name, shown(key(f), v.Field(f.pos)), l.source(key(f))})
		}
	}
	for _, f := range fields {
		if kindOf(f.typ) == kindTable {
			entries = l.appendEntries(entries, key(f), v.Field(f.pos))
		}
	}
	return entries
}

func shown(key string, v reflect.Value) any {
	switch value := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(value)
	case []string:
		if value == nil {
			return []string{}
		}
		if strings.HasPrefix(key, "handlers"+sep) {
			return slices.Repeat([]string{Masked}, len(value)) // they may hold tokens
		}
		return value
	case string:
		if key == "dsn" {
			return MaskDSN(value)
		}
		return value
	default:
		return value
	}
}

// Source says where the value of a key comes from, as Entry.Source does. The key
// is one at the top, such as "dsn".
func (l *Loaded) Source(key string) string { return l.source(key) }

func (l *Loaded) source(key string) string {
	if from, set := l.origins[key]; set {
		return from.Text
	}
	if strings.HasPrefix(key, "queues"+sep) {
		return "queue_defaults"
	}
	return "default"
}

// KeysFromFile counts the values that the file sets.
func (l *Loaded) KeysFromFile() int {
	n := 0
	for _, from := range l.origins {
		if from.Layer == "file" {
			n++
		}
	}
	return n
}
