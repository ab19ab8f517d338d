package host

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	// heldLines is how many lines are held while a process starts. They are
	// logged once it serves; if it is refused, the last ones are its reason.
	heldLines = 20
	// panicLines is how much of a panic's trace is logged, in lines.
	panicLines = 100
)

// output takes the lines that a process writes to stdout and stderr.
type output struct {
	log       *slog.Logger
	handshake func(line string) // gets the first line of stdout

	mu       sync.Mutex
	first    *string // the first line of stdout
	held     []outputLine
	left     int // how many lines were not held
	released bool
	panicked string // the line that begins a panic
	traced   int    // lines since then
}

type outputLine struct {
	stream, text string
}

func newOutput(log *slog.Logger, handshake func(string)) *output {
	return &output{log: log, handshake: handshake}
}

// splitter returns a writer of lines to the stream of that name.
func (o *output) splitter(stream string) *lineSplitter {
	return &lineSplitter{fn: func(line []byte, cut bool) { o.line(stream, line, cut) }}
}

// stdout is splitter for the real stdout, whose first line is the handshake.
func (o *output) stdout() *lineSplitter {
	first := true
	return &lineSplitter{fn: func(line []byte, cut bool) {
		if !first {
			o.line("stdout", line, cut)
			return
		}
		first = false
		text := string(line)
		o.mu.Lock()
		o.first = &text
		o.mu.Unlock()
		o.handshake(text)
	}}
}

func (o *output) line(stream string, line []byte, cut bool) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	text := cleanText(string(line))
	if cut {
		text += " ... (line cut)"
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.panicked != "" {
		if o.traced++; o.traced > panicLines {
			return
		}
	} else if strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") {
		o.panicked = text
	}
	if o.released {
		o.write(outputLine{stream, text})
		return
	}
	if len(o.held) == heldLines {
		o.held = append(o.held[:0], o.held[1:]...)
		o.left++
	}
	o.held = append(o.held, outputLine{stream, text})
}

// release logs what was held; from now on lines are logged as they come.
func (o *output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left > 0 {
		o.log.Info("lines of the handler's start were left out", "lines", o.left)
	}
	for _, l := range o.held {
		o.write(l)
	}
	o.held, o.released = nil, true
}

// write logs one line. Lines of go-plugin's own logger have their level inside.
func (o *output) write(l outputLine) {
	level, text := slog.LevelInfo, l.text
	if o.panicked != "" {
		level = slog.LevelWarn
	}
	if strings.HasPrefix(text, `{"@`) {
		var h struct {
			Level   string `json:"@level"`
			Message string `json:"@message"`
		}
		if json.Unmarshal([]byte(text), &h) == nil && h.Message != "" {
			level, text = hclogLevel(h.Level), h.Message
		}
	}
	o.log.Log(context.Background(), level, text, "stream", l.stream)
}

func hclogLevel(level string) slog.Level {
	switch level {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// firstLine returns the first line of stdout, if there was one.
func (o *output) firstLine() (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first == nil {
		return "", false
	}
	return *o.first, true
}

// said returns what a process that failed to start wrote to stderr last, or
// the beginning of its panic, to be added to an error; empty if nothing.
func (o *output) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.panicked != "" {
		return "; it said: " + short(o.panicked)
	}
	var parts []string
	for _, l := range o.held {
		if l.stream == "stderr" {
			parts = append(parts, short(l.text))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "; it said: " + short(strings.Join(parts[max(0, len(parts)-3):], " / "))
}

// panicLine returns how a panic that ended the process began; empty if none.
func (o *output) panicLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.panicked
}

// short makes a line fit into another line: printable, and of at most 200
// bytes or a few more.
func short(s string) string { return printable(s, 200) }

func quoteShort(s string) string { return `"` + printable(s, 50) + `"` }

func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= limit {
			b.WriteString("...")
			break
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
