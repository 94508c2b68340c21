# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For guest scripts that run the library's own test programs over the module's memory.
export MODULE_ONLY=1
library_failed=0

library_run() { # PROGRAM ARG...: none of its tests may be skipped for want of the module
	local name rc=0 log
	name=$(basename "$1")
	log=/host/tests/library-$name${2:+-$2}.log
	timeout --kill-after=10 "${TEST_SECONDS:-300}" "$@" >"$log" 2>&1 </dev/null || rc=$?
	if grep -q 'skipped: memory of the kernel module' "$log"; then
		rc=1
		echo "the module is loaded, and $name did not run over it"
	fi
	if [ $rc = 0 ]; then
		echo "$name${2:+ $2}: $(grep -c '^\[       OK' "$log") tests"
	else
		echo "FAIL $name${2:+ $2} (status $rc)"
		grep -vE '^\[ RUN |^\[       OK' "$log" | tail -n 40 | sed 's/^/    /'
		library_failed=1
	fi
}

library_end() { exit $library_failed; }

[ -c /dev/mooncake ] || fail "there is no /dev/mooncake"
ip link set lo up
mkdir -p /host/tests
