package config

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A key is the path to a value, its parts joined by sep: queue names hold dots.
const sep = "\x1f"

func join(parts ...string) string { return strings.Join(parts, sep) }

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// dotted writes a key as TOML does.
func dotted(key string) string {
	parts := strings.Split(key, sep)
	for i, p := range parts {
		if !bareKey.MatchString(p) {
			parts[i] = strconv.Quote(p)
		}
	}
	return strings.Join(parts, ".")
}

// QuoteKey writes one part of a key as TOML does.
func QuoteKey(part string) string { return dotted(part) }

var durationType = reflect.TypeFor[time.Duration]()

// kind is what a key holds, for those who must write it.
type kind string

const (
	kindTable    kind = "a table"
	kindNames    kind = "a table of names"
	kindString   kind = "a string"
	kindInt      kind = "a whole number"
	kindFloat    kind = "a number"
	kindBool     kind = "true or false"
	kindDuration kind = `a duration such as "30s"`
	kindList     kind = "a list of strings"
)

func kindOf(t reflect.Type) kind {
	switch {
	case t == durationType:
		return kindDuration
	case t.Kind() == reflect.Struct:
		return kindTable
	case t.Kind() == reflect.Map:
		return kindNames
	case t.Kind() == reflect.Slice:
		return kindList
	case t.Kind() == reflect.Int:
		return kindInt
	case t.Kind() == reflect.Float64:
		return kindFloat
	case t.Kind() == reflect.Bool:
		return kindBool
	default:
		return kindString
	}
}

// field is one key of a table.
type field struct {
	name string
	typ  reflect.Type
	pos  int
}

func fieldsOf(t reflect.Type) []field {
	fields := make([]field, t.NumField())
	for i := range fields {
		f := t.Field(i)
		fields[i] = field{f.Tag.Get("koanf"), f.Type, i}
	}
	return fields
}

// fixedKeys lists the keys that every configuration has, in the order of the
// structs: those outside the tables of names.
func fixedKeys() []string { return appendKeys(nil, "", reflect.TypeFor[Config]()) }

func appendKeys(keys []string, prefix string, t reflect.Type) []string {
	for _, f := range fieldsOf(t) {
		key := f.name
		if prefix != "" {
			key = join(prefix, f.name)
		}
		switch kindOf(f.typ) {
		case kindTable:
			keys = appendKeys(keys, key, f.typ)
		case kindNames:
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

// typeOf returns the type of the value at a fixed key.
func typeOf(key string) reflect.Type {
	t := reflect.TypeFor[Config]()
	for part := range strings.SplitSeq(key, sep) {
		fields := fieldsOf(t)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == part })
		t = fields[i].typ
	}
	return t
}

// envName is the environment variable of a fixed key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, sep, "_"))
}
