package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pgqrs/pgqrsd/store"
)

// walker checks a parsed file against the types of Config. What is wrong is
// reported and left out.
type walker struct {
	*loader
	path  string
	lines map[string]int
}

func (w *walker) source(key string) string {
	if line, ok := w.lines[key]; ok {
		return fmt.Sprintf("%s:%d", w.path, line)
	}
	return w.path
}

func (w *walker) bad(key, format string, args ...any) {
	w.loader.bad(w.source(key), key, format, args...)
}

func (w *walker) root(raw map[string]any) map[string]any {
	return w.table("", reflect.TypeFor[Config](), raw)
}

func (w *walker) table(prefix string, t reflect.Type, raw map[string]any) map[string]any {
	fields := fieldsOf(t)
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		key := name
		if prefix != "" {
			key = join(prefix, name)
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			w.bad(key, "unknown key%s", hint(prefix, name, fields))
			continue
		}
		if value, ok := w.value(key, fields[i].typ, raw[name]); ok {
			out[name] = value
		}
	}
	return out
}

// hint names keys that may have been meant: near ones of the same table, else
// the same name in another table, which is what a line under the wrong header is.
func hint(prefix, name string, siblings []field) string {
	var names []string
	for _, f := range siblings {
		names = append(names, f.name)
	}
	near := store.NearNames(name, names)
	for i := range near {
		if prefix != "" {
			near[i] = join(prefix, near[i])
		}
	}
	if len(near) == 0 {
		for _, key := range fixedKeys() {
			if key == name || strings.HasSuffix(key, sep+name) {
				near = append(near, key)
			}
		}
	}
	if len(near) == 0 {
		return "; this table has " + strings.Join(names, ", ")
	}
	for i := range near {
		near[i] = dotted(near[i])
	}
	return "; did you mean " + strings.Join(near, ", ") + "?"
}

func (w *walker) value(key string, t reflect.Type, raw any) (any, bool) {
	k := kindOf(t)
	if k == kindTable || k == kindNames {
		table, ok := raw.(map[string]any)
		if !ok {
			w.bad(key, "must be %s, not %s", k, describe(raw))
			return nil, false
		}
		if k == kindTable {
			return w.table(key, t, table), true
		}
		return w.names(key, t.Elem(), table), true
	}
	value, err := convert(k, raw)
	if err != nil {
		w.bad(key, "%v", err)
		return nil, false
	}
	w.loaded.origins[key] = origin{"file", w.source(key)}
	return value, true
}

// names is a table whose keys are the user's own: queues, handlers, variables.
func (w *walker) names(prefix string, elem reflect.Type, raw map[string]any) map[string]any {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		key := join(prefix, name)
		if err := checkName(prefix, name); err != nil {
			w.bad(key, "%v", err)
			continue
		}
		if value, ok := w.value(key, elem, raw[name]); ok {
			out[name] = value
		}
	}
	return out
}

func checkName(prefix, name string) error {
	switch {
	case prefix == "queues":
		return store.ValidateQueueName(name)
	case prefix == "handlers" && (name == "" || strings.ContainsAny(name, "/\x00"+sep)):
		return fmt.Errorf("%q is not the name of a file in the plugins directory", name)
	case strings.HasPrefix(prefix, "handlers"+sep) && (name == "" || strings.ContainsAny(name, "=\x00"+sep)):
		return fmt.Errorf("%q is not the name of an environment variable", name)
	case strings.HasPrefix(prefix, "handlers"+sep):
		return checkReserved(name)
	}
	return nil
}

// reservedEnv are the names of variables that no handler is given from the
// configuration: the protocol's and go-plugin's.
var reservedEnv = []string{"PGQRSD_", "PLUGIN_"}

func checkReserved(name string) error {
	for _, prefix := range reservedEnv {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%q is reserved: pgqrsd keeps the names that start with %s from handlers; choose another", name, strings.Join(reservedEnv, ", "))
		}
	}
	return nil
}

// convert takes a value as TOML has it. Its errors do not repeat the value,
// which may be a secret, unless it was written for a key that holds none.
func convert(k kind, raw any) (any, error) {
	switch v := raw.(type) {
	case string:
		if k == kindDuration {
			return ParseDuration(v)
		}
		if k == kindString {
			return v, noNUL(v)
		}
	case bool:
		if k == kindBool {
			return v, nil
		}
	case int64:
		if k == kindInt && int64(int(v)) == v {
			return int(v), nil
		}
		if k == kindFloat {
			return float64(v), nil
		}
	case float64:
		if k == kindFloat && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return v, nil
		}
	case []any:
		if k == kindList {
			return stringList(v)
		}
	}
	return nil, fmt.Errorf("must be %s, not %s", k, describe(raw))
}

func stringList(raw []any) ([]string, error) {
	list := make([]string, len(raw))
	for i, item := range raw {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("must be %s; item %d is %s", kindList, i+1, describe(item))
		}
		if err := noNUL(s); err != nil {
			return nil, err
		}
		list[i] = s
	}
	return list, nil
}

func noNUL(s string) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("holds a NUL character")
	}
	return nil
}

func describe(raw any) string {
	switch v := raw.(type) {
	case string:
		return "a string"
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}

// parseText takes a value as an environment variable or a flag has it; a list
// is separated by commas.
func parseText(k kind, text string) (any, error) {
	switch k {
	case kindDuration:
		return ParseDuration(text)
	case kindInt:
		if n, err := strconv.Atoi(text); err == nil {
			return n, nil
		}
	case kindFloat:
		if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
	case kindBool:
		if b, err := strconv.ParseBool(text); err == nil {
			return b, nil
		}
	case kindList:
		var list []string
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	default:
		return text, nil
	}
	return nil, fmt.Errorf("must be %s, not %q", k, text)
}
