package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// settings are the conditions of a run, as the report prints them.
type settings struct {
	Cores    int               `json:"cores"`
	Rounds   int               `json:"rounds"`
	Scale    float64           `json:"scale"`
	Versions map[string]string `json:"versions"`
	Postgres map[string]string `json:"postgres"`
	// Warnings say why the figures are not those that the targets are about.
	Warnings []string `json:"warnings,omitempty"`
}

// serverSettings matter to the figures. The first three make up durability.
var serverSettings = []string{"fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "checkpoint_timeout"}

func (l *lab) settings(ctx context.Context) settings {
	s := settings{
		Cores: runtime.NumCPU(), Rounds: l.rounds, Scale: l.scale,
		Versions: l.versions(ctx), Postgres: map[string]string{},
	}
	err := onConnection(ctx, l.dsn, func(conn *pgx.Conn) error {
		for _, name := range append([]string{"server_version"}, serverSettings...) {
			var value string
			if err := conn.QueryRow(ctx, "select current_setting($1)", name).Scan(&value); err != nil {
				return err
			}
			s.Postgres[name] = value
		}
		return nil
	})
	if err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the server's settings are not known: %v", err))
	}
	for _, name := range serverSettings[:3] {
		if value, known := s.Postgres[name]; known && value != "on" {
			s.Warnings = append(s.Warnings, name+" is "+value+": not the default durability")
		}
	}
	if l.scale != 1 {
		s.Warnings = append(s.Warnings, "scaled: the figures are not those of the targets' sizes")
	}
	if onTmpfs(os.TempDir()) {
		s.Warnings = append(s.Warnings, "SQLite's files are in memory (tmpfs), where syncing costs nothing")
	}
	return s
}

// versions are those of everything that is compared.
func (l *lab) versions(ctx context.Context) map[string]string {
	v := map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go")}
	if info, ok := debug.ReadBuildInfo(); ok {
		names := map[string]string{
			"github.com/riverqueue/river": "River", "github.com/jackc/pgx/v5": "pgx", "github.com/dbos-inc/dbos-transact-golang": "DBOS", "modernc.org/sqlite": "modernc.org/sqlite",
		}
		for _, dep := range info.Deps {
			if name := names[dep.Path]; name != "" {
				v[name] = strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
	if out, err := output(command(ctx, l.pgqrsd, "version", "-o", "json")); err == nil {
		var ours struct {
			Version string `json:"version"`
		}
		if json.Unmarshal(out, &ours) == nil {
			v["pgqrsd"] = ours.Version
		}
	}
	if _, err := exec.LookPath("node"); err == nil {
		if out, err := output(command(ctx, "node", "--version")); err == nil {
			v["Node"] = strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
		}
	}
	// Known before it is installed: the lock file pins it.
	if version := lockedGraphile(l.graphile); version != "" {
		v["Graphile Worker"] = version
	}
	return v
}

func onTmpfs(dir string) bool {
	const magic = 0x01021994
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && fs.Type == magic
}
