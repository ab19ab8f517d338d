#!/usr/bin/env bash
# Installs Debian packages when that needs no question: as root, or through a
# sudo that asks for no password. Otherwise it stops with the command to type.
#
# usage: scripts/apt-install.sh WHY PACKAGE...
set -euo pipefail

why=$1
shift

if [ "$(id -u)" = 0 ]; then
	as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root=(sudo -n)
else
	as_root=(false)
fi

if ! command -v apt-get >/dev/null || [ "${as_root[0]:-}" = false ]; then
	{
		echo "$why. Install it and try again; on Debian or Ubuntu:"
		echo "    sudo apt-get install $*"
	} >&2
	exit 1
fi

echo "$why: installing $*" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update >&2 || echo "apt-get update failed; trying with the lists as they are" >&2
"${apt[@]}" install -y --no-install-recommends "$@" </dev/null >&2
