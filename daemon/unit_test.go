package daemon

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// The service manager must not kill a daemon that stops in good order.
func TestTheUnitWaitsForTheWholeStop(t *testing.T) {
	unit, err := os.ReadFile("../systemd/pgqrsd.service")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindSubmatch(unit)
	if found == nil {
		t.Fatal("the unit does not say TimeoutStopSec in seconds")
	}
	seconds, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	// The store's last notification, and the close of its connections.
	const closeStore = 10 * time.Second
	defaults := Config{}.withDefaults()
	whole := defaults.DrainTimeout + defaults.CancelGrace + killTime + lastSettle + httpShutdown + lastWords + closeStore
	if unit := time.Duration(seconds) * time.Second; unit < whole+10*time.Second {
		t.Errorf("TimeoutStopSec is %s; a stop may take %s, and needs some slack", unit, whole)
	}
}
