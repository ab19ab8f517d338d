#!/usr/bin/env bash
# Drains 200,000 no-op messages on Postgres through a handler process and prints
# jobs/s and the daemon's peak memory, and the bare claim+settle loop beside it.
# DSN=postgres://... names the database; without one a private cluster with
# default durability is started. `make drain` builds first.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${DSN:-}" ]; then
	# shellcheck disable=SC2016 # expanded by the inner shell
	exec scripts/with-postgres.sh --durable bash -c 'DSN=$PGQRS_TEST_DSN exec "$0"' "$0"
fi
PGQRS_TEST_DSN=$DSN go run ./scripts/drain -pgqrsd bin/pgqrsd -noop bin/examples/noop
echo
echo "The bare loop, claim and settle on the same schema without a handler:"
PGQRS_TEST_DSN=$DSN go test -run '^$' -bench '^BenchmarkClaimSettle$' -benchtime 1x ./store/postgres
