#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: rxe kernels=6.1
# Devices, ports and addresses that are not there, go away, or change: a sentence that names them, status 1 or 2, or a run
# that goes on. Never a crash, never a wrong byte.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=15 # an emulated processor answers late
bench=$B/bin/transfer_engine_bench
work=$(mktemp -d)
server='' target='' initiator=''
cleanup() {
	for p in $initiator $target $server; do kill -9 "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	rm -rf "$work"
}
trap cleanup EXIT
"$B/bin/mooncake-metadata-server" --port=18081 >"$work/server" 2>&1 &
server=$!
meta=http://127.0.0.1:18081/metadata
wait_for 20 curl -sf "http://127.0.0.1:18081/health" -o /dev/null || fail "no metadata server: $(cat "$work/server")"

# refused WORDS FLAGS...: a target does not start, and its one sentence holds the words.
refused() {
	local words=$1 rc=0
	shift
	timeout 30 "$bench" --mode=target --metadata_server=$meta --local_server_name=x --buffer_size=1M --protocol=rdma "$@" \
		>"$work/refused" 2>&1 || rc=$?
	if [ $rc != 1 ] && [ $rc != 2 ]; then fail "status $rc instead of 1 or 2: $* $(cat "$work/refused")"; fi
	grep -q "$words" "$work/refused" || fail "'$words' is not in: $(cat "$work/refused")"
	echo "$rc: $(tail -n 1 "$work/refused")"
}
must() { # JSON CONDITION
	jq -e "$2" "$1" >/dev/null || fail "not so: $2 in $(cat "$1" "$1.err")"
}
active() { wait_for 10 grep -q ACTIVE "/sys/class/infiniband/$1/ports/1/state" || fail "$1 does not become active"; }

# ---- at the start ----

refused "no RDMA device 'mlx5_7' here; there are: .*rxe0" --device_name=mlx5_7
refused "no RDMA device 'rxe' here" --device_name=rxe
MC_IB_PORT=3 refused "rxe0 has no port 3" --device_name=rxe0
MC_GID_INDEX=77 refused "no GID at index 77" --device_name=rxe0
ip link set v0 down
refused "port 1 of rxe0 is down" --device_name=rxe0
refused "port 1 of rxe0 is down" --device_name=rxe1,rxe0
ip link set v0 up
vm_wire_routes 0
active rxe0
for device in /sys/class/infiniband/*; do rdma link delete "${device##*/}"; done
refused "no RDMA device" --device_name=
refused "no RDMA device" --device_name=rxe0
vm_rxe_pair
if command -v setpriv >/dev/null && [ "$(stat -c %a /dev/infiniband/uverbs0)" = 666 ]; then
	# Who may not lock memory: the limit is the kernel's, and its name is in the sentence.
	chmod 755 "$work"
	rc=0
	(ulimit -l 64 && exec setpriv --reuid=65534 --clear-groups --bounding-set=-all --inh-caps=-all timeout 30 "$bench" --mode=target \
		--metadata_server=$meta --local_server_name=x --buffer_size=8M --protocol=rdma --device_name=rxe0) >"$work/limit" 2>&1 || rc=$?
	[ $rc = 1 ] || [ $rc = 2 ] || fail "status $rc under a limit on locked memory: $(cat "$work/limit")"
	grep -q 'ulimit -l' "$work/limit" || fail "the limit on locked memory is not named: $(cat "$work/limit")"
	echo "$rc: $(tail -n 1 "$work/limit")"
fi

# ---- under way ----

"$bench" --mode=target --metadata_server=$meta --local_server_name=t --protocol=rdma --device_name=rxe1 --buffer_size=8M \
	>"$work/target" 2>&1 &
target=$!
wait_for 60 grep -q Ready "$work/target" || fail "the target is not ready: $(cat "$work/target")"

# during NAME COMMAND...: the command runs while data is written and checked; nothing fails.
sent() { cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts; }
sent_more() { [ "$(sent)" -gt $(($1 + 200)) ]; }
during() {
	local name=$1 before
	shift
	before=$(sent)
	"$bench" --mode=initiator --metadata_server=$meta --local_server_name=i --segment_id=t --protocol=rdma --device_name=rxe0 \
		--buffer_size=8M --block_size=64K --batch_size=4 --threads=1 --operation=write --check --json --duration=6 \
		--open_timeout_ms=60000 >"$work/$name" 2>"$work/$name.err" &
	initiator=$!
	wait_for 30 sent_more "$before" || fail "$name: no load: $(cat "$work/$name" "$work/$name.err")"
	"$@"
	wait "$initiator" || fail "$name: $(cat "$work/$name" "$work/$name.err")"
	initiator=''
	must "$work/$name" '.failed == 0 and .timed_out == 0 and .wrong_bytes == 0 and .bytes > 0'
	echo "$name: $(jq -c '{throughput, duration}' "$work/$name")"
}
new_address() { # the GID goes, and comes back at whatever index is free
	ip addr del 10.9.0.1/32 dev v0
	sleep 1
	ip addr add 10.9.0.1/32 dev v0
	vm_wire_routes 0
}
one_more() { # an address of no interest
	ip addr add 10.9.77.1/32 dev v1
	sleep 1
	ip addr del 10.9.77.1/32 dev v1
}
new_name() { # of the interface below the target's device
	ip link set v1 down
	ip link set v1 name w1
	ip link set w1 up
	sleep 1
	ip link set w1 down
	ip link set w1 name v1
	ip link set v1 up
	vm_wire_routes 0
}
during address new_address
during another one_more
during name new_name
kill -0 "$target" || fail "the target is gone: $(cat "$work/target")"
