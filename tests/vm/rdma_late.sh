#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=hand
# Writes that a slow wire holds back find no queue pair once what they were for was sent anew, or has ended.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_wire 0
vm_rxe_wire 1
modprobe -a ifb sch_netem sch_ingress act_mirred cls_matchall 2>/dev/null
ip link add slow0 type ifb 2>/dev/null || skip "kernel $KVER has no ifb device"
cleanup() {
	tc qdisc del dev v1 ingress 2>/dev/null
	ip link del slow0
}
trap cleanup EXIT
ip link set slow0 up
# Where it arrives: a queue pair that is destroyed would wait for packets that its own side still holds.
tc qdisc add dev slow0 root netem delay 1500ms limit 100000 || skip "kernel $KVER has no netem"
tc qdisc add dev v1 handle ffff: ingress || fail "no ingress on v1"
tc filter add dev v1 parent ffff: matchall action mirred egress redirect dev slow0 || fail "no redirection"
ulimit -l unlimited -n 65536
export MOONCAKE_RDMA_TIMEOUT=20 SLOW_WIRE=1
# An emulated processor may be too slow for the last test, the proof that the others can fail.
[ "$SERIES" != uml ] || export PROOF=yes
"$B/tests/unit/rdma_late" "$@"
