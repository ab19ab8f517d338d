package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
	"github.com/pgqrs/pgqrsd/store/anystore"
)

// configFlags are the flags that set a key of the configuration.
var configFlags = []config.Flag{
	{Key: "dsn", Name: "dsn"},
	{Key: "schema", Name: "schema"},
	{Key: "plugins", Name: "plugins"},
	{Key: "http.addr", Name: "http"},
}

// load reads the configuration as the command's flags say.
func (a *app) load(cmd *cobra.Command) (*config.Loaded, error) {
	opts := config.Options{File: a.configFile, Environ: a.environ}
	for _, f := range configFlags {
		if flag := cmd.Flags().Lookup(f.Name); flag != nil && flag.Changed {
			f.Value = flag.Value.String()
			opts.Flags = append(opts.Flags, f)
		}
	}
	return config.Load(opts)
}

// storeConfig is the store's part of the configuration, for commands that do
// not create a database.
func storeConfig(cfg *config.Loaded) anystore.Config {
	return anystore.Config{
		DSN:              cfg.DSN,
		Schema:           cfg.Schema,
		PoolSize:         cfg.Store.PoolSize,
		ConnectTimeout:   cfg.Store.ConnectTimeout,
		StatementTimeout: cfg.Store.StatementTimeout,
		PgBouncer:        cfg.Store.PgBouncer,
		MustExist:        true,
	}
}

// session is an open store and the configuration that named it.
type session struct {
	store.Store
	cfg *config.Loaded
}

// action is what a command does with the database.
type action func(ctx context.Context, s *session, args []string) error

// with opens the store for an action. The database must exist.
func (a *app) with(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := a.load(cmd)
		if err != nil {
			return err
		}
		return withStore(cmd, cfg, storeConfig(cfg), args, do)
	}
}

// withStore opens the store for an action. Ctrl-C ends the action's context
// once; pressed again it ends the process.
func withStore(cmd *cobra.Command, cfg *config.Loaded, open anystore.Config, args []string, do action) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	s, err := anystore.OpenConfig(ctx, open)
	if err != nil {
		return err
	}
	err = do(ctx, &session{s, cfg}, args)
	if closing := s.Close(); err == nil && closing != nil {
		err = fmt.Errorf("close the database: %w", closing)
	}
	return err
}

// closeTimeout limits how long the end of a command may wait for the database.
const closeTimeout = 5 * time.Second

// withAdmin is with, for what an Admin does.
func (a *app) withAdmin(do func(ctx context.Context, s *session, admin store.Admin, args []string) error) func(*cobra.Command, []string) error {
	return a.with(func(ctx context.Context, s *session, args []string) error {
		return s.asAdmin(ctx, func(admin store.Admin) error { return do(ctx, s, admin, args) })
	})
}

// asAdmin does something as an Admin, which is gone afterwards.
func (s *session) asAdmin(ctx context.Context, do func(store.Admin) error) error {
	admin, err := s.Admin(ctx, store.WorkerOptions{})
	if err != nil {
		return err
	}
	return closeWorker(ctx, admin, do(admin))
}

// onID is a command about one message or worker: what names which.
func (a *app) onID(what string, cmd *cobra.Command, do func(ctx context.Context, s *session, id int64) error) *cobra.Command {
	cmd.Args = idArg(what)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = a.with(func(ctx context.Context, s *session, args []string) error {
		id, err := parseID(what, args[0])
		if err != nil {
			return err
		}
		return do(ctx, s, id)
	})
	return cmd
}

// closeWorker removes an ephemeral worker, also after Ctrl-C, and returns the
// error of the work before its own.
func closeWorker(ctx context.Context, w store.Worker, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if closing := w.Close(ctx); err == nil && closing != nil {
		return fmt.Errorf("remove this command's own worker: %w", closing)
	}
	return err
}

// parseID reads the id of a message or a worker.
func parseID(what, text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, usagef("%q is not the id of a %s: a whole number from 1", text, what)
	}
	return id, nil
}

// args wants exactly these arguments, and names the missing one.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return usagef("%s needs %s", cmd.CommandPath(), names[len(got)])
		}
		return atMost(len(names), cmd, got)
	}
}

// idArg wants one argument, an id.
func idArg(what string) cobra.PositionalArgs {
	one := args("the ID of the " + what)
	return func(cmd *cobra.Command, got []string) error {
		if err := one(cmd, got); err != nil {
			return err
		}
		_, err := parseID(what, got[0])
		return err
	}
}

// optional wants at most one argument.
func optional(cmd *cobra.Command, got []string) error { return atMost(1, cmd, got) }

func atMost(n int, cmd *cobra.Command, got []string) error {
	if len(got) > n {
		return usagef("%s does not know what to do with %q", cmd.CommandPath(), got[n])
	}
	return nil
}

// notEmpty refuses a flag that is given and empty: an unset variable of a script
// must not do something else than what was meant. instead says what to do.
func notEmpty(flag, instead string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if f := cmd.Flags().Lookup(flag); f.Changed && f.Value.String() == "" {
			return usagef("--%s is empty; %s", flag, instead)
		}
		return nil
	}
}

// badFlag words what pflag found wrong with a flag's value without naming the
// functions that read it.
func badFlag(_ *cobra.Command, err error) error {
	bad := (*pflag.InvalidValueError)(nil)
	number := (*strconv.NumError)(nil)
	switch {
	case !errors.As(err, &bad) || !errors.As(err, &number):
		return err
	case errors.Is(number.Err, strconv.ErrRange):
		return usagef("--%s: %q is too large or too small", bad.GetFlag().Name, bad.GetValue())
	}
	kind := "a number"
	switch bad.GetFlag().Value.Type() {
	case "int", "int64":
		kind = "a whole number"
	case "bool":
		kind = "true or false"
	}
	return usagef("--%s must be %s, not %q", bad.GetFlag().Name, kind, bad.GetValue())
}

// durationFlag is a flag that takes days too.
type durationFlag time.Duration

func (d durationFlag) duration() time.Duration { return time.Duration(d) }

// String implements pflag.Value. Empty keeps a default of none out of the help.
func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return config.FormatDuration(d.duration())
}

// Type implements pflag.Value.
func (d *durationFlag) Type() string { return "duration" }

// Set implements pflag.Value.
func (d *durationFlag) Set(text string) error {
	parsed, err := config.ParseDuration(text)
	if err != nil {
		return err
	}
	if parsed < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	*d = durationFlag(parsed)
	return nil
}

// onceFlag is a flag that is given once, where a second one would drop the first
// unseen.
type onceFlag string

// String implements pflag.Value.
func (f *onceFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *onceFlag) Type() string { return "string" }

// Set implements pflag.Value.
func (f *onceFlag) Set(text string) error {
	if *f != "" {
		return fmt.Errorf("it was given before, as %q; run the command once for each", string(*f))
	}
	*f = onceFlag(text)
	return nil
}

// pageFlags adds --limit and --after.
func pageFlags(cmd *cobra.Command, page *store.Page) {
	cmd.Flags().IntVar(&page.Limit, "limit", store.DefaultLimit, "print at most so many")
	cmd.Flags().Int64Var(&page.After, "after", 0, "begin after this id")
	completeFlag(cmd, "limit", cobra.NoFileCompletions)
	completeFlag(cmd, "after", cobra.NoFileCompletions)
	then := cmd.Args
	cmd.Args = func(c *cobra.Command, got []string) error {
		if page.Limit < 1 || page.After < 0 {
			return usagef("--limit must be at least 1 and --after must not be negative")
		}
		return then(c, got)
	}
}

// more tells a person that a list was cut.
func (a *app) more(page store.Page, shown int, last int64) {
	if shown == page.Limit && !a.json() {
		a.say("there may be more: --after %d", last)
	}
}
