#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1,6.12
# Two soft-RoCE devices of one guest reach each other over the wire between them, one message of every size twice.
. "$REPO/tests/vm/lib/guest.sh"
command -v ibv_rc_pingpong >/dev/null || skip "ibv_rc_pingpong (package ibverbs-utils) is not installed"
vm_rxe_pair
received() { cat "/sys/class/infiniband/$1/ports/1/hw_counters/rcvd_pkts"; }
before=$(received rxe1)
ibv_rc_pingpong -d rxe1 -g 1 -n 50 -s 65536 &
server=$!
wait_for 20 sh -c 'grep -q ":4853 " /proc/net/tcp /proc/net/tcp6' || fail "the server does not listen"
ibv_rc_pingpong -d rxe0 -g 1 -n 50 -s 65536 10.9.0.2 || fail "the client ended with $?"
wait "$server" || fail "the server ended with $?"
[ "$(cat /sys/class/net/v1/statistics/rx_packets)" -gt 100 ] || fail "the traffic did not cross the wire"
[ "$(received rxe1)" -gt "$before" ] || fail "rxe1 counted no packet"
