#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=7 seconds=600
# Network name spaces: soft-RoCE of newer kernels lives in one. A target in one space, an initiator in another, in both modes
# of the RDMA subsystem: shared (each space sees all devices) and exclusive (its own).
. "$REPO/tests/vm/lib/guest.sh"
modprobe -a veth ib_uverbs rdma_ucm 2>/dev/null
modprobe rdma_rxe || skip "kernel $KVER has no soft-RoCE"
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
bench=$B/bin/transfer_engine_bench
work=$(mktemp -d)
jobs=()
cleanup() {
	for p in "${jobs[@]}"; do kill -9 "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	jobs=()
	for n in a b; do
		ip netns exec $n rdma link delete rxe-$n 2>/dev/null
		ip netns del $n 2>/dev/null
	done
	rm -rf "$work"
}
trap cleanup EXIT
in_space() { # NAME COMMAND...
	local space=$1
	shift
	ip netns exec "$space" "$@"
}
job() { # NAME COMMAND...: a process that can be ended by its id
	(exec ip netns exec "$@") &
	jobs+=($!)
}
build() {
	ip netns add a
	ip netns add b
	ip link add va netns a type veth peer name vb netns b
	for n in a b; do
		in_space $n ip link set lo up
		in_space $n ip link set v$n up
	done
	in_space a ip addr add 10.9.6.1/24 dev va
	in_space b ip addr add 10.9.6.2/24 dev vb
	for n in a b; do in_space $n rdma link add rxe-$n type rxe netdev v$n || fail "rdma link add rxe-$n"; done
}
run() { # MODE
	# Name spaces that were deleted go a little later; while there are any the mode cannot change.
	wait_for 20 rdma system set netns "$1" 2>/dev/null || skip "this kernel has no mode '$1'"
	mkdir -p "$work"
	build
	# A device is made in the first space, and only there to be seen in exclusive mode.
	for n in a b; do
		in_space $n rdma link | grep -q rxe-$n || rdma dev set rxe-$n netns $n || fail "rxe-$n does not move to space $n"
	done
	echo "$1: space a sees $(in_space a rdma link | grep -c rxe) devices, space b $(in_space b rdma link | grep -c rxe)"
	job b "$B/bin/mooncake-metadata-server" --port=18084 --bind=10.9.6.2 --insecure >"$work/server" 2>&1
	wait_for 20 in_space a curl -sf http://10.9.6.2:18084/health -o /dev/null || fail "no metadata server: $(cat "$work/server")"
	job b "$bench" --mode=target --metadata_server=http://10.9.6.2:18084/metadata --local_server_name=t --protocol=rdma \
		--device_name=rxe-b --buffer_size=4M >"$work/target" 2>&1
	wait_for 60 grep -q Ready "$work/target" || fail "the target is not ready: $(cat "$work/target")"
	in_space a "$bench" --mode=initiator --metadata_server=http://10.9.6.2:18084/metadata --local_server_name=i --segment_id=t \
		--protocol=rdma --device_name=rxe-a --buffer_size=4M --block_size=64K --batch_size=4 --threads=1 --check --json \
		--open_timeout_ms=60000 --duration=5 >"$work/run" 2>"$work/run.err" || fail "$1: $(cat "$work/run.err")"
	jq -e '.failed == 0 and .wrong_bytes == 0 and .bytes > 0' "$work/run" >/dev/null || fail "$1: $(cat "$work/run")"
	echo "$1: $(jq -c '{throughput, bytes}' "$work/run")"
	cleanup
}
run shared
run exclusive
rdma system set netns shared
