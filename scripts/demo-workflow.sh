#!/usr/bin/env bash
# Runs an order workflow on a fresh SQLite file, kills the daemon with SIGKILL in
# the middle, and checks that it carries on. `make demo-workflow` builds first.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go run ./scripts/demo-workflow -pgqrsd bin/pgqrsd -order bin/examples/order
