package config

import (
	"regexp"
	"strings"
)

// Masked stands where a secret was.
const Masked = "*****"

var (
	urlSecret     = regexp.MustCompile(`(?i)([?&](?:ssl)?password=)[^&]*`)
	keywordSecret = regexp.MustCompile(`(?i)(\b(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|[^\s\\])+)`)
)

// MaskDSN is the DSN without its passwords. It reads both forms, URLs and
// keyword=value lists. It would rather mask too much than show a part of a
// password: a DSN that is wrong is the one that gets printed.
func MaskDSN(dsn string) string {
	scheme, rest, isURL := strings.Cut(dsn, "://")
	if !isURL {
		return keywordSecret.ReplaceAllString(dsn, "${1}"+Masked)
	}
	// The last @ ends the user and password, also when they hold characters
	// that should have been escaped.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if colon := strings.IndexByte(rest[:at], ':'); colon >= 0 {
			rest = rest[:colon+1] + Masked + rest[at:]
		}
	}
	return scheme + "://" + urlSecret.ReplaceAllString(rest, "${1}"+Masked)
}
