package main

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWidth is the width of a table, whatever the terminal: output in a ticket
// or a log should read well too.
const maxWidth = 80

// column is a column of a table.
type column struct {
	head string
	// right aligns to the right, for numbers.
	right bool
	// flex lets the column be cut, with an ellipsis, when the table is too wide.
	flex bool
}

const (
	gap     = "  "
	minFlex = 6
)

// writeTable prints rows under their heads, at most maxWidth wide.
func writeTable(w io.Writer, cols []column, rows [][]string) error {
	return writeNotedTable(w, cols, rows, nil)
}

// writeNotedTable is writeTable with a text below each row that has one, whole.
func writeNotedTable(w io.Writer, cols []column, rows [][]string, notes []string) error {
	heads := make([]string, len(cols))
	widths := make([]int, len(cols))
	for i, c := range cols {
		heads[i] = c.head
		widths[i] = utf8.RuneCountInString(c.head)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = oneLine(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	fit(cols, widths)
	var b strings.Builder
	writeRow(&b, cols, widths, heads)
	for i, row := range rows {
		writeRow(&b, cols, widths, row)
		if i < len(notes) {
			writeNote(&b, notes[i])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit narrows the widest flexible column, again and again, until all fit.
func fit(cols []column, widths []int) {
	total := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > maxWidth; total-- {
		widest := -1
		for i, c := range cols {
			if c.flex && widths[i] > minFlex && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

func writeRow(b *strings.Builder, cols []column, widths []int, row []string) {
	var line strings.Builder
	for i, cell := range row {
		if i > 0 {
			line.WriteString(gap)
		}
		cell = cut(cell, widths[i])
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if cols[i].right {
			line.WriteString(pad + cell)
		} else {
			line.WriteString(cell + pad)
		}
	}
	b.WriteString(strings.TrimRight(line.String(), " "))
	b.WriteByte('\n')
}

const noteIndent = "    "

// writeNote prints a text in lines of at most maxWidth. Only words that are
// longer than a line are broken.
func writeNote(b *strings.Builder, note string) {
	const width = maxWidth - len(noteIndent)
	line := make([]rune, 0, width)
	end := func() {
		if len(line) > 0 {
			b.WriteString(noteIndent + string(line) + "\n")
		}
		line = line[:0]
	}
	for text := range strings.SplitSeq(printable(note), "\n") {
		for _, word := range strings.Fields(text) {
			letters := []rune(word)
			if len(line) > 0 && len(line)+1+len(letters) > width {
				end()
			}
			if len(line) > 0 {
				line = append(line, ' ')
			}
			for len(letters) > width {
				line = append(line, letters[:width]...)
				letters = letters[width:]
				end()
			}
			line = append(line, letters...)
		}
		end()
	}
}

// cut shortens s to width characters, the last of which is an ellipsis.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// oneLine is s without line breaks and what else a terminal would act on.
func oneLine(s string) string {
	return printable(strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(s))
}

// printable replaces control characters but line breaks and tabs: payloads and
// errors come from strangers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '�'
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}
