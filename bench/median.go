package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// median is NaN of nothing, and the mean of the middle two of an even number.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// medians are each contender's medians over its rounds.
type medians map[string]figures

// of is one contender's figure, NaN where it was not measured.
func (m medians) of(contender, figure string) float64 {
	if v, ok := m[contender][figure]; ok {
		return v
	}
	return math.NaN()
}

func (o outcome) medians() medians {
	m := medians{}
	for contender, rounds := range o.rounds {
		m[contender] = figures{}
		for name, values := range byName(rounds) {
			m[contender][name] = median(values)
		}
	}
	return m
}

// byName gathers each figure's values over the rounds.
func byName(rounds []figures) map[string][]float64 {
	values := map[string][]float64{}
	for _, round := range rounds {
		for name, v := range round {
			values[name] = append(values[name], v)
		}
	}
	return values
}

// A window is what `pgqrsd bench steady` reports of five seconds.
type window struct {
	StartSeconds float64 `json:"start_seconds"`
	Messages     int     `json:"messages"`
	StartP99     float64 `json:"start_p99_ms"`
	DoneP99      float64 `json:"done_p99_ms"`
	Ready        float64 `json:"ready"`
}

// thirds are the medians of pick over the first and the last third of the
// windows. NaN with fewer than three windows.
func thirds(windows []window, pick func(window) float64) (first, last float64) {
	n := len(windows) / 3
	values := func(ws []window) []float64 {
		var v []float64
		for _, w := range ws {
			v = append(v, pick(w))
		}
		return v
	}
	return median(values(windows[:n])), median(values(windows[len(windows)-n:]))
}

// String is for progress: the main figures, in order of name.
func (f figures) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if slices.Contains(shown, name) {
			parts = append(parts, name+" "+number(f[name]))
		}
	}
	return strings.Join(parts, ", ")
}

// number prints as many digits as matter, with commas between thousands.
func number(v float64) string {
	abs := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "-"
	case abs >= 1000:
		return commas(strconv.FormatFloat(math.Round(v), 'f', 0, 64))
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func commas(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// ends are the least and the most of what the rounds gave.
func ends(values []float64) (least, most float64) {
	return slices.MinFunc(values, cmp.Compare[float64]), slices.MaxFunc(values, cmp.Compare[float64])
}
