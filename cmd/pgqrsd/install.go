package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/internal/view"
	"github.com/pgqrs/pgqrsd/store"
)

// installed is how install and verify answer.
type installed struct {
	Backend string `json:"backend"`
	DSN     string `json:"dsn"`
	Schema  string `json:"schema,omitempty"`
	OK      bool   `json:"ok"`
}

func installedIn(s store.Store, cfg *config.Loaded) installed {
	v := installed{Backend: s.BackendName(), DSN: config.MaskDSN(cfg.DSN), OK: true}
	if v.Backend == store.BackendPostgres {
		v.Schema = cfg.Schema
	}
	return v
}

func (v installed) where() string {
	if v.Schema == "" {
		return v.DSN
	}
	return "schema " + v.Schema + " of " + v.DSN
}

func (a *app) installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Create the tables in the database, or bring them up to date",
		Long: `Create the tables in the database, or bring them up to date. Doing it twice
changes nothing, and two may do it at once.`,
		Example: `  pgqrsd install
  pgqrsd --dsn postgres://app@db/app --schema jobs install`,
		Args: args(),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.load(cmd)
			if err != nil {
				return err
			}
			create := storeConfig(cfg)
			create.MustExist = false
			return withStore(cmd, cfg, create, args, func(ctx context.Context, s *session, _ []string) error {
				if err := s.Install(ctx); err != nil {
					return err
				}
				v := installedIn(s, s.cfg)
				if a.json() {
					return a.printJSON(v)
				}
				a.say("installed in %s", v.where())
				return nil
			})
		},
	}
}

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check that the database is installed, at this binary's version",
		Example: `  pgqrsd verify
  pgqrsd verify -o json`,
		Args: args(),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			if err := s.Verify(ctx); err != nil {
				return err
			}
			v := installedIn(s, s.cfg)
			if a.json() {
				return a.printJSON(v)
			}
			a.say("installed and up to date in %s", v.where())
			return nil
		}),
	}
}

func (a *app) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show the whole system in numbers",
		Example: `  pgqrsd stats
  pgqrsd stats -o json`,
		Args: args(),
		RunE: a.withAdmin(func(ctx context.Context, s *session, admin store.Admin, _ []string) error {
			stats, err := admin.SystemStats(ctx)
			if err != nil {
				return err
			}
			v := view.OfSystemStats(s.BackendName(), stats)
			v.Workers.Ready-- // this command's own
			if a.json() {
				return a.printJSON(v)
			}
			return a.printFields(statsFields(v))
		}),
	}
}

func statsFields(v view.SystemStats) [][2]string {
	fields := [][2]string{{"backend", v.Backend}, {"schema version", strconv.FormatInt(v.SchemaVersion, 10)}}
	for _, n := range []struct {
		name  string
		count int64
	}{
		{"queues", v.Queues},
		{"messages ready", v.Ready}, {"messages delayed", v.Delayed}, {"messages leased", v.Leased},
		{"archived done", v.Done}, {"archived dead", v.Dead}, {"archived cancelled", v.Cancelled},
		{"runs waiting for a version", v.RunsWaitingForVersion}, {"runs waiting for a handler", v.RunsWaitingForHandler},
		{"workers ready", v.Workers.Ready}, {"workers suspended", v.Workers.Suspended}, {"workers stopped", v.Workers.Stopped},
	} {
		fields = append(fields, [2]string{n.name, strconv.FormatInt(n.count, 10)})
	}
	return fields
}
