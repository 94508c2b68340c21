#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1
# Queue pairs, keys, limits, endpoints and processes fail under the rdma transport: what was asked for is done, or says why not.
#   rdma_faults.sh [PROGRAM [TEST]]
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited -n 65536
export MOONCAKE_RDMA_TIMEOUT=15 # an emulated processor answers late
# Fewer of all than where the processor is real; tests/unit/rdma_crowd runs there with a NIC in software.
export TARGETS=${TARGETS:-20} ROUNDS=${ROUNDS:-1} SPOILS=${SPOILS:-6} SHEETS=${SHEETS:-8}
for program in ${1:-rdma_faults rdma_crowd}; do
	[ -x "$B/tests/unit/$program" ] || fail "$B/tests/unit/$program was not built"
	"$B/tests/unit/$program" ${2:+"$2"} || exit
done
