package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
)

// The exit statuses.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2 // usage or configuration
	exitUnavailable = 3 // the database cannot be reached
)

// app is one run of the command line: its streams and global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  []string

	configFile string
	output     string
	// begun says that arguments and flags were accepted and a command began.
	begun bool
}

// usageError is a command line that cannot be understood.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// execute runs the command line and returns the exit status.
func (a *app) execute(args []string) int {
	root := a.newRoot()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		a.say("pgqrsd: %s", line)
	}
	status := a.status(err)
	if usage := (*usageError)(nil); errors.As(err, &usage) || !a.begun {
		a.say("Try `%s --help`.", cmd.CommandPath())
	}
	return status
}

// status is the exit status for an error. What cobra refuses before a command
// begins is usage.
func (a *app) status(err error) int {
	var usage *usageError
	var bad *config.Error
	switch {
	case !a.begun, errors.As(err, &usage), errors.As(err, &bad), errors.Is(err, store.ErrDSN):
		return exitUsage
	case errors.Is(err, store.ErrLocked): // by a database that answers
		return exitError
	case errors.Is(err, store.ErrUnavailable):
		return exitUnavailable
	default:
		return exitError
	}
}

// say tells a person something, on standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...)
}

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgqrsd",
		Short: "Run background jobs from queues in Postgres or SQLite",
		Long: `pgqrsd runs background jobs. Applications put messages on queues in a database;
pgqrsd hands each to a handler, a program of yours in the plugins directory, and
records what happened.`,
		Example: `  pgqrsd run
  pgqrsd queue create emails
  pgqrsd message enqueue emails --payload '{"to": "ada@example.com"}'
  pgqrsd --dsn postgres://app@db/app worker list -o json`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usagef("--output must be table or json, not %q", a.output)
			}
			a.begun = true
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "read this file instead of "+config.DefaultFile)
	flags.String("dsn", "", "the database: postgres://user@host/db or sqlite:path")
	flags.String("schema", "", "the PostgreSQL schema that holds the tables")
	flags.StringVarP(&a.output, "output", "o", "table", "print a table or json")
	completeFlag(root, "output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(root, "dsn", cobra.NoFileCompletions)
	completeFlag(root, "schema", cobra.NoFileCompletions)
	asGroup(root)
	root.SetFlagErrorFunc(badFlag)
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	root.AddCommand(
		a.runCommand(), a.installCommand(), a.verifyCommand(), a.statsCommand(), a.configCommand(),
		a.queueCommand(), a.messageCommand(), a.archiveCommand(), a.dlqCommand(),
		a.workflowCommand(), a.workerCommand(), a.handlerCommand(), a.benchCommand(), a.versionCommand(),
		a.benchDaemon(), a.benchHandler(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			completionExamples(c)
		}
	}
	return root
}

// completionExamples dresses cobra's own command like the others.
func completionExamples(c *cobra.Command) {
	c.Short = "Print a shell's completion script"
	c.Example = "  pgqrsd completion bash > /etc/bash_completion.d/pgqrsd"
	for _, shell := range c.Commands() {
		shell.Short = "Print the completion script for " + shell.Name()
		shell.Example = "  pgqrsd completion " + shell.Name()
	}
	asGroup(c)
}

// group is a noun: a command that only holds others.
func group(noun, short, example string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: noun, Short: short, Example: example}
	c.AddCommand(commands...)
	asGroup(c)
	return c
}

// asGroup makes a group without a known verb an error instead of success with
// a help text, which a script would not notice.
func asGroup(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s needs a command: %s", c.CommandPath(), strings.Join(verbs(c), ", "))
		}
		hint := ""
		if near := store.NearNames(args[0], verbs(c)); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, ", ") + "?"
		}
		return usagef("%s has no command %q%s", c.CommandPath(), args[0], hint)
	}
	c.RunE = func(*cobra.Command, []string) error { return nil }
}

func verbs(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}
