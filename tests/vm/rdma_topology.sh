#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=6.1 memory=3072 seconds=1200
# What users see of RDMA devices: topology as text, JSON and matrix; the matrix read back; which GID and why; doctor with a
# peer that has one good wire and a broken one; and an interface that goes down under load, told by netlink.
. "$REPO/tests/vm/lib/guest.sh"
command -v jq >/dev/null || skip "jq is not installed"
vm_rxe_wire 0
vm_rxe_wire 1
ulimit -l unlimited
export MOONCAKE_RDMA_TIMEOUT=17 # an emulated processor answers late
mooncake=$B/bin/mooncake bench=$B/bin/transfer_engine_bench
work=$(mktemp -d)
server='' target='' initiator=''
cleanup() {
	for p in $initiator $target $server; do kill -9 "$p" 2>/dev/null; done
	ip link set v2 up
	ip addr add 10.9.1.1/32 dev v2 2>/dev/null
	vm_wire_routes 1
	rm -rf "$work"
}
trap cleanup EXIT
so() { # FILE CONDITION
	jq -e "$2" "$1" >/dev/null || fail "not so: $2 in $(cat "$1")"
}
says() { # FILE TEXT
	grep -qF -- "$2" "$1" || fail "lacks \"$2\": $(cat "$1")"
}
gid_of() { jq -r ".rdma_devices[] | select(.name == \"$2\") | .port_list[0].gid_index" "$1"; }

echo "# topology"
"$mooncake" topology >"$work/text" || fail "topology: $?"
says "$work/text" "rxe0 port 1: GID 1, RoCE v2 10.9.0.1, chosen by itself"
"$mooncake" topology --json >"$work/json" || fail "topology --json: $?"
so "$work/json" '.netlink'
for n in 0 1 2 3; do
	so "$work/json" ".rdma_devices[] | select(.name == \"rxe$n\") | .active_ports == 1 and .port_list[0].netdev == \"v$n\""
	so "$work/json" ".netdevs[] | select(.name == \"v$n\") | .state == \"up\" and .mtu == $(cat /sys/class/net/v$n/mtu)"
done
[ "$(gid_of "$work/json" rxe0)" = 1 ] || fail "rxe0 does not take the IPv4 GID"
MC_GID_INDEX=0 "$mooncake" topology --json >"$work/json0"
[ "$(gid_of "$work/json0" rxe0)" = 0 ] || fail "MC_GID_INDEX is not honoured"
so "$work/json0" '.rdma_devices[0].port_list[0].gid_why | test("MC_GID_INDEX")'
MC_GID_INDEX=77 "$mooncake" doctor --json >"$work/doctor77" && fail "doctor is content with a GID index that is not there"
so "$work/doctor77" '.findings[] | select(.check == "RDMA GID" and .status == "fail") | .detail | test("77")'
"$mooncake" topology --matrix >"$work/matrix" || fail "topology --matrix: $?"
so "$work/matrix" '[.["cpu:0"][][]] | sort == ["rxe0", "rxe1", "rxe2", "rxe3"]'

echo "# doctor alone"
"$mooncake" doctor --json >"$work/doctor" || fail "doctor: $(cat "$work/doctor")"
so "$work/doctor" '[.findings[] | select(.check == "RDMA" and .status == "ok")] | length == 4'
so "$work/doctor" '.findings[] | select(.check == "RDMA engine") | .status == "ok"'

"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
server=$!
meta=http://127.0.0.1:18080/metadata
wait_for 60 curl -sf "http://127.0.0.1:18080/health" -o /dev/null || fail "no metadata server: $(cat "$work/server")"
start_target() { # FLAGS...
	: >"$work/target" # what the one before said counts no more
	"$bench" --mode=target --metadata_server=$meta --local_server_name=t --protocol=rdma --buffer_size=16M "$@" >"$work/target" 2>&1 &
	target=$!
	wait_for 60 grep -q Ready "$work/target" || fail "the target is not ready: $(cat "$work/target")"
}
end_target() {
	kill "$target"
	wait "$target"
	target=''
}
initiate=("$bench" --mode=initiator "--metadata_server=$meta" --local_server_name=i --segment_id=t --protocol=rdma
	--buffer_size=16M --block_size=64K --batch_size=4 --threads=1 --json --open_timeout_ms=60000)
run() { MOONCAKE_LOG=info "${initiate[@]}" --duration=1 "$@" 2>"$work/run.err"; }
nics() { sed -n 's/^NIC \(rxe[0-9]\):.*/\1/p' "$work/target" | paste -sd,; }

echo "# the matrix, read back; discovery; names"
jq '{"cpu:0": [["rxe3"], ["rxe1"]]}' "$work/matrix" >"$work/two"
start_target --nic_priority_matrix="$work/matrix"
[ "$(nics)" = rxe0,rxe1,rxe2,rxe3 ] || fail "the matrix of topology, and $(nics) are used"
end_target
MOONCAKE_RDMA_DEVICES=rxe2 start_target --auto_discovery --device_name=rxe3 --nic_priority_matrix="$work/two"
[ "$(nics)" = rxe0,rxe1,rxe2,rxe3 ] || fail "--auto_discovery, and $(nics) are used"
end_target
start_target --nic_priority_matrix="$work/two"
[ "$(nics)" = rxe1,rxe3 ] || fail "the matrix names rxe3 and rxe1, and $(nics) are used"
end_target
start_target --device_name=rxe1
[ "$(nics)" = rxe1 ] || fail "--device_name=rxe1, and $(nics) are used"
says "$work/target" "NIC rxe1: GID 1, RoCE v2 10.9.0.2"
echo '{"cpu:0": [["rxe0", "rxe9"], []]}' >"$work/one"
run --nic_priority_matrix="$work/one" >"$work/r1" || fail "--nic_priority_matrix: $(cat "$work/r1" "$work/run.err")"
says "$work/run.err" "no such RDMA device"
run --device_name=rxe0 --nojson >"$work/r0" || fail "--device_name: $(cat "$work/r0" "$work/run.err")"
says "$work/r0" "NIC:       rxe0: GID 1, RoCE v2 10.9.0.1"
so "$work/r1" '.failed == 0 and .batches > 0'
so "$work/r1" '[.paths[0].paths[0].rails[] | .own + ":" + .peer] == ["rxe0:rxe1"]'
so "$work/r1" '.paths[0].paths[0].rails[0].own_gid_why | test("GID 1")'
echo '{"cpu:0": "rxe0"}' >"$work/bad"
run --nic_priority_matrix="$work/bad" >"$work/r2" && fail "a matrix of another form is taken"
says "$work/run.err" "not of the form"
end_target

echo "# doctor with a peer"
start_target --device_name=rxe1,rxe3
doctor() { "$mooncake" doctor --metadata_server=$meta --device_name=rxe0,rxe2 "$@"; }
doctor --json t >"$work/both" || fail "two good wires: $(cat "$work/both")"
for pair in 0:1 2:3; do
	so "$work/both" ".rails[] | select(.own == \"rxe${pair%:*}\" and .peer == \"rxe${pair#*:}\") | .state == \"up\" and .bytes_per_second > 0 and .mtu == 1024"
done
ip addr del 10.9.1.1/32 dev v2
wait_for 30 sh -c '! grep -q ffff:0a09:0101 /sys/class/infiniband/rxe2/ports/1/gids/*' || fail "the GID of rxe2 does not go"
doctor --json t >"$work/gid" && fail "doctor is content without a GID"
so "$work/gid" '.rails[] | select(.own == "rxe0" and .peer == "rxe1") | .state == "up"'
so "$work/gid" '.rails[] | select(.own == "rxe2" and .peer == "rxe3") | .state == "failed" and (.fix | test("network interface of rxe2.*ip addr add"))'
so "$work/gid" '.findings[] | select(.check == "rxe2:rxe3") | .status == "fail"'
# As text, with the row and the sentence that a user sees.
doctor t >"$work/gid.text" && fail "doctor is content without a GID"
grep -qE '^rxe2 +rxe3 +failed ' "$work/gid.text" || fail "no row of the broken pair: $(cat "$work/gid.text")"
says "$work/gid.text" "fix: give the network interface of rxe2 an address"
ip addr add 10.9.1.1/32 dev v2
vm_wire_routes 1
wait_for 30 sh -c 'grep -q ffff:0a09:0101 /sys/class/infiniband/rxe2/ports/1/gids/*' || fail "the GID of rxe2 does not come back"
"$mooncake" doctor --metadata_server=$meta nobody >"$work/nobody" && fail "doctor reaches a segment that is not there"
says "$work/nobody" "nobody"

echo "# an interface goes down"
: >"$work/cut.err"
MOONCAKE_LOG=info "${initiate[@]}" --duration=120 --operation=write --device_name=rxe0,rxe2 >"$work/cut" 2>"$work/cut.err" &
initiator=$!
wait_for 60 grep -q 'using rxe2' "$work/cut.err" || fail "no initiator: $(cat "$work/cut.err")"
sleep 4
ip link set v2 down
wait_for 30 grep -q 'network interface of rxe2 is down' "$work/cut.err" || fail "netlink told nothing: $(cat "$work/cut.err")"
wait_for 30 grep -q 'port 1 of rxe2 is down' "$work/cut.err" || fail "the rail does not rest: $(cat "$work/cut.err")"
doctor --json t >"$work/down" 2>&1 && fail "doctor is content with an interface that is down"
so "$work/down" '.findings[] | select(.check == "RDMA port") | .status == "fail" and (.fix | test("ip link set v2 up"))'
so "$work/down" '.rails[] | select(.own == "rxe0" and .peer == "rxe1") | .state == "up"'
so "$work/down" '.rails[] | select(.own == "rxe0" and .peer == "rxe3") | .state == "down" and (.fix | test("on the peer: bring the network interface of rxe3 up"))'
ip link set v2 up
vm_wire_routes 1
wait_for 30 grep -q 'network interface of rxe2 is up' "$work/cut.err" || fail "netlink told nothing of its return: $(cat "$work/cut.err")"
kill -TERM "$initiator"
wait "$initiator" || fail "with an interface down: $(cat "$work/cut" "$work/cut.err")"
initiator=''
so "$work/cut" '.failed == 0 and .timed_out == 0'
end_target
echo "rails: $(jq -c '[.rails[] | {own, peer, state, bytes_per_second}]' "$work/both")"
