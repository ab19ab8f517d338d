#!/usr/bin/env bash
# Makes sure that there is a C compiler, which the race detector needs.
set -euo pipefail

works() { printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' | "${CC:-gcc}" -x c -o /dev/null - 2>/dev/null; }

works || "$(dirname "${BASH_SOURCE[0]}")/apt-install.sh" "go test -race needs a C compiler" gcc libc6-dev
works || {
	echo "go test -race needs a C compiler: set CC, or install gcc" >&2
	exit 1
}
