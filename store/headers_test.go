package store_test

import (
	"maps"
	"testing"

	"github.com/pgqrs/pgqrsd/store"
)

func TestParseHeaders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		"":                                 nil,
		"null":                             nil,
		`[1]`:                              nil,
		`"x"`:                              nil,
		`{`:                                nil,
		`{}`:                               {},
		`{"a":"b"}`:                        {"a": "b"},
		`{"a":"b","n":1,"o":{"x":[true]}}`: {"a": "b", "n": "1", "o": `{"x":[true]}`},
	} {
		got := store.ParseHeaders([]byte(text))
		if !maps.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("headers %q are %v, want %v", text, got, want)
		}
	}
}
