#!/usr/bin/env bash
# The checks of scripts/test-systemd.sh, run as root inside the container, where
# systemd is init and the daemon, its unit and the census handler are installed
# but not yet started.
set -euo pipefail

queue=census

say() { echo "--- $*"; }
ok() { echo "    ok: $*"; }
fail() {
	echo "    FAILED: $*"
	systemctl --no-pager --full status pgqrsd || true
	journalctl --no-pager -u pgqrsd -n 60 || true
	exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# The command line as the daemon's user, with the installed configuration.
pgqrsd() { runuser -u pgqrsd -- /usr/bin/pgqrsd "$@"; }
property() { systemctl show -P "$1" pgqrsd; }
is_active() { [ "$(property ActiveState)" = active ]; }
has_main() { [ "$(property MainPID)" != 0 ]; }

# wait_for SECONDS WHAT COMMAND... polls until the command succeeds.
wait_for() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		if [ "$SECONDS" -ge "$deadline" ]; then
			fail "$what: not within the time limit"
		fi
		sleep 0.1
	done
}

equal() {
	if [ "$1" != "$2" ]; then
		fail "$3: $1, want $2"
	fi
}

# metric STATE prints how many of the queue's messages are in that state.
metric() { pgqrsd -o json queue metrics $queue | jq "if type == \"array\" then .[0] else . end | .$1"; }
at_least() { [ "$(metric "$1")" -ge "$2" ]; }

# enqueue reads file names and puts a message for each on the queue.
enqueue() {
	jq -Rc '{path: .}' | pgqrsd -o json message enqueue $queue --ndjson - | jq length
}

# somewhere N: each of the N messages is in exactly one place, none of them leased.
somewhere() {
	equal "$(metric leased)" 0 "messages left leased"
	equal "$(($(metric ready) + $(metric delayed) + $(metric 'done') + $(metric dead) + $(metric cancelled)))" "$1" "messages altogether"
}

# No message, finished or not, has a failed attempt.
no_attempt_burned() {
	local list='[.[] | select(.attempts != 0 or .errors != [])] | length'
	equal "$(pgqrsd -o json message list $queue --limit 10000 | jq "$list")" 0 "waiting messages with a failed attempt"
	equal "$(pgqrsd -o json archive list $queue --limit 10000 | jq "$list")" 0 "archived messages with a failed attempt"
}

no_process() {
	local group
	for group in /sys/fs/cgroup/{,systemd/,unified/}system.slice/pgqrsd.service/cgroup.procs; do
		if [ -s "$group" ] && [ -n "$(cat "$group")" ]; then
			return 1
		fi
	done
	! pgrep -u pgqrsd >/dev/null
}

say "system: $(systemctl is-system-running --wait || true), systemd $(systemctl --version | awk 'NR == 1 { print $2 }')"

say "user and directories, as docs/deploy.md makes them"
systemd-sysusers
systemd-tmpfiles --create /usr/lib/tmpfiles.d/pgqrsd.conf
systemctl daemon-reload
equal "$(stat -c '%a %U %G' /etc/pgqrsd/config.toml)" "640 root pgqrsd" "/etc/pgqrsd/config.toml"
ok "user $(id -un pgqrsd), /etc/pgqrsd/config.toml for root and pgqrsd only"

say "start: active only after READY"
# A handler that never answers keeps the handlers from being settled until its
# start times out.
printf '#!/bin/sh\nexec sleep 1000\n' >/usr/lib/pgqrsd/plugins/hangs
chmod 755 /usr/lib/pgqrsd/plugins/hangs
cat >>/etc/pgqrsd/config.toml <<'TOML'

[queues.census]
concurrency = 2
TOML
systemctl enable --quiet pgqrsd
systemctl start --no-block pgqrsd
wait_for 20 "the daemon runs" has_main
equal "$(property ActiveState)" activating "the unit, while a handler starts"
ok "activating while a handler has not settled"
wait_for 60 "the unit is active" is_active
waited=$(($(property ActiveEnterTimestampMonotonic) - $(property ExecMainStartTimestampMonotonic)))
if [ "$waited" -lt 5000000 ]; then
	fail "the unit was active after $waited us, before the hanging handler can have been refused"
fi
ok "active after $((waited / 1000)) ms; status: $(property StatusText)"
equal "$(pgqrsd -o json handler list | jq -r '.[] | select(.name == "hangs") | .state')" refused "the hanging handler"
equal "$(pgqrsd -o json handler list | jq -r '.[] | select(.name == "census") | .state')" serving "census"
rm /usr/lib/pgqrsd/plugins/hangs

say "jobs run"
total=$(find /usr/share /usr/lib -xdev -type f -size -100k | sed -n 1,2000p | enqueue)
wait_for 60 "$total jobs" at_least 'done' "$total"
somewhere "$total"
ok "$total files counted"

say "reload"
main=$(property MainPID)
printf '\n[queues.reloaded]\nconcurrency = 1\n' >>/etc/pgqrsd/config.toml
systemctl reload pgqrsd
has_queue() { pgqrsd -o json queue list | jq -e '[.[] | select(.name == "reloaded")] | length == 1' >/dev/null; }
wait_for 10 "the queue of the new configuration" has_queue
wait_for 20 "the unit is active after the reload" is_active
equal "$(property MainPID)" "$main" "the main process after the reload"
ok "same process, new configuration"

# Two files of a terabyte without a block on disk keep census busy until they
# are cut to nothing.
endless=(/srv/endless-1 /srv/endless-2)
endless() {
	truncate -s 1T "${endless[@]}"
	printf '%s\n' "${endless[@]}"
}
end_endless() { truncate -s 0 "${endless[@]}"; }
small() { find /usr/share /usr/lib -xdev -type f -size -100k | sed -n 1,1000p; }
is_running() { at_least leased 2; }

say "stop in mid-run"
before=$(metric 'done')
total=$((total + $({ endless; small; } | enqueue)))
wait_for 20 "jobs are running" is_running
systemctl stop --no-block pgqrsd
is_stopping() { journalctl -u pgqrsd | grep -q 'msg="stopping'; }
wait_for 20 "the daemon drains" is_stopping
equal "$(property ActiveState)" deactivating "the unit, while jobs run"
end_endless
is_stopped() { [ "$(property ActiveState)" = inactive ]; }
wait_for 50 "the unit is stopped" is_stopped
equal "$(property Result)/$(property ExecMainStatus)" success/0 "result and exit status"
if ! no_process; then
	fail "processes are left: $(ps -o pid,args -u pgqrsd)"
fi
if journalctl -u pgqrsd | grep -E 'Killing process|left-over process'; then
	fail "systemd had to kill what the daemon left"
fi
somewhere "$total"
no_attempt_burned
done=$(metric 'done')
ready=$(metric ready)
if [ "$((done - before))" -lt 2 ] || [ "$ready" -eq 0 ]; then
	fail "the two running jobs did not end, or none was left to wait: done before $before, now $done; ready $ready"
fi
ok "exit status 0, $((done - before)) jobs ran to their end, $ready wait; no process left, no attempt burned"

say "start again"
systemctl start pgqrsd
wait_for 60 "all $total jobs" at_least 'done' "$total"
somewhere "$total"
no_attempt_burned
ok "$total jobs done"

say "SIGKILL of the main process"
total=$((total + $({ endless; small; } | enqueue)))
wait_for 20 "jobs are running" is_running
main=$(property MainPID)
systemctl kill --kill-who=main --signal=SIGKILL pgqrsd
end_endless
restarted() { [ "$(property NRestarts)" = 1 ] && has_main && is_active; }
wait_for 30 "a new main process" restarted
if [ "$(property MainPID)" = "$main" ]; then
	fail "the main process is still $main"
fi
wait_for 60 "all $total jobs" at_least 'done' "$total"
somewhere "$total"
ok "restarted by systemd, $total jobs done"

say "exposure: $(systemd-analyze security --no-pager pgqrsd | tail -n 1)"
systemctl stop pgqrsd
