package store

import (
	"cmp"
	"slices"
	"strings"
)

// NearNames returns at most three of names that look like name, nearest first.
// The backends use it to help with a mistyped queue.
func NearNames(name string, names []string) []string {
	type near struct {
		name string
		dist int
	}
	var found []near
	lower := strings.ToLower(name)
	for _, n := range names {
		d, longer := distance(lower, strings.ToLower(n)), max(len(name), len(n))
		// A third of the letters may differ, and one always, but not all.
		alike := d <= max(1, longer/3) && d < longer
		begins := len(name) > 2 && strings.HasPrefix(strings.ToLower(n), lower)
		if alike || begins {
			found = append(found, near{n, d})
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.dist, b.dist), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, f := range found[:min(3, len(found))] {
		out = append(out, f.name)
	}
	return out
}

// distance counts the edits that turn a into b, in bytes: one left out, put in,
// changed, or swapped with its neighbour.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
