#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The library on top of the module: the same test programs as on the host, over the module's memory only.
# vm: alone memory=3072 seconds=1500
set -u
. "$(dirname "$0")/lib/guest.sh"
failed=0

export MODULE_ONLY=1
run() { # PROGRAM ARG...: no test of its may be skipped for want of the module
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
		failed=1
	fi
}

[ -c /dev/mooncake ] || fail "there is no /dev/mooncake"
ip link set lo up
mkdir -p /host/tests
for program in kdev memory memory_named shm_transport shm_death; do run "$B/tests/unit/$program"; done
run "$B/tests/api/transfer" shm-module
exit $failed
