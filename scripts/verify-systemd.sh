#!/usr/bin/env bash
# Checks the files in systemd/ as a machine would read them, in a staged root:
# systemd-analyze verifies the unit, and systemd-sysusers and (for root alone,
# as it gives files away) systemd-tmpfiles apply theirs. A warning is an error.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
for tool in systemd-analyze systemd-sysusers systemd-tmpfiles; do
	if ! command -v $tool >/dev/null; then
		scripts/apt-install.sh "systemd/ is checked with $tool" systemd
	fi
done

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# The unit in its place, empty programs where it names some, and the host's
# own units for the targets that it names.
mkdir -p "$root/etc/pgqrsd" "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/run" "$root/proc"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
for program in pgqrsd kill; do
	install -m 755 /dev/null "$root/usr/bin/$program"
done
for dir in /usr/lib/systemd/system /lib/systemd/system; do
	if [ -f $dir/basic.target ]; then
		cp -a $dir/*.target $dir/-.slice $dir/system.slice $dir/*.socket $dir/*.mount "$root/usr/lib/systemd/system/" 2>/dev/null || true
		break
	fi
done
install -m 644 systemd/pgqrsd.service "$root/usr/lib/systemd/system/"
touch "$root/etc/pgqrsd/config.toml" "$root/etc/pgqrsd/pgqrsd.env"

# quiet COMMAND... fails when the command does or when it has anything to say.
quiet() {
	local out status=0
	out=$("$@" 2>&1) || status=$?
	if [ "$status" != 0 ] || [ -n "$out" ]; then
		printf '%s: exit status %s\n%s\n' "$1" "$status" "$out" >&2
		exit 1
	fi
}
quiet systemd-analyze verify --recursive-errors=yes --man=no --root="$root" pgqrsd.service
if [ "$(id -u)" = 0 ]; then
	systemd-sysusers --root="$root" "$PWD/systemd/pgqrsd.sysusers" >/dev/null 2>&1
	grep -q '^pgqrsd:' "$root/etc/passwd"
	quiet systemd-tmpfiles --root="$root" --create "$PWD/systemd/pgqrsd.tmpfiles"
	gid=$(sed -n 's/^pgqrsd:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")
	if [ "$(stat -c '%a %u %g' "$root/etc/pgqrsd/config.toml")" != "640 0 $gid" ]; then
		echo "systemd/pgqrsd.tmpfiles left config.toml as $(stat -c '%a %u %g' "$root/etc/pgqrsd/config.toml")" >&2
		exit 1
	fi
else
	systemd-sysusers --root="$root" --dry-run "$PWD/systemd/pgqrsd.sysusers" >/dev/null 2>&1
fi
echo "systemd/: ok"
