#!/usr/bin/env bash
# Runs a command with a PostgreSQL to test against, named in PGQRS_TEST_DSN.
#
# usage: scripts/with-postgres.sh [--durable] COMMAND [ARG]...
#
# It takes the first of these that it finds:
#   1. the database that PGQRS_TEST_DSN names already
#   2. a private cluster, made with the server programs of PGQRS_TEST_PG_BINDIR,
#      pg_config, the distribution's package (newest version first) or PATH
#   3. the same, after installing PostgreSQL with apt
# A private cluster listens on 127.0.0.1 and on a Unix socket, wants a password,
# and is gone when the command has ended, however it ended. It gives durability
# up for speed, unless --durable asks for the server's defaults, as a benchmark
# or a test that crashes the server must.
#
# It exports PGQRS_TEST_DSN and, where the programs are known, their directory
# in PGQRS_TEST_PG_BINDIR. Its exit status is that of the command.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
min_major=15

durable=no
if [ "${1:-}" = --durable ]; then
	durable=yes
	shift
fi
if [ $# = 0 ]; then
	echo "usage: $0 [--durable] COMMAND [ARG]..." >&2
	exit 2
fi

# major DIR prints the major version of the server in DIR, 0 if there is none.
major() {
	local version
	if [ -x "$1/initdb" ] && version=$("$1/postgres" --version 2>/dev/null); then
		version=${version#*(PostgreSQL) }
		echo "${version%%[!0-9]*}"
	else
		echo 0
	fi
}

find_bindir() {
	local dir n best='' best_n=0
	if [ -n "${PGQRS_TEST_PG_BINDIR:-}" ]; then
		if [ "$(major "$PGQRS_TEST_PG_BINDIR")" -lt $min_major ]; then
			echo "PGQRS_TEST_PG_BINDIR=$PGQRS_TEST_PG_BINDIR holds no PostgreSQL server of version $min_major or later" >&2
			exit 1
		fi
		echo "$PGQRS_TEST_PG_BINDIR"
		return
	fi
	if dir=$(pg_config --bindir 2>/dev/null) && [ "$(major "$dir")" -ge $min_major ]; then
		echo "$dir"
		return
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "$(dirname "$(readlink -f "$(command -v initdb || true)")")"; do
		n=$(major "$dir")
		if [ "$n" -ge $min_major ] && [ "$n" -gt "$best_n" ]; then
			best=$dir best_n=$n
		fi
	done
	echo "$best"
}

if ! bindir=$(find_bindir); then
	exit 1
fi
if [ -n "${PGQRS_TEST_DSN:-}" ]; then
	if [ -n "$bindir" ]; then
		export PGQRS_TEST_PG_BINDIR=$bindir
	fi
	exec "$@"
fi
if [ -z "$bindir" ]; then
	# The package also makes a cluster of its own and starts it, which may
	# fail where no init runs. We need only the programs.
	"$here/apt-install.sh" "The tests need a PostgreSQL server" postgresql || true
	bindir=$(find_bindir)
	if [ -z "$bindir" ]; then
		echo "No PostgreSQL server of version $min_major or later. Install one, or set PGQRS_TEST_PG_BINDIR or PGQRS_TEST_DSN." >&2
		exit 1
	fi
fi

# PostgreSQL refuses to run as root.
as_owner=()
owner=
if [ "$(id -u)" = 0 ]; then
	owner=postgres
	id "$owner" >/dev/null 2>&1 || owner=nobody
	as_owner=(setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups)
fi

base=${TMPDIR:-/tmp}
if [ -n "$owner" ] || [ ${#base} -gt 60 ]; then
	base=/tmp # where the owner can go, and the socket's path stays short
fi
dir=$(mktemp -d "$base/pgqrs-postgres-XXXXXX")

# The janitor waits for the end of a pipe that only this shell holds open, so
# that it cleans up after SIGKILL too.
exec {lifeline}> >(
	trap '' INT TERM HUP
	cat >/dev/null
	if pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd")" = "$dir/data" ]; then
		kill -QUIT "$pid"
		for ((i = 0; i < 200; i++)); do
			[ "$(readlink "/proc/$pid/cwd")" = "$dir/data" ] || break
			sleep 0.05
		done
	fi
	rm -rf -- "$dir"
)
janitor=$!
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	local status=$?
	trap - EXIT
	exec {lifeline}>&-
	wait "$janitor" || true
	exit "$status"
}
trap clean_up EXIT

# Nothing of the caller's own PostgreSQL settings may reach the cluster.
for name in $(compgen -e PG); do
	case $name in
	PGQRS_*) ;;
	*) unset "$name" ;;
	esac
done

secret() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
password=$(secret)
caller_umask=$(umask)
umask 077
echo "$password" >"$dir/password"
if [ -n "$owner" ]; then
	chown -R "$owner" "$dir"
fi

server() { (cd "$dir" && exec "${as_owner[@]}" env LC_ALL=C "$bindir/$1" "${@:2}" {lifeline}>&-); }

if ! server initdb --pgdata "$dir/data" --username pgqrs --pwfile "$dir/password" --auth scram-sha-256 \
	--encoding UTF8 --no-locale --no-sync >"$dir/log" 2>&1; then
	cat "$dir/log" >&2
	exit 1
fi
{
	echo "listen_addresses = '127.0.0.1'"
	echo "unix_socket_directories = '$dir'"
	echo "max_connections = 400"
	if [ "$durable" = no ]; then
		echo "fsync = off"
		echo "synchronous_commit = off"
		echo "full_page_writes = off"
	fi
} >>"$dir/data/postgresql.conf"

# The port is below the range that the kernel gives to outgoing connections.
# If another program has it, the server stops and the next one is tried.
ready=no
for ((try = 0; try < 20 && SECONDS < 120; try++)); do
	port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
	(
		trap '' INT
		cd "$dir"
		exec setsid "${as_owner[@]}" env LC_ALL=C "$bindir/postgres" -D "$dir/data" -p "$port" {lifeline}>&-
	) >>"$dir/log" 2>&1 </dev/null &
	server_pid=$!
	while kill -0 "$server_pid" 2>/dev/null; do
		# As pg_ctl does: the eighth line of the file is the server's state.
		if [ "$(sed -n '8s/ *$//p' "$dir/data/postmaster.pid" 2>/dev/null)" = ready ]; then
			ready=yes
			break 2
		fi
		if [ "$SECONDS" -gt 120 ]; then
			break 2
		fi
		sleep 0.05
	done
	grep -q 'could not bind' "$dir/log" || break
done
if [ "$ready" = no ]; then
	echo "PostgreSQL did not start; its log:" >&2
	cat "$dir/log" >&2
	exit 1
fi

export PGQRS_TEST_PG_BINDIR=$bindir
export PGQRS_TEST_DSN="postgres://pgqrs:$password@127.0.0.1:$port/postgres?sslmode=disable"

# The command runs beside the shell, so that the shell can pass signals on.
# Ctrl-C needs no help: the terminal sends it to both.
umask "$caller_umask"
(
	trap - INT QUIT
	exec "$@" {lifeline}>&-
) <&0 &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM
trap 'kill -HUP "$child" 2>/dev/null || true' HUP
trap : INT
while :; do
	status=0
	wait "$child" || status=$?
	# wait also returns, with a status over 128, when a signal came to us.
	if [ "$status" -le 128 ] || ! kill -0 "$child" 2>/dev/null; then
		break
	fi
done
exit "$status"
