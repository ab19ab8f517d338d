package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The rules of a Validator, as PayloadError.Rule names them.
const (
	RuleJSON         = "json"          // not JSON, or not valid UTF-8
	RuleMaxBytes     = "max_bytes"     // too large
	RuleMaxDepth     = "max_depth"     // nested too deep
	RuleMaxString    = "max_string"    // a string is too long
	RuleNUL          = "no_nul"        // a string holds \u0000
	RuleSurrogate    = "surrogate"     // a string holds half a surrogate pair
	RuleNumberRange  = "number_range"  // a number does not fit a float64
	RuleForbiddenKey = "forbidden_key" // an object has a forbidden key
	RuleRequiredKey  = "required_key"  // the payload lacks a required key
)

// Default limits of a Validator.
const (
	DefaultMaxPayloadBytes = 1 << 20
	DefaultMaxDepth        = 64
)

// Validator checks payloads. One validator serves all backends, so that what
// one keeps the others keep too: PostgreSQL's jsonb can hold neither NUL nor
// half a surrogate pair, and few programs can read a number beyond float64.
// The zero value applies the defaults. Safe for concurrent use once made.
type Validator struct {
	// MaxBytes limits the payload's length; 0 is DefaultMaxPayloadBytes.
	MaxBytes int
	// MaxDepth limits the nesting of arrays and objects; 0 is DefaultMaxDepth.
	MaxDepth int
	// MaxString limits the bytes of one string as written; 0 is no limit but MaxBytes.
	MaxString int
	// ForbiddenKeys may stand in no object at any depth.
	ForbiddenKeys []string
	// RequiredKeys must stand in the payload, which must then be an object.
	RequiredKeys []string
}

// DefaultValidator applies the default limits.
var DefaultValidator = &Validator{}

// Validate returns a *PayloadError for the first rule that payload breaks.
func (v *Validator) Validate(payload []byte) error {
	if limit := orDefault(v.MaxBytes, DefaultMaxPayloadBytes); len(payload) > limit {
		return &PayloadError{Rule: RuleMaxBytes, Detail: fmt.Sprintf("%d bytes, the limit is %d", len(payload), limit)}
	}
	// Depth comes before syntax: it is what protects the decoder.
	s := scanner{v: v, in: payload, maxDepth: orDefault(v.MaxDepth, DefaultMaxDepth)}
	if err := s.checkDepth(); err != nil {
		return err
	}
	if len(bytes.TrimSpace(payload)) == 0 {
		return &PayloadError{Rule: RuleJSON, Detail: "empty"}
	}
	if !utf8.Valid(payload) {
		return &PayloadError{Rule: RuleJSON, Detail: "not valid UTF-8"}
	}
	if !json.Valid(payload) {
		return &PayloadError{Rule: RuleJSON, Detail: syntaxError(payload)}
	}
	if err := s.checkTokens(); err != nil {
		return err
	}
	for _, key := range v.RequiredKeys {
		if !slices.Contains(s.topKeys, key) {
			return &PayloadError{Rule: RuleRequiredKey, Detail: fmt.Sprintf("key %q is missing", key)}
		}
	}
	return nil
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

func syntaxError(payload []byte) string {
	var any json.RawMessage
	err := json.Unmarshal(payload, &any)
	if err == nil {
		return "not JSON"
	}
	if syn, ok := err.(*json.SyntaxError); ok { //nolint:errorlint // Unmarshal returns it bare
		return fmt.Sprintf("%s at byte %d", strings.TrimPrefix(err.Error(), "json: "), syn.Offset)
	}
	return err.Error()
}

// scanner walks the tokens of JSON that is known to be well formed; only
// checkDepth may see anything else.
type scanner struct {
	v        *Validator
	in       []byte
	maxDepth int
	topKeys  []string
}

func (s *scanner) checkDepth() error {
	depth, inString := 0, false
	for i := 0; i < len(s.in); i++ {
		c := s.in[i]
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
		case '{', '[':
			if depth++; depth > s.maxDepth {
				return &PayloadError{Rule: RuleMaxDepth, Detail: fmt.Sprintf("nested deeper than %d at byte %d", s.maxDepth, i)}
			}
		case '}', ']':
			depth--
		}
	}
	return nil
}

func (s *scanner) checkTokens() error {
	depth := 0
	for i := 0; i < len(s.in); {
		switch c := s.in[i]; {
		case c == '{' || c == '[':
			depth++
			i++
		case c == '}' || c == ']':
			depth--
			i++
		case c == '"':
			end := stringEnd(s.in, i)
			if err := s.checkString(s.in[i+1:end-1], i); err != nil {
				return err
			}
			if isKey(s.in, end) {
				if err := s.checkKey(s.in[i:end], depth, i); err != nil {
					return err
				}
			}
			i = end
		case c == '-' || (c >= '0' && c <= '9'):
			end := numberEnd(s.in, i)
			if err := checkNumber(string(s.in[i:end]), i); err != nil {
				return err
			}
			i = end
		default:
			i++
		}
	}
	return nil
}

// stringEnd returns the index after the closing quote of the string at i.
func stringEnd(in []byte, i int) int {
	for i++; in[i] != '"'; i++ {
		if in[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func numberEnd(in []byte, i int) int {
	for i < len(in) && bytes.IndexByte([]byte("+-.eE0123456789"), in[i]) >= 0 {
		i++
	}
	return i
}

// isKey reports whether the string that ends at end is an object's key.
func isKey(in []byte, end int) bool {
	for _, c := range in[end:] {
		switch c {
		case ' ', '\t', '\n', '\r':
		default:
			return c == ':'
		}
	}
	return false
}

func (s *scanner) checkKey(quoted []byte, depth, at int) error {
	if len(s.v.ForbiddenKeys) == 0 && len(s.v.RequiredKeys) == 0 {
		return nil
	}
	var key string
	if err := json.Unmarshal(quoted, &key); err != nil {
		return &PayloadError{Rule: RuleJSON, Detail: err.Error()}
	}
	if slices.Contains(s.v.ForbiddenKeys, key) {
		return &PayloadError{Rule: RuleForbiddenKey, Detail: fmt.Sprintf("key %q at byte %d is forbidden", key, at)}
	}
	if depth == 1 && s.in[firstByte(s.in)] == '{' {
		s.topKeys = append(s.topKeys, key)
	}
	return nil
}

func firstByte(in []byte) int {
	return len(in) - len(bytes.TrimLeft(in, " \t\r\n"))
}

// checkString checks what stands between a string's quotes.
func (s *scanner) checkString(str []byte, at int) error {
	if s.v.MaxString > 0 && len(str) > s.v.MaxString {
		return &PayloadError{Rule: RuleMaxString, Detail: fmt.Sprintf("string of %d bytes at byte %d, the limit is %d", len(str), at, s.v.MaxString)}
	}
	for i := bytes.IndexByte(str, '\\'); i >= 0 && i < len(str); {
		if str[i] != '\\' {
			i++
			continue
		}
		if str[i+1] != 'u' {
			i += 2
			continue
		}
		switch r := hex4(str[i+2:]); {
		case r == 0:
			return &PayloadError{Rule: RuleNUL, Detail: fmt.Sprintf(`\u0000 in the string at byte %d`, at)}
		case r >= 0xD800 && r <= 0xDBFF:
			rest := str[i+6:]
			if len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' || hex4(rest[2:]) < 0xDC00 || hex4(rest[2:]) > 0xDFFF {
				return &PayloadError{Rule: RuleSurrogate, Detail: fmt.Sprintf(`\u%04x without its other half in the string at byte %d`, r, at)}
			}
			i += 12
		case r >= 0xDC00 && r <= 0xDFFF:
			return &PayloadError{Rule: RuleSurrogate, Detail: fmt.Sprintf(`\u%04x without its other half in the string at byte %d`, r, at)}
		default:
			i += 6
		}
	}
	return nil
}

func hex4(b []byte) rune {
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// checkNumber refuses what overflows a float64, and what underflows it to zero.
func checkNumber(num string, at int) error {
	// Short numbers without an exponent always fit.
	if len(num) < 300 && !strings.ContainsAny(num, "eE") {
		return nil
	}
	f, err := strconv.ParseFloat(num, 64)
	mantissa, _, _ := strings.Cut(strings.ToLower(num), "e")
	if err != nil || (f == 0 && strings.ContainsAny(mantissa, "123456789")) {
		if len(num) > 40 {
			num = num[:40] + "..."
		}
		return &PayloadError{Rule: RuleNumberRange, Detail: fmt.Sprintf("%s at byte %d does not fit a float64", num, at)}
	}
	return nil
}
