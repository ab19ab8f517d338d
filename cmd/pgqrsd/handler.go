package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgqrs/pgqrsd/handlers/host"
	"github.com/pgqrs/pgqrsd/internal/config"
	"github.com/pgqrs/pgqrsd/store"
)

func (a *app) handlerCommand() *cobra.Command {
	return group("handler", "Look at handlers", "  pgqrsd handler list", a.handlerList(), a.handlerCheck())
}

// handlerRow is a handler of a live daemon.
type handlerRow struct {
	host.Status
	// Daemon is the name of the daemon, Worker the id of its Admin.
	Daemon string `json:"daemon"`
	Worker int64  `json:"worker"`
}

func (a *app) handlerList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the handlers of every live daemon",
		Example: `  pgqrsd handler list
  pgqrsd handler list -o json`,
		Args: args(),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			daemons, err := liveDaemons(ctx, s)
			if err != nil {
				return err
			}
			rows := []handlerRow{}
			for _, d := range daemons {
				handlers, err := handlersOf(d)
				if err != nil {
					return err
				}
				rows = append(rows, handlers...)
			}
			if a.json() {
				return a.printJSON(rows)
			}
			if len(daemons) == 0 {
				a.say("no daemon is running on this database")
				return nil
			}
			return a.printHandlers(rows)
		}),
	}
}

// liveDaemons are the Admin workers of the daemons that live: those with a
// recent heartbeat of any of their workers. An Admin that was shut down has no
// heartbeat, and its daemon runs on and publishes in its row.
func liveDaemons(ctx context.Context, s *session) ([]store.WorkerRecord, error) {
	filter := store.WorkerFilter{Page: store.Page{Limit: 1000}}
	beating := map[string]bool{}              // by slot
	latest := map[string]store.WorkerRecord{} // by slot: the Admin, else any worker
	for {
		page, err := s.Workers().List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, w := range page {
			if w.Name == "" {
				continue // a command's
			}
			slot := cmp.Or(w.Slot, w.Name)
			if w.State != store.WorkerStopped && w.HeartbeatAge <= s.cfg.Daemon.WorkerTimeout {
				beating[slot] = true
			}
			// A later Admin took the place of the one before.
			if _, seen := latest[slot]; w.Kind == store.KindAdmin || !seen {
				latest[slot] = w
			}
		}
		if len(page) < filter.Limit {
			break
		}
		filter.After = page[len(page)-1].ID
	}
	var live []store.WorkerRecord
	for slot, w := range latest {
		if beating[slot] {
			live = append(live, w)
		}
	}
	slices.SortFunc(live, func(a, b store.WorkerRecord) int { return cmp.Compare(a.ID, b.ID) })
	return live, nil
}

// handlersOf reads what a daemon publishes of its handlers.
func handlersOf(w store.WorkerRecord) ([]handlerRow, error) {
	if len(w.Info) == 0 {
		return nil, nil // it has only just started
	}
	var info struct {
		Handlers []host.Status `json:"handlers"`
	}
	if err := json.Unmarshal(w.Info, &info); err != nil {
		return nil, fmt.Errorf("read what daemon %s (worker %d) publishes: %w", w.Name, w.ID, err)
	}
	var rows []handlerRow
	for _, h := range info.Handlers {
		if h.Queues == nil {
			h.Queues = []string{}
		}
		rows = append(rows, handlerRow{Status: h, Daemon: w.Name, Worker: w.ID})
	}
	return rows, nil
}

func (a *app) printHandlers(handlers []handlerRow) error {
	if len(handlers) == 0 {
		a.say("no handlers")
		return nil
	}
	rows := make([][]string, len(handlers))
	notes := make([]string, len(handlers))
	for i, h := range handlers {
		rows[i] = []string{h.Daemon, h.Name, string(h.State), strings.Join(h.Queues, ","), strconv.Itoa(h.Restarts)}
		if h.Error != "" {
			notes[i] = "error: " + h.Error
		}
	}
	return writeNotedTable(a.out, []column{
		{head: "DAEMON", flex: true}, {head: "NAME", flex: true}, {head: "STATE"}, {head: "QUEUES", flex: true},
		{head: "RESTARTS", right: true},
	}, rows, notes)
}

func (a *app) handlerCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check PATH",
		Short: "Start a handler binary, ask what it serves, and stop it",
		Long: `Start a handler binary as the daemon would, with the arguments and environment
that the configuration gives to a file of its name, ask what it serves, and stop
it. The exit status is 1 if the daemon would refuse it.`,
		Example: `  pgqrsd handler check ./plugins/census
  pgqrsd handler check /tmp/new-build -o json`,
		Args: args("the PATH of the handler binary"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.load(cmd)
			if err != nil {
				return err
			}
			return a.checkHandler(cmd.Context(), cfg, args[0])
		},
	}
}

func (a *app) checkHandler(ctx context.Context, cfg *config.Loaded, path string) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find %s: %w", path, err)
	}
	status, refused := host.Check(ctx, absolute, host.Config{
		Version:     versionText(),
		Settings:    host.Settings{Handlers: handlerSettings(cfg)},
		CancelGrace: cfg.Daemon.CancelGrace,
		Logger:      slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	status.PID = 0 // it has ended
	if err := a.printHandler(status); err != nil {
		return err
	}
	return refused
}

func (a *app) printHandler(status host.Status) error {
	if a.json() {
		return a.printJSON(status)
	}
	return a.printFields([][2]string{
		{"name", status.Name}, {"path", status.Path}, {"state", string(status.State)}, {"queues", strings.Join(status.Queues, ", ")},
		{"version", status.Version}, {"sdk", status.SDK}, {"error", status.Error},
	})
}
