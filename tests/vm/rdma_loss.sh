#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1
# A wire that loses 1 to 3 packets of a hundred and takes 2 ms: every byte is right, and there is progress.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
modprobe sch_netem 2>/dev/null
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=15 # an emulated processor answers late
bench=$B/bin/transfer_engine_bench
work=$(mktemp -d)
server='' target=''
cleanup() {
	for p in $target $server; do kill -9 "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	tc qdisc del dev v0 root 2>/dev/null
	tc qdisc del dev v1 root 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
"$B/bin/mooncake-metadata-server" --port=18082 >"$work/server" 2>&1 &
server=$!
meta=http://127.0.0.1:18082/metadata
wait_for 20 curl -sf "http://127.0.0.1:18082/health" -o /dev/null || fail "no metadata server: $(cat "$work/server")"
"$bench" --mode=target --metadata_server=$meta --local_server_name=t --protocol=rdma --device_name=rxe1 --buffer_size=4M \
	>"$work/target" 2>&1 &
target=$!
wait_for 60 grep -q Ready "$work/target" || fail "the target is not ready: $(cat "$work/target")"
lossy() { # PERCENT OPERATION
	for d in v0 v1; do
		tc qdisc replace dev $d root netem delay 2ms loss "$1%" limit 10000 || skip "kernel $KVER has no netem"
	done
	"$bench" --mode=initiator --metadata_server=$meta --local_server_name=i --segment_id=t --protocol=rdma \
		--open_timeout_ms=60000 --device_name=rxe0 --buffer_size=4M --block_size=64K --batch_size=4 --threads=2 \
		--operation="$2" --check --json --duration="${LOSS_SECONDS:-4}" >"$work/run" 2>"$work/run.err" || fail "$*: $(cat "$work/run" "$work/run.err")"
	jq -e '.failed == 0 and .timed_out == 0 and .wrong_bytes == 0 and .bytes > 0' "$work/run" >/dev/null ||
		fail "$*: $(cat "$work/run" "$work/run.err")"
	echo "$1 % $2: $(jq -c '{throughput, duration, bytes}' "$work/run")"
}
lossy 1 write
lossy 3 read
tc -s qdisc show dev v0 | grep -Eq 'dropped [1-9]' || fail "nothing was lost: $(tc -s qdisc show dev v0)"
