package config

import (
	"strings"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "500ms": 500 * time.Millisecond, "90s": 90 * time.Second, "1h30m": 90 * time.Minute,
		"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "-2d": -48 * time.Hour, "-1d1h": -25 * time.Hour,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %s, %v; want %s", text, got, err, want)
		}
		back, err := ParseDuration(FormatDuration(got))
		if err != nil || back != got {
			t.Errorf("FormatDuration(%s) = %q, which reads back as %s, %v", got, FormatDuration(got), back, err)
		}
	}
	for _, text := range []string{"", "30", "d", "1.5d", "1d30h", "1d-1h", "9999999999d", "five minutes", "1d2d"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", text, d)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 5 * time.Minute: "5m", 90 * time.Minute: "1h30m", 2 * time.Hour: "2h", 168 * time.Hour: "7d", 90 * time.Second: "1m30s",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestMaskDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"sqlite:pgqrs.db":                                 "sqlite:pgqrs.db",
		"postgres://host/db":                              "postgres://host/db",
		"postgres://host:5432/db":                         "postgres://host:5432/db",
		"postgres://user@host:5432/db":                    "postgres://user@host:5432/db",
		"postgres://user:secret@host:5432/db?sslmode=off": "postgres://user:*****@host:5432/db?sslmode=off",
		"postgres://user:se@cr/et?@host/db":               "postgres://user:*****@host/db",
		"postgres://user:12/secret@host/db":               "postgres://user:*****@host/db",
		"postgres:///db?user=u&password=secret&a=b":       "postgres:///db?user=u&password=*****&a=b",
		"postgres:///db?sslpassword=secret":               "postgres:///db?sslpassword=*****",
		"host=h password=secret dbname=d":                 "host=h password=***** dbname=d",
		`host=h PASSWORD = 'it\'s secret' dbname=d`:       `host=h PASSWORD = ***** dbname=d`,
		`password=se\ cret dbname=d`:                      `password=***** dbname=d`,
		"password='secret not closed":                     "password=*****",
	} {
		if got := MaskDSN(dsn); got != want {
			t.Errorf("MaskDSN(%q) = %q, want %q", dsn, got, want)
		} else if strings.Contains(got, "secret") {
			t.Errorf("MaskDSN(%q) = %q shows the password", dsn, got)
		}
	}
}
