package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// walk calls visit for every command that people see but cobra's own help.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && !sub.Hidden {
			walk(sub, visit)
		}
	}
}

func newTestRoot() *cobra.Command {
	var b bytes.Buffer
	return (&app{in: &b, out: &b, err: &b}).newRoot()
}

func TestEveryCommandExplainsItself(t *testing.T) {
	c := &cli{T: t}
	walk(newTestRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" || !strings.Contains(cmd.Example, "pgqrsd") {
			t.Errorf("%s: Short is %q, Example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		help := c.ok(args...)
		if !strings.Contains(cmd.CommandPath(), " completion") { // cobra's own text
			c.fits(strings.ReplaceAll(help, " \n", "\n"))
		}
	})
}

// The examples are command lines that parse.
func TestExamplesParse(t *testing.T) {
	root := newTestRoot()
	walk(root, func(cmd *cobra.Command) {
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			words := shellWords(line[strings.Index(line, "pgqrsd ")+len("pgqrsd "):])
			found, rest, err := root.Find(words)
			if err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			found.InitDefaultHelpFlag()
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
}

// shellWords splits at blanks outside single quotes, up to a redirection.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		part, _, _ = strings.Cut(part, " >")
		words = append(words, strings.Fields(part)...)
	}
	return words
}

func TestEveryCommandIsDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	walk(newTestRoot(), func(cmd *cobra.Command) {
		if cmd.HasSubCommands() || cmd.Parent().Name() == "completion" {
			return
		}
		if !strings.Contains(doc, "`"+cmd.CommandPath()) {
			t.Errorf("docs/cli.md lacks %s", cmd.CommandPath())
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.Contains(doc, "--"+f.Name) {
				t.Errorf("docs/cli.md lacks --%s of %s", f.Name, cmd.CommandPath())
			}
		})
	})
}

func TestUsageErrors(t *testing.T) {
	c := &cli{T: t, global: []string{"--dsn", "sqlite:/nonexistent/x.db"}}
	for line, says := range map[string]string{
		"":                                "pgqrsd needs a command: archive, ",
		"quue":                            `pgqrsd has no command "quue"; did you mean queue?`,
		"queue":                           "pgqrsd queue needs a command: create, ",
		"queue lst":                       `pgqrsd queue has no command "lst"; did you mean list`,
		"queue create":                    "pgqrsd queue create needs the NAME of the queue",
		"queue create a b":                `does not know what to do with "b"`,
		"queue list a":                    `does not know what to do with "a"`,
		"queue list --limit 0":            "--limit must be at least 1",
		"queue list --nope":               "unknown flag: --nope",
		"queue create a --retention soon": `"soon" is not a duration`,
		"queue create a --max-attempts x": "--max-attempts",
		"message get x":                   `"x" is not the id of a message`,
		"message get 0":                   `"0" is not the id of a message`,
		"message list a --state done2":    "--state must be one of delayed, ready, leased, done, dead, cancelled",
		"archive list a --state ready":    "--state must be one of done, dead, cancelled",
		"message enqueue a":               "give one of --payload and --ndjson",
		"message enqueue a --payload 1 --ndjson -":      "give one of --payload and --ndjson",
		"message enqueue a --payload 1 --delay -1s":     `"-1s" is negative`,
		"message enqueue a --payload 1 --priority 5000": "--priority must be -1000 to 1000",
		"worker suspend one":                            `"one" is not the id of a worker`,
		"worker list --kind boss":                       "--kind must be one of admin, producer, consumer",
		"dlq replay":                                    "needs the IDs of dead letters, or --queue",
		"dlq replay --queue=":                           "--queue is empty; name the queue",
		"dlq replay --queue a --queue b":                "it was given before",
		"dlq replay 1 --queue a":                        "needs the IDs of dead letters, or --queue",
		"workflow retry":                                "needs either the IDs of runs, or --all and the name of a workflow",
		"workflow cancel 1 --all a":                     "needs either the IDs of runs, or --all and the name of a workflow",
		"workflow pause 1 x":                            `"x" is not the id of a run`,
		"workflow resume --all":                         "flag needs an argument: --all",
		"-o xml queue list":                             `--output must be table or json, not "xml"`,
		"completion":                                    "pgqrsd completion needs a command",
	} {
		r := c.run(strings.Fields(line)...)
		if r.status != exitUsage || !strings.Contains(r.stderr, says) || r.stdout != "" {
			t.Errorf("%q: status %d, stdout %q, stderr\n%s\nwant status 2 and: %s", line, r.status, r.stdout, r.stderr, says)
		}
		if !strings.Contains(r.stderr, "--help`") {
			t.Errorf("%q does not lead to the help:\n%s", line, r.stderr)
		}
	}
}
