package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress shows what a long command is doing: on a terminal one line that is
// written over, elsewhere a line every few seconds.
type progress struct {
	out      io.Writer
	terminal bool
	shown    time.Time
	dirty    bool // the line on the terminal holds something
}

// How often progress is shown.
const (
	progressTerminal = 200 * time.Millisecond
	progressLine     = 5 * time.Second
)

// eraseLine returns to the beginning of a terminal's line and empties it.
const eraseLine = "\r\x1b[K"

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// show shows a line, unless the last one is too new.
func (p *progress) show(line string) {
	every := progressLine
	if p.terminal {
		every = progressTerminal
	}
	if time.Since(p.shown) < every {
		return
	}
	p.shown = time.Now()
	if !p.terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	fmt.Fprint(p.out, eraseLine+cut(line, maxWidth))
	p.dirty = true
}

// say prints a line that stays.
func (p *progress) say(line string) {
	p.clear()
	fmt.Fprintln(p.out, "pgqrsd: "+line)
}

// clear empties the terminal's line.
func (p *progress) clear() {
	if p.dirty {
		fmt.Fprint(p.out, eraseLine)
		p.dirty = false
	}
}
