#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1,6.12
# The test body that every transport passes, over rdma, with memory of the library and of malloc().
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
[ -x "$B/tests/api/transfer" ] || fail "$B/tests/api/transfer was not built"
"$B/tests/api/transfer" rdma || exit
"$B/tests/api/transfer" rdma-malloc
