#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=6.1 memory=3072 seconds=600
# Two NICs on each side, a wire each: both carry data; one wire is cut under load and comes back. No request fails, no byte is
# wrong, and afterwards both are used again. Then the target is killed, and restarted under its name.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_wire 0
vm_rxe_wire 1
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
bench=$B/bin/transfer_engine_bench
work=$(mktemp -d)
server='' target='' initiator=''
cleanup() {
	for p in $initiator $target $server; do kill -9 "$p" 2>/dev/null; done
	rm -rf "$work"
}
trap cleanup EXIT
"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
server=$!
meta=http://127.0.0.1:18080/metadata
wait_for 20 curl -sf "http://127.0.0.1:18080/health" -o /dev/null || fail "no metadata server: $(cat "$work/server")"
start_target() {
	: >"$work/target" # what an earlier one wrote is not to be taken for this one's
	"$bench" --mode=target --metadata_server=$meta --local_server_name=t --protocol=rdma --device_name=rxe1,rxe3 \
		--buffer_size=16M >"$work/target" 2>&1 &
	target=$!
	wait_for 60 grep -q Ready "$work/target" || fail "the target is not ready: $(cat "$work/target")"
}
run() { # SECONDS FLAGS...
	local seconds=$1
	shift
	"$bench" --mode=initiator --metadata_server=$meta --local_server_name=i --segment_id=t --protocol=rdma \
		--open_timeout_ms=60000 --device_name=rxe0,rxe2 --buffer_size=16M --block_size=256K --batch_size=4 --threads=1 \
		--duration="$seconds" --json "$@"
}
sent() { cat "/sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts"; }
must() { # JSON CONDITION
	jq -e "$2" "$1" >/dev/null || fail "not so: $2 in $(cat "$1")"
}

start_target
a=$(sent rxe0) b=$(sent rxe2)
run 6 --operation=write --check >"$work/both" || fail "over both: $(cat "$work/both")"
must "$work/both" '.failed == 0 and .wrong_bytes == 0'
[ $(($(sent rxe0) - a)) -gt 100 ] || fail "rxe0 carried nothing"
[ $(($(sent rxe2) - b)) -gt 100 ] || fail "rxe2 carried nothing"

a=$(sent rxe0)
run 24 --operation=write --check >"$work/cut" 2>"$work/cut.err" &
initiator=$!
loaded() { [ $(($(sent rxe0) - a)) -gt 400 ]; }
wait_for 40 loaded || fail "nothing is sent: $(cat "$work/cut.err")"
ip link set v0 down
sleep 4
b=$(sent rxe2)
sleep 3
[ $(($(sent rxe2) - b)) -gt 50 ] || fail "nothing goes over the wire that is left: $(cat "$work/cut.err")"
ip link set v0 up
vm_wire_routes 0
wait_for 10 grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state || fail "rxe0 does not come back"
wait "$initiator" || fail "with a cut wire: $(cat "$work/cut" "$work/cut.err")"
initiator=''
must "$work/cut" '.failed == 0 and .timed_out == 0 and .wrong_bytes == 0'
a=$(sent rxe0)
run 8 --operation=read --check >"$work/again" || fail "after the cut: $(cat "$work/again")"
must "$work/again" '.wrong_bytes == 0'
[ $(($(sent rxe0) - a)) -gt 50 ] || fail "rxe0 is not used again"

a=$(sent rxe0)
run 30 --operation=write --timeout_ms=4000 >"$work/killed" 2>"$work/killed.err" &
initiator=$!
loaded() { [ $(($(sent rxe0) - a)) -gt 400 ]; }
wait_for 40 loaded || fail "nothing is sent: $(cat "$work/killed.err")"
kill -9 "$target"
wait "$target" 2>/dev/null
sleep 1
start_target
wait "$initiator"
initiator=''
[ -s "$work/killed" ] || fail "no result after the target was killed: $(cat "$work/killed.err")"
must "$work/killed" '.reopened >= 1 and .duration < 45'
echo "cut: $(jq -c '{throughput, batch_latency_us}' "$work/cut"); killed: $(jq -c '{duration, failed, stale, timed_out, reopened}' "$work/killed")"
