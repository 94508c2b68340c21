#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The same-host transport over the module's memory: the test programs of the host, strangers and liars first.
# vm: alone memory=3072 seconds=1500 kernels=6.1
set -u
. "$(dirname "$0")/lib/guest.sh"
. "$REPO/tests/vm/lib/library.sh"
for program in shm_strangers shm_death shm_transport; do library_run "$B/tests/unit/$program"; done
library_end
