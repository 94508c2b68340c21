#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1
# Queue pairs, keys, limits, endpoints and processes fail under the rdma transport: what was asked for is done, or says why not.
#   rdma_faults.sh [PROGRAM [TEST]]
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited -n 65536
export MOONCAKE_RDMA_TIMEOUT=15 # an emulated processor answers late
for program in ${1:-rdma_faults rdma_crowd}; do
	[ -x "$B/tests/unit/$program" ] || fail "$B/tests/unit/$program was not built"
	"$B/tests/unit/$program" ${2:+"$2"} || exit
done
