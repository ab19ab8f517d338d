#!/usr/bin/env bash
# Runs the unit under a real systemd: makes a small Debian root, installs the
# daemon and the census handler in it as docs/deploy.md says, boots it in a
# container and runs scripts/test-systemd-inside.sh there. `make test-systemd`
# builds first.
#
# The container boots where systemd is not this machine's init, too. It has no
# network but its own loopback. The root is kept in a cache for the next time.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
limit=300 # seconds from boot to power-off

if [ "$(id -u)" != 0 ]; then
	echo "A container needs root: sudo make test-systemd (or as root: scripts/test-systemd.sh, after make build examples)" >&2
	exit 1
fi
for tool in debootstrap systemd-nspawn; do
	if ! command -v $tool >/dev/null; then
		scripts/apt-install.sh "make test-systemd boots a Debian in a container" debootstrap systemd-container
	fi
done

# The mirror is the one that this machine's apt uses for Debian itself.
read -r suite mirror < <(
	# shellcheck disable=SC2016 # apt-get expands them
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" && $4 !~ /-/ { print $4, $5; exit }'
) || {
	echo "apt on this machine has no Debian mirror to make the container's root from (apt-get update first?)" >&2
	exit 1
}
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
export http_proxy=${http_proxy:-}

packages=systemd,systemd-sysv,dbus,procps,jq
cache=${XDG_CACHE_HOME:-/var/cache}/pgqrsd-test
tarball=$cache/$suite-$(printf '%s' "$packages" | cksum | cut -d ' ' -f 1).tar
work=$(mktemp -d)
machine=pgqrsd-test-$$
container=
clean_up() {
	if [ -n "$container" ]; then
		kill "$container" 2>/dev/null || true
		wait "$container" || true
	fi
	# systemd-nspawn leaves this behind where the host has no systemd.
	rmdir "/run/systemd/nspawn/propagate/$machine" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap clean_up EXIT
root=$work/root

if [ -f "$tarball" ]; then
	echo "--- root: $tarball"
	mkdir "$root"
	tar -xf "$tarball" -C "$root"
else
	echo "--- root: debootstrap $suite (once, about a minute)"
	if ! debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$work/debootstrap.log" 2>&1; then
		tail -n 30 "$work/debootstrap.log" >&2
		exit 1
	fi
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
	mkdir -p "$cache"
	tar -cf "$work/new.tar" -C "$root" .
	mv "$work/new.tar" "$tarball.$$" && mv "$tarball.$$" "$tarball"
fi

echo "--- install"
make -s install DESTDIR="$root" >/dev/null
install -m 755 bin/examples/census "$root/usr/lib/pgqrsd/plugins/census"

# The checks run as a unit of their own once the system is up, write what
# they find to files that we read here, and power the machine off.
install -D -m 755 scripts/test-systemd-inside.sh "$root/checks/run"
cat >"$root/etc/systemd/system/checks.service" <<'UNIT'
[Unit]
Description=checks of pgqrsd
After=multi-user.target

[Service]
Type=exec
ExecStart=/bin/bash -c '/checks/run; echo $? >/checks/status'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
StandardOutput=append:/checks/output
StandardError=append:/checks/output
UNIT
mkdir -p "$root/etc/systemd/system/default.target.wants"
ln -s ../checks.service "$root/etc/systemd/system/default.target.wants/"
touch "$root/checks/output"

echo "--- boot"
timeout --kill-after=10 "$limit" systemd-nspawn --register=no --keep-unit --private-network --machine="$machine" \
	--directory="$root" --boot </dev/null >"$work/console" 2>&1 &
container=$!
tail -n +1 -f -s 0.2 --pid="$container" "$root/checks/output"
booted=0
wait "$container" || booted=$?
container=

status=$(cat "$root/checks/status" 2>/dev/null || echo none)
case $status in
0) echo "make test-systemd: ok" ;;
none)
	echo "The checks did not come to their end within ${limit}s (systemd-nspawn: status $booted). The console's last lines:" >&2
	tail -n 40 "$work/console" >&2
	exit 1
	;;
*)
	echo "make test-systemd: FAILED (status $status)" >&2
	exit 1
	;;
esac
