package main

import (
	"strings"
	"testing"
	"time"
)

func TestTableIsCutToWidth(t *testing.T) {
	var b strings.Builder
	cols := []column{{head: "ID", right: true}, {head: "NAME", flex: true}, {head: "STATE"}, {head: "PAYLOAD", flex: true}}
	err := writeTable(&b, cols, [][]string{
		{"1", "short", "ready", `{"a": 1}`},
		{"1234567", strings.Repeat("n", 60), "leased", strings.Repeat("é", 200)},
		{"8", "", "done", "two\nlines\tand \x1b[31mcolour\x00 \xff"},
	})
	if err != nil {
		t.Fatal(err)
	}
	(&cli{T: t}).fits(b.String())
	lines := strings.Split(b.String(), "\n")
	want := []string{
		"     ID  NAME                            STATE   PAYLOAD",
		`      1  short                           ready   {"a": 1}`,
		"1234567  " + strings.Repeat("n", 29) + "…  leased  " + strings.Repeat("é", 30) + "…",
		"      8                                  done    two lines and �[31mcolour� �",
	}
	for i := range want {
		if lines[i] != want[i] {
			t.Errorf("line %d is\n%q, want\n%q", i, lines[i], want[i])
		}
	}
}

func TestTableWithoutRoomStaysWhole(t *testing.T) {
	var b strings.Builder
	long := strings.Repeat("x", 90)
	if err := writeTable(&b, []column{{head: "A"}}, [][]string{{long}}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "A\n"+long+"\n" {
		t.Errorf("got %q", b.String())
	}
}

func TestNotesAreWrapped(t *testing.T) {
	var b strings.Builder
	long := strings.Repeat("x", 100)
	notes := []string{"error: " + strings.Repeat("words ", 20) + "\n\n\tat é\x1b " + long, "", "error: short"}
	if err := writeNotedTable(&b, []column{{head: "A"}}, [][]string{{"1"}, {"2"}, {"3"}}, notes); err != nil {
		t.Fatal(err)
	}
	(&cli{T: t}).fits(b.String())
	want := "A\n1\n" +
		"    error: " + strings.TrimSpace(strings.Repeat("words ", 11)) + "\n" +
		"    " + strings.TrimSpace(strings.Repeat("words ", 9)) + "\n" +
		"    at é�\n    " + long[:76] + "\n    " + long[76:] + "\n" +
		"2\n3\n    error: short\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 12_345 * time.Microsecond: "12ms", 1500 * time.Millisecond: "1s", 90 * time.Second: "1m30s",
		10*time.Minute + 3*time.Second: "10m", 119 * time.Minute: "1h59m", 3*time.Hour + 5*time.Minute: "3h",
		47 * time.Hour: "47h", 10*24*time.Hour + time.Hour: "10d", -3 * time.Hour: "-3h",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}
