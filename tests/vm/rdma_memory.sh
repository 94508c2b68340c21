#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=6.1 memory=3072 seconds=600
# Registration with soft-RoCE NICs, over ordinary memory and over the module's.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
[ -x "$B/tests/unit/rdma_memory" ] || fail "$B/tests/unit/rdma_memory was not built"
"$B/tests/unit/rdma_memory"
