#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=6.1 memory=3072 seconds=400
# The P2P store over soft-RoCE: a trainer, and two inferencers that fetch at one time, on two NICs; every piece is verified,
# the bytes go over the NICs, and a receiver serves the other.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
example=$B/bin/p2p-store-example
[ -x "$example" ] || skip "built without the P2P store"
work=$(mktemp -d)
pids=()
cleanup() {
	for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null; done
	rm -rf "$work"
}
trap cleanup EXIT
"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
pids+=($!)
meta=http://127.0.0.1:18080/metadata
wait_for 20 curl -sf "http://127.0.0.1:18080/health" -o /dev/null || fail "no metadata server: $(cat "$work/server")"
sent() { cat "/sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts"; }

"$example" --cmd=trainer --metadata_server=$meta --local_server_name=trainer --protocol=rdma --device_name=rxe1 --file_size_mb=24 \
	--idle=300 >"$work/trainer" 2>&1 &
trainer=$!
pids+=("$trainer")
wait_for 60 grep -q '^Idle' "$work/trainer" || fail "the trainer is not ready: $(cat "$work/trainer")"
a=$(sent rxe1)
for i in 1 2; do
	"$example" --cmd=inferencer --metadata_server=$meta --local_server_name="inferencer$i" --protocol=rdma --device_name=rxe0,rxe1 \
		--file_size_mb=24 --keep --idle=300 >"$work/inferencer$i" 2>&1 &
	pids+=($!)
done
for i in 1 2; do
	wait_for 200 grep -q '^Verified' "$work/inferencer$i" || fail "inferencer $i: $(cat "$work/inferencer$i")"
done
[ $(($(sent rxe1) - a)) -gt 5000 ] || fail "the trainer's NIC sent only $(($(sent rxe1) - a)) packets"

# A third one, after the trainer: only receivers are left to serve it.
kill -9 "$trainer"
"$example" --cmd=inferencer --metadata_server=$meta --local_server_name=inferencer3 --protocol=rdma --device_name=rxe0,rxe1 \
	--file_size_mb=24 >"$work/inferencer3" 2>&1 || fail "after the trainer's death: $(cat "$work/inferencer3")"
grep -q '^ALL DONE' "$work/inferencer3" || fail "no ALL DONE"
grep -h '^Object retrieval done\|^Verified' "$work"/inferencer?
