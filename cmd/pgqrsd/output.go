package main

import (
	"strings"
	"time"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/internal/view"
)

func (a *app) json() bool { return a.output == "json" }

// printJSON prints v on standard output.
func (a *app) printJSON(v any) error { return view.Encode(a.out, v, "  ") }

// printTable prints a table, or says on standard error that there is nothing
// to show: what names it.
func (a *app) printTable(what string, cols []column, rows [][]string) error {
	if len(rows) == 0 {
		a.say("no %s", what)
		return nil
	}
	return writeTable(a.out, cols, rows)
}

// printFields prints one object as lines of name and value. Values are not cut.
func (a *app) printFields(fields [][2]string) error {
	var b strings.Builder
	width := 0
	for _, f := range fields {
		width = max(width, len(f[0]))
	}
	for _, f := range fields {
		if f[1] == "" {
			continue
		}
		b.WriteString(f[0] + ":" + strings.Repeat(" ", width-len(f[0])+1))
		// The lines of a stack or a long error stand below each other.
		b.WriteString(strings.ReplaceAll(printable(f[1]), "\n", "\n"+strings.Repeat(" ", width+2)))
		b.WriteByte('\n')
	}
	_, err := a.out.Write([]byte(b.String()))
	return err
}

// age is a duration for people, in its largest unit.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + age(-d)
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 2*time.Minute:
		return d.Truncate(time.Second).String()
	case d < 2*time.Hour:
		return config.FormatDuration(d.Truncate(time.Minute))
	case d < 48*time.Hour:
		return config.FormatDuration(d.Truncate(time.Hour))
	default:
		return config.FormatDuration(d.Truncate(24 * time.Hour))
	}
}

// since is the age of a time; empty for none. The machine's clock is near
// enough to the database's for a person.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(max(0, time.Since(t)))
}

// until is the time that is left; empty for none.
func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(max(0, time.Until(t)))
}

// moment is a time in full, with its age.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	text := t.UTC().Format("2006-01-02 15:04:05.000Z")
	if d := time.Since(t); d >= 0 {
		return text + " (" + age(d) + " ago)"
	}
	return text + " (in " + until(t) + ")"
}
