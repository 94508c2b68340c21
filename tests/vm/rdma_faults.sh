#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1
# Queue pairs, keys, limits and endpoints fail under the rdma transport: what was asked for is done, or says why not.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited -n 65536
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
[ -x "$B/tests/unit/rdma_faults" ] || fail "$B/tests/unit/rdma_faults was not built"
"$B/tests/unit/rdma_faults" "$@"
