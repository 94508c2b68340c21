#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=hand memory=3072 seconds=900
# The test body that every transport passes, over the classic form of rdma.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
[ -x "$B/tests/api/transfer" ] || fail "$B/tests/api/transfer was not built"
"$B/tests/api/transfer" rdma-classic && "$B/tests/api/transfer" rdma-classic-memfd
