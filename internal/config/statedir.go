package config

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// defaultStateDir is a place that is the same at every start by the same user
// on the same machine, because a restarted daemon finds its lock there. It is
// systemd's StateDirectory= where there is one.
func defaultStateDir(getenv func(string) string) string {
	if dirs := filepath.SplitList(getenv("STATE_DIRECTORY")); len(dirs) > 0 && filepath.IsAbs(dirs[0]) {
		return filepath.Join(dirs[0], "daemon")
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pgqrsd")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "pgqrsd")
	}
	return filepath.Join(os.TempDir(), "pgqrsd-"+strconv.Itoa(os.Getuid()))
}

// databaseKey is a short name for the database. Daemons of one user on several
// databases would otherwise take each other's slots when they are restarted,
// and not know the messages of their former selves.
func databaseKey(dsn, schema string) string {
	id := schema + "\n" + MaskDSN(dsn)
	if path, found := strings.CutPrefix(dsn, "sqlite:"); found {
		path, _, _ = strings.Cut(strings.TrimPrefix(path, "//"), "?")
		if abs, err := filepath.Abs(path); err == nil {
			id = abs
		}
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:4])
}
