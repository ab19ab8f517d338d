#!/usr/bin/env bash
# Takes the census of Go's own source tree with the real daemon, on a fresh
# SQLite file or on DSN=postgres://..., and checks every number. `make demo`
# builds first.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go run ./scripts/demo -pgqrsd bin/pgqrsd -census bin/examples/census -src "$(go env GOROOT)/src"
