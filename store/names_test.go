package store

import (
	"slices"
	"strings"
	"testing"
)

func TestValidateQueueName(t *testing.T) {
	for _, name := range []string{"a", "A", "0", "_", "mail", "mail.out", "a-b_c.d:e", "_a", "9lives", strings.Repeat("a", MaxQueueName)} {
		refused(t, ValidateQueueName(name), "")
	}
	for name, detail := range map[string]string{
		"":                                    "empty",
		"-a":                                  `"-a"`,
		".a":                                  `".a"`,
		":a":                                  `":a"`,
		"a b":                                 `"a b"`,
		"a/b":                                 `"a/b"`,
		"a\x00":                               `"a\x00"`,
		"é":                                   `"é"`,
		"a\n":                                 `"a\n"`,
		"a;drop":                              "letters, digits",
		`a"`:                                  "letters, digits",
		strings.Repeat("a", MaxQueueName+1):   "129 bytes long, the limit is 128",
		strings.Repeat("é", MaxQueueName/2+1): "130 bytes long",
	} {
		refused(t, ValidateQueueName(name), detail)
	}
}

func TestNearNames(t *testing.T) {
	names := []string{"census", "censor", "mail", "mail.out", "mail-in", "webhook", "a", "b", "Reports"}
	for _, tt := range []struct {
		name string
		want []string
	}{
		{"census", []string{"census", "censor"}},
		{"censu", []string{"census", "censor"}},
		{"Census", []string{"census", "censor"}},
		{"reports", []string{"Reports"}},
		{"webhok", []string{"webhook"}},
		{"webhooks", []string{"webhook"}},
		{"wbehook", []string{"webhook"}},
		{"mail", []string{"mail", "mail-in", "mail.out"}},
		{"mai", []string{"mail", "mail-in", "mail.out"}},
		{"MAI", []string{"mail", "mail-in", "mail.out"}},
		{"completely.other", nil},
		{"c", nil}, // nothing in common
		{"A", []string{"a"}},
		{"ab", []string{"a", "b"}},
		{"x9", nil},
		{"", nil},
		{"\xff\xfe", nil},
	} {
		if got := NearNames(tt.name, names); !slices.Equal(got, tt.want) {
			t.Errorf("near %q are %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := NearNames("q", nil); got != nil {
		t.Errorf("near in nothing are %q", got)
	}
}

func TestNearNamesAreFewAndNearestFirst(t *testing.T) {
	got := NearNames("queue-1", []string{"queue-99", "queue-12", "queue-2", "queue-3", "queue-1"})
	if want := []string{"queue-1", "queue-12", "queue-2"}; !slices.Equal(got, want) {
		t.Errorf("near are %q, want %q", got, want)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "abd", 1},
		{"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"ab", "ba", 1}, {"abcdef", "xabcde", 2},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance of %q and %q is %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("distance of %q and %q is %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}
