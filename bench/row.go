package main

import (
	"math"
	"strings"
)

// A row is one line of the table of targets: a number made of the contenders'
// medians, and the bound that it must keep.
type row struct {
	name string
	what string
	unit string
	goal goal
	// needs names the contenders that the number is made of.
	needs []string
	value func(m medians) float64
}

// A goal is what a row's number must be. A zero aim is none; a row without a
// bound is only reported.
type goal struct {
	bound bound
	limit float64
	aim   float64
}

type bound string

const (
	none    bound = ""
	atLeast bound = "at least"
	atMost  bound = "at most"
	under   bound = "under"
)

func (g goal) met(v float64) bool {
	switch g.bound {
	case atLeast:
		return v >= g.limit
	case atMost:
		return v <= g.limit
	case under:
		return v < g.limit
	default:
		return true
	}
}

// The verdicts.
const (
	pass     = "pass"
	short    = "short"
	informal = "-" // a row without a bound
	skipped  = "skipped"
	failed   = "failed"
)

// A verdict is a row with its number.
type verdict struct {
	Name  string `json:"name"`
	What  string `json:"what"`
	Unit  string `json:"unit,omitempty"`
	Bound bound  `json:"bound,omitempty"`
	// Value is absent where it could not be measured.
	Value  *float64 `json:"value,omitempty"`
	Target float64  `json:"target,omitempty"`
	Aim    float64  `json:"aim,omitempty"`
	Status string   `json:"status"`
	Note   string   `json:"note,omitempty"`
}

func (r row) judge(o outcome, m medians) verdict {
	v := verdict{Name: r.name, What: r.what, Unit: r.unit, Bound: r.goal.bound, Target: r.goal.limit, Aim: r.goal.aim}
	for _, c := range r.needs {
		if reason := o.skipped[c]; reason != "" {
			v.Status, v.Note = skipped, c+": "+reason
			return v
		}
	}
	value := r.value(m)
	if math.IsNaN(value) || math.IsInf(value, 0) {
		v.Status, v.Note = failed, r.missing(o)
		return v
	}
	v.Value = &value
	switch {
	case r.goal.bound == none:
		v.Status = informal
	case r.goal.met(value):
		v.Status = pass
	default:
		v.Status = short
	}
	return v
}

// missing says why a row has no number.
func (r row) missing(o outcome) string {
	for _, c := range r.needs {
		if f := o.failures[c]; len(f) > 0 {
			return c + ": " + strings.Join(strings.Fields(f[0]), " ") // one line of a table
		}
		if len(o.rounds[c]) == 0 {
			return c + ": not measured"
		}
	}
	return "a figure that it needs is missing"
}

// ratio is one contender's figure as a multiple of another's.
func ratio(figure, of, to string) func(medians) float64 {
	return func(m medians) float64 { return m.of(of, figure) / m.of(to, figure) }
}

// figure is one contender's figure itself.
func figure(contender, name string) func(medians) float64 {
	return func(m medians) float64 { return m.of(contender, name) }
}
