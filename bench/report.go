package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// The forms of output.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// shown are the figures that the table prints for a contender; JSON has all.
var shown = []string{
	figJobs, figEnqueue, figStartP50, figStartP99, figStartMax, figStartP99Thirds, figDoneP99Thirds, figReadyFirst, figReadyGrowth,
	figWorkflows, figSteps, figStepP50, figStepP99, figCommitP50, figCommitP99, figKeptUp, figStatements, figDaemonCPU, figHandlerCPU, figPeakMemory, figMemoryGrowth,
}

// report is what a run prints.
type report struct {
	Settings    settings           `json:"settings"`
	Experiments []experimentReport `json:"experiments"`
	Rows        []verdict          `json:"rows"`
}

type experimentReport struct {
	Name       string            `json:"name"`
	Contenders []contenderReport `json:"contenders"`
}

type contenderReport struct {
	Name     string    `json:"name"`
	Settings string    `json:"settings"`
	Medians  figures   `json:"medians,omitempty"`
	Rounds   []figures `json:"rounds,omitempty"`
	Skipped  string    `json:"skipped,omitempty"`
	Failures []string  `json:"failures,omitempty"`
}

func (r *report) add(e experiment, o outcome) {
	m := o.medians()
	er := experimentReport{Name: e.name}
	for _, c := range e.contenders {
		er.Contenders = append(er.Contenders, contenderReport{
			Name: c.name, Settings: c.settings, Medians: m[c.name], Rounds: o.rounds[c.name],
			Skipped: o.skipped[c.name], Failures: o.failures[c.name],
		})
	}
	r.Experiments = append(r.Experiments, er)
	for _, row := range e.rows {
		r.Rows = append(r.Rows, row.judge(o, m))
	}
}

// failed names what could not be measured, in whole or in part.
func (r *report) failed() []string {
	var names []string
	for _, e := range r.Experiments {
		for _, c := range e.Contenders {
			if len(c.Failures) > 0 {
				names = append(names, e.Name+"/"+c.Name)
			}
		}
	}
	for _, v := range r.Rows {
		if v.Status == failed {
			names = append(names, v.Name)
		}
	}
	return names
}

func (r *report) write(w io.Writer, form string) error {
	if form == outputJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(r)
	}
	var b strings.Builder
	r.Settings.print(&b)
	for _, e := range r.Experiments {
		e.print(&b)
	}
	printRows(&b, r.Rows)
	_, err := io.WriteString(w, b.String())
	return err
}

func (s settings) print(b *strings.Builder) {
	fmt.Fprintf(b, "%d cores; medians of %d alternating rounds", s.Cores, s.Rounds)
	if s.Scale != 1 {
		fmt.Fprintf(b, ", scale %v", s.Scale)
	}
	b.WriteString("\n")
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(s.Versions)) {
		versions = append(versions, name+" "+s.Versions[name])
	}
	fmt.Fprintln(b, strings.Join(versions, ", "))
	var server []string
	for _, name := range serverSettings {
		server = append(server, name+" "+s.Postgres[name])
	}
	fmt.Fprintf(b, "PostgreSQL %s: %s\n", s.Postgres["server_version"], strings.Join(server, ", "))
	for _, warning := range s.Warnings {
		fmt.Fprintln(b, "WARNING:", warning)
	}
}

func (e experimentReport) print(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s\n", strings.ToUpper(e.Name))
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  contender\tfigure\tmedian\tleast\tmost\trounds")
	for _, c := range e.Contenders {
		if c.Skipped != "" {
			fmt.Fprintf(w, "  %s\tskipped: %s\n", c.Name, c.Skipped)
		}
		values := byName(c.Rounds)
		for _, name := range shown {
			if v := values[name]; len(v) > 0 {
				least, most := ends(v)
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%d\n", c.Name, name, number(c.Medians[name]), number(least), number(most), len(v))
			}
		}
	}
	_ = w.Flush() // to a strings.Builder
	for _, c := range e.Contenders {
		fmt.Fprintf(b, "  %s: %s\n", c.Name, c.Settings)
		for _, failure := range c.Failures {
			fmt.Fprintf(b, "  %s FAILED in %s\n", c.Name, failure)
		}
	}
}

func printRows(b *strings.Builder, rows []verdict) {
	b.WriteString("\n")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tMEASURED\tTARGET\tAIM\t")
	for _, v := range rows {
		measured, target, aim := "-", "", ""
		if v.Value != nil {
			measured = number(*v.Value) + unitSuffix(v.Unit)
		}
		if v.Bound != none {
			target = fmt.Sprintf("%s %v%s", v.Bound, v.Target, unitSuffix(v.Unit))
		}
		if v.Aim != 0 {
			aim = fmt.Sprint(v.Aim)
		}
		status := v.Status
		if v.Note != "" {
			status += ": " + v.Note
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.What, measured, target, aim, status)
	}
	_ = w.Flush() // to a strings.Builder
}

func unitSuffix(unit string) string {
	if unit == "" || unit == "%" || unit == "/s" {
		return unit
	}
	return " " + unit
}
