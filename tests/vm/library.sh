#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The library on top of the module: the same test programs as on the host, over the module's memory only.
# vm: alone memory=3072 seconds=1500
set -u
. "$(dirname "$0")/lib/guest.sh"
. "$REPO/tests/vm/lib/library.sh"

for program in kdev memory memory_named; do library_run "$B/tests/unit/$program"; done
library_run "$B/tests/api/transfer" shm-module

# The example: shared by a key and taken back; kept, and found again.
library_run "$B/examples/kernel_buffer"
for times in 0 1; do
	library_run "$B/examples/kernel_buffer" library-example
	grep -q "opened $times times" /host/tests/library-kernel_buffer-library-example.log || fail "kept memory was not found again"
done

# The tool: sees what the example kept.
mooncake=$B/bin/mooncake
"$mooncake" memory ls | grep -q 'library-example *module-kept' || fail "memory ls: $("$mooncake" memory ls)"
"$mooncake" memory show library-example | grep -q 'runs of adjacent pages' || fail "memory show: $("$mooncake" memory show library-example)"
"$mooncake" memory show --json library-example | grep -q '"kind": "module-kept"' || fail "memory show --json"
"$mooncake" memory revoke library-example 2>/dev/null && fail "memory revoke does not ask for --yes"
"$mooncake" memory revoke --yes --json library-example | grep -q '"pinned_pages": 0' || fail "memory revoke"
"$mooncake" memory unlink library-example || fail "memory unlink"
"$mooncake" doctor --json >/host/tests/doctor.json
grep -q 'loaded.*it can: keep' /host/tests/doctor.json || fail "doctor does not know the module: $(cat /host/tests/doctor.json)"
grep -q 'kept, all users' /host/tests/doctor.json || fail "doctor does not know the limits"
library_end
