package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/daemon"
	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

func (a *app) configCommand() *cobra.Command {
	return group("config", "Check and show the configuration", "  pgqrsd config check",
		a.configCheck(), a.configShow())
}

// checked is what `config check` checked.
type checked struct {
	File      string   `json:"file"`
	Keys      int      `json:"keys"`
	Variables []string `json:"variables"`
	DSN       string   `json:"dsn"`
	Plugins   string   `json:"plugins"`
	Queues    int      `json:"queues"`
	Handlers  int      `json:"handlers"`
	Warnings  []string `json:"warnings"`
}

func (a *app) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file, the environment and the flags",
		Long: `Check the configuration file, the environment and the flags, and print what was
checked. Every mistake is named with its file and line; the exit status is 2
then. The DSN is read, but the database is not asked: that is ` + "`pgqrsd verify`" + `.`,
		Example: `  pgqrsd config check
  pgqrsd --config ./config.toml config check`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load(cmd)
			if err != nil {
				return err
			}
			if err := anystore.Check(storeConfig(cfg)); err != nil {
				return &config.Error{Problems: []config.Problem{{Source: cfg.Source("dsn"), Key: "dsn", Text: err.Error()}}}
			}
			v := checked{
				File: cfg.File, Keys: cfg.KeysFromFile(), Variables: append([]string{}, cfg.Variables...), DSN: config.MaskDSN(cfg.DSN),
				Plugins: cfg.Plugins, Queues: len(cfg.Queues), Handlers: len(cfg.Handlers), Warnings: warnings(cfg),
			}
			if a.json() {
				return a.printJSON(v)
			}
			for _, w := range v.Warnings {
				a.say("warning: %s", w)
			}
			file := "none (" + config.DefaultFile + " does not exist)"
			if v.File != "" {
				file = fmt.Sprintf("%s, %d values", v.File, v.Keys)
			}
			return a.printFields([][2]string{
				{"file", file}, {"environment", strings.Join(v.Variables, ", ")}, {"database", v.DSN}, {"plugins", v.Plugins},
				{"queues", fmt.Sprint(v.Queues)}, {"handlers", fmt.Sprint(v.Handlers)}, {"result", "ok"},
			})
		},
	}
}

// warnings are what is allowed and yet seldom meant.
func warnings(cfg *config.Loaded) []string {
	found := []string{}
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	dir := pluginsDir(cfg)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		add("the plugins directory %s does not exist; it is looked for again and again, and until then nothing is served", dir)
	case err != nil:
		add("the plugins directory cannot be read now, so nothing is served: %v", err)
	case !info.IsDir():
		add("plugins: %s is not a directory", dir)
	}
	if keepsNothing(cfg) {
		add(`retain = "delete" is not heeded for queues of workflows: their runs stay with their steps for the retention`)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Handlers)) {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			add("handlers.%s is configured, but %s holds no file of that name", config.QuoteKey(name), dir)
		}
	}
	return found
}

// keepsNothing reports whether any queue is to keep nothing of done messages.
func keepsNothing(cfg *config.Loaded) bool {
	remove := string(daemon.RetainDelete)
	for _, q := range cfg.Queues {
		if q.Retain == remove {
			return true
		}
	}
	return cfg.QueueDefaults.Retain == remove
}

func (a *app) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the effective configuration and where each value comes from",
		Long: `Show the effective configuration, as TOML, and where each value comes from. The
password of the DSN and the arguments and environments of handlers are masked.`,
		Example: `  pgqrsd config show
  pgqrsd --config ./config.toml config show -o json`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load(cmd)
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(cfg)
			}
			return a.showTOML(cfg)
		},
	}
}

func (a *app) showJSON(cfg *config.Loaded) error {
	type entry struct {
		Key    string `json:"key"`
		Value  any    `json:"value"`
		Source string `json:"source"`
	}
	var entries []entry
	for _, e := range cfg.Entries() {
		entries = append(entries, entry{e.Key(), e.Value, e.Source})
	}
	return a.printJSON(entries)
}

// showTOML prints a file that could be read back, but for what is masked.
func (a *app) showTOML(cfg *config.Loaded) error {
	const commentColumn = 36
	var b strings.Builder
	table := ""
	for _, e := range cfg.Entries() {
		if e.Table != table {
			table = e.Table
			fmt.Fprintf(&b, "\n[%s]\n", table)
		}
		fmt.Fprintf(&b, "%-*s # %s\n", commentColumn, e.Name+" = "+e.TOML(), e.Source)
	}
	_, err := a.out.Write([]byte(b.String()))
	return err
}
