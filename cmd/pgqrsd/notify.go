package main

import (
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd what the daemon says of itself, if systemd started it.
func notify(logger *slog.Logger) func(state string) {
	return func(state string) {
		if strings.Contains(state, daemon.SdNotifyReloading) && !strings.Contains(state, "MONOTONIC_USEC=") {
			state += "\n" + daemon.SdNotifyMonotonicUsec() // systemd wants to know when
		}
		if _, err := daemon.SdNotify(false, state); err != nil {
			logger.Warn("cannot tell systemd", "state", state, "error", err)
		}
	}
}
