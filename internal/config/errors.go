package config

import (
	"fmt"
	"strings"
)

// Error is what is wrong with a configuration: every problem that was found.
type Error struct {
	Problems []Problem
}

// Problem is one fault of a configuration.
type Problem struct {
	// Source says where it stands: a file with its line, an environment
	// variable or a flag.
	Source string
	// Key is the dotted key; empty when the file could not be parsed at all.
	Key string
	// Text says what is wrong and how it should be.
	Text string
}

func (p Problem) String() string {
	if p.Key == "" {
		return fmt.Sprintf("%s: %s", p.Source, p.Text)
	}
	return fmt.Sprintf("%s: %s: %s", p.Source, p.Key, p.Text)
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
