package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name, payload string
		rule          string // "" is valid
		detail        string // part of what the error says
	}{
		{"object", `{"a":1}`, "", ""},
		{"scalars", `[null,true,false,0,-0,1.5e3,"x"]`, "", ""},
		{"white space around", " \t\r\n{} \n", "", ""},
		{"duplicate keys", `{"a":1,"a":2}`, "", ""},
		{"escapes", `"\"\\\/\b\f\n\r\t\u0041"`, "", ""},
		{"surrogate pair", `"\ud83d\ude00"`, "", ""},
		{"surrogate pair after text", `"abc \uD83D\uDE00 def"`, "", ""},
		{"two surrogate pairs", `"\ud83d\ude00\ud83d\ude00"`, "", ""},
		{"escaped backslash before u", `"\\u0000 \\ud800"`, "", ""},
		{"raw characters beyond the first plane", `"😀 ￿"`, "", ""},
		{"DEL", "\"\x7f\"", "", ""},

		{"empty", ``, RuleJSON, "empty"},
		{"only white space", " \n", RuleJSON, "empty"},
		{"word", `hello`, RuleJSON, "byte 1"},
		{"two values", `{} {}`, RuleJSON, "byte 4"},
		{"trailing comma", `[1,]`, RuleJSON, "byte 4"},
		{"unclosed string", `"abc`, RuleJSON, "unexpected end"},
		{"unclosed string with a backslash at the end", `"abc\`, RuleJSON, "byte 5"},
		{"unclosed object", `{"a":1`, RuleJSON, "unexpected end"},
		{"more closed than opened", `]]]]`, RuleJSON, "byte 1"},
		{"single quotes", `'a'`, RuleJSON, "byte 1"},
		{"NaN", `NaN`, RuleJSON, "byte 1"},
		{"leading zero", `01`, RuleJSON, "byte 2"},
		{"plus sign", `+1`, RuleJSON, "byte 1"},
		{"bare minus", `-`, RuleJSON, "numeric literal"},
		{"no fraction", `1.`, RuleJSON, "decimal point"},
		{"unknown escape", `"\x41"`, RuleJSON, "byte 3"},
		{"short unicode escape", `"\u00"`, RuleJSON, ""},
		{"raw newline in a string", "\"a\nb\"", RuleJSON, ""},
		{"raw NUL in a string", "\"a\x00b\"", RuleJSON, ""},
		{"byte order mark", "\ufeff{}", RuleJSON, ""},
		{"invalid UTF-8", "\"\xff\"", RuleJSON, "UTF-8"},
		{"UTF-8 of half a surrogate pair", "\"\xed\xa0\x80\"", RuleJSON, "UTF-8"},
		{"UTF-8 cut short", "\"\xc3\"", RuleJSON, "UTF-8"},
		{"overlong UTF-8", "\"\xc0\xaf\"", RuleJSON, "UTF-8"},

		{"NUL", `"a\u0000b"`, RuleNUL, "byte 0"},
		{"NUL in a key", `{"x":{"a\u0000":1}}`, RuleNUL, "byte 6"},
		{"NUL after a pair", `"\ud83d\ude00\u0000"`, RuleNUL, ""},
		{"high half alone", `"\ud800"`, RuleSurrogate, `\ud800`},
		{"high half before text", `"\udbffabcdefgh"`, RuleSurrogate, `\udbff`},
		{"high half before an escape", `"\ud800\n12345"`, RuleSurrogate, `\ud800`},
		{"high half before another", `"\ud800\ud800"`, RuleSurrogate, `\ud800`},
		{"high half before a usual character", `"\ud800\u0041"`, RuleSurrogate, `\ud800`},
		{"low half alone", `"\udfff"`, RuleSurrogate, `\udfff`},
		{"low half before high", `"\ude00\ud83d"`, RuleSurrogate, `\ude00`},
		{"pair and a half", `"\ud83d\ude00\ud83d"`, RuleSurrogate, `\ud83d`},
		{"half in a key", `{"\udc00":1}`, RuleSurrogate, "byte 1"},

		{"largest", `1.7976931348623157e308`, "", ""},
		{"smallest", `5e-324`, "", ""},
		{"zero with an exponent", `[0e400000,0.000E-999999,-0e1]`, "", ""},
		{"many digits", strings.Repeat("9", 299), "", ""},
		{"many digits of a fraction", "0." + strings.Repeat("0", 500) + "1e300", "", ""},
		{"long but in range", strings.Repeat("9", 308), "", ""},
		{"too large", `1e400000`, RuleNumberRange, "1e400000 at byte 0"},
		{"too large by its exponent", `[1, 1e309]`, RuleNumberRange, "1e309 at byte 4"},
		{"too large and negative", `-1.8e308`, RuleNumberRange, ""},
		{"too large without an exponent", strings.Repeat("9", 310), RuleNumberRange, "..."},
		{"too small", `1e-400`, RuleNumberRange, ""},
		{"too small without an exponent", "0." + strings.Repeat("0", 400) + "1", RuleNumberRange, "..."},
		{"huge exponent", `1e99999999999999999999`, RuleNumberRange, ""},

		{"deepest", strings.Repeat("[", DefaultMaxDepth) + strings.Repeat("]", DefaultMaxDepth), "", ""},
		{"wide, not deep", "[" + strings.Repeat("[],", 1000) + "{}]", "", ""},
		{"brackets in a string", `"` + strings.Repeat(`[{\"`, 1000) + `"`, "", ""},
		{"too deep", strings.Repeat("[", DefaultMaxDepth+1) + strings.Repeat("]", DefaultMaxDepth+1), RuleMaxDepth, "byte 64"},
		{"too deep, mixed", strings.Repeat(`{"a":[`, 33), RuleMaxDepth, "deeper than 64"},
		{"deeper than a decoder goes", strings.Repeat("[", 1000000), RuleMaxDepth, ""},
		{"largest string", `"` + strings.Repeat("x", DefaultMaxPayloadBytes-2) + `"`, "", ""},
		{"too large a payload", `"` + strings.Repeat("x", DefaultMaxPayloadBytes-1) + `"`, RuleMaxBytes, "1048577 bytes, the limit is 1048576"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkRule(t, DefaultValidator.Validate([]byte(tt.payload)), tt.rule, tt.detail)
		})
	}
}

// checkRule checks that err is the rule's and says the detail; no rule is no error.
func checkRule(t *testing.T, err error, rule, detail string) {
	t.Helper()
	if rule == "" {
		if err != nil {
			t.Fatalf("a valid payload is refused: %v", err)
		}
		return
	}
	broken, found := errors.AsType[*PayloadError](err)
	if !found {
		t.Fatalf("error is %v, want a *PayloadError of rule %s", err, rule)
	}
	if broken.Rule != rule || !strings.Contains(broken.Detail, detail) {
		t.Fatalf("error is %v; want rule %s and %q in it", err, rule, detail)
	}
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("%v is not ErrInvalid", err)
	}
	if len(err.Error()) > 200 {
		t.Fatalf("the error repeats the payload: %d bytes", len(err.Error()))
	}
}

func TestValidatorLimits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		v       Validator
		payload string
		rule    string
	}{
		{"bytes at the limit", Validator{MaxBytes: 5}, `"abc"`, ""},
		{"bytes above it", Validator{MaxBytes: 5}, `"abcd"`, RuleMaxBytes},
		{"bytes above the default", Validator{MaxBytes: 2 << 20}, `"` + strings.Repeat("x", 1<<20) + `"`, ""},
		{"depth at the limit", Validator{MaxDepth: 2}, `{"a":[1]}`, ""},
		{"depth above it", Validator{MaxDepth: 2}, `{"a":[{}]}`, RuleMaxDepth},
		{"depth of a scalar", Validator{MaxDepth: 1}, `1`, ""},
		{"string at the limit", Validator{MaxString: 3}, `{"abc":"äb"}`, ""},
		{"string above it", Validator{MaxString: 3}, `"abcd"`, RuleMaxString},
		{"key above it", Validator{MaxString: 3}, `{"abcd":1}`, RuleMaxString},
		{"escapes count as written", Validator{MaxString: 3}, `"\n\n"`, RuleMaxString},

		{"forbidden key", Validator{ForbiddenKeys: []string{"pw"}}, `{"pw":1}`, RuleForbiddenKey},
		{"forbidden key deep down", Validator{ForbiddenKeys: []string{"x", "pw"}}, `[{"a":[{"pw" : 1}]}]`, RuleForbiddenKey},
		{"forbidden key in disguise", Validator{ForbiddenKeys: []string{"pw"}}, `{"\u0070w":1}`, RuleForbiddenKey},
		{"forbidden key with white space after it", Validator{ForbiddenKeys: []string{"pw"}}, "{\"pw\"\t\r\n :1}", RuleForbiddenKey},
		{"forbidden word as a value", Validator{ForbiddenKeys: []string{"pw"}}, `{"a":"pw","b":["pw"]}`, ""},
		{"forbidden word in a value with a colon", Validator{ForbiddenKeys: []string{"pw"}}, `["pw\":",":pw"]`, ""},
		{"case matters", Validator{ForbiddenKeys: []string{"pw"}}, `{"PW":1}`, ""},

		{"required key", Validator{RequiredKeys: []string{"id"}}, ` {"a":1, "id":null}`, ""},
		{"required keys", Validator{RequiredKeys: []string{"id", "a"}}, `{"a":1,"id":2}`, ""},
		{"required key in disguise", Validator{RequiredKeys: []string{"id"}}, `{"\u0069d":1}`, ""},
		{"required key missing", Validator{RequiredKeys: []string{"id", "b"}}, `{"a":1,"id":2}`, RuleRequiredKey},
		{"required key only deep down", Validator{RequiredKeys: []string{"id"}}, `{"a":{"id":1}}`, RuleRequiredKey},
		{"required key only in an array", Validator{RequiredKeys: []string{"id"}}, `[{"id":1}]`, RuleRequiredKey},
		{"required key as a value", Validator{RequiredKeys: []string{"id"}}, `{"a":"id"}`, RuleRequiredKey},
		{"required key of a scalar", Validator{RequiredKeys: []string{"id"}}, `"id"`, RuleRequiredKey},
		{"required key of nothing", Validator{RequiredKeys: []string{"id"}}, `{}`, RuleRequiredKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkRule(t, tt.v.Validate([]byte(tt.payload)), tt.rule, "")
		})
	}
}

// FuzzValidate compares the validator with encoding/json: a payload is accepted
// if and only if encoding/json finds that it breaks no rule, and the rule that
// a refusal names is one that encoding/json finds broken.
func FuzzValidate(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,2.5e3,"x\u0041"],"b":null}`, `"\ud83d\ude00"`, `"\ud800"`, `"\u0000"`, `1e400000`, `1e-999`,
		`[[[[]]]]`, ` {} `, `{"a":1}x`, `"abc\`, `]`, "\"\xff\"", `{"pw":{"id":1}}`, `"\\u0000"`, `-0`,
		`"\ud800\ud83d\ude00"`, `{"a":1e-999,"a":1}`, "\"\ufffd\\ufffd\"", `0e999`, strings.Repeat("[", 70),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := string(in)
		err := DefaultValidator.Validate(in)
		if string(in) != before {
			t.Fatal("the payload was changed")
		}
		want := brokenRules(in)
		if err == nil {
			if len(want) > 0 {
				t.Fatalf("accepted %q, which breaks %v", in, want)
			}
			return
		}
		broken, found := errors.AsType[*PayloadError](err)
		if !found {
			t.Fatalf("error is %T", err)
		}
		// Depth is looked at before syntax, so that it protects the decoder.
		deepNoise := broken.Rule == RuleMaxDepth && slices.Contains(want, RuleJSON) &&
			bytes.Count(in, []byte("["))+bytes.Count(in, []byte("{")) > DefaultMaxDepth
		if !slices.Contains(want, broken.Rule) && !deepNoise {
			t.Fatalf("refused %q: %v; encoding/json finds %v broken", in, err, want)
		}
	})
}

// brokenRules finds with encoding/json which rules a payload breaks.
func brokenRules(in []byte) []string {
	if len(in) > DefaultMaxPayloadBytes {
		return []string{RuleMaxBytes}
	}
	if !utf8.Valid(in) || !json.Valid(in) {
		return []string{RuleJSON}
	}
	var broken []string
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.UseNumber()
	depth, replaced := 0, 0
	for {
		token, err := dec.Token()
		if err != nil {
			break
		}
		switch token := token.(type) {
		case json.Delim:
			if token == '{' || token == '[' {
				depth++
			} else {
				depth--
			}
			if depth > DefaultMaxDepth {
				broken = append(broken, RuleMaxDepth)
			}
		case json.Number:
			f, err := token.Float64()
			mantissa, _, _ := strings.Cut(strings.ToLower(token.String()), "e")
			if err != nil || (f == 0 && strings.Trim(mantissa, "-0.") != "") {
				broken = append(broken, RuleNumberRange)
			}
		case string:
			replaced += strings.Count(token, "\uFFFD")
			if strings.Contains(token, "\x00") {
				broken = append(broken, RuleNUL)
			}
		}
	}
	// A decoder puts U+FFFD where it finds half a surrogate pair.
	escapes := strings.ToLower(strings.ReplaceAll(string(in), `\\`, ""))
	given := strings.Count(string(in), "\uFFFD") + strings.Count(escapes, `\ufffd`)
	if replaced > given {
		broken = append(broken, RuleSurrogate)
	}
	return broken
}

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{200, 64 << 10} {
		payload := []byte(`{"path":"/usr/local/go/src/net/http/server.go","n":[1,2,3.5],"text":"`)
		payload = append(payload, strings.Repeat(`line\n`, (n-len(payload))/6)...)
		payload = append(payload, `"}`...)
		b.Run(fmt.Sprintf("%dB", n), func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if err := DefaultValidator.Validate(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
