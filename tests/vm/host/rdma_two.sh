#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: kernels=hand
# Two guests with a wire between them, soft-RoCE on each: a target in one, an initiator in the other, patterns written and read
# back. In the guests this script runs again, as "rdma_two.sh target" and "rdma_two.sh initiator". On the host, "rdma_two.sh uml"
# takes two User-mode Linuxes instead, whose wire is multicast in a network name space of their own.
set -u
port=18083 name=two

in_guest() { # OWN-ADDRESS
	. "$REPO/tests/vm/lib/guest.sh"
	modprobe virtio_net 2>/dev/null
	wait_for 20 test -d /sys/class/net/eth0 || fail "the wire's device is not there"
	ip addr add "$1/24" dev eth0
	ip link set eth0 mtu 4200 2>/dev/null # for RoCE's 4096
	ip link set eth0 up
	modprobe -a ib_uverbs rdma_ucm 2>/dev/null
	modprobe rdma_rxe || skip "kernel $KVER has no soft-RoCE"
	rdma link add rxe0 type rxe netdev eth0 || fail "rdma link add rxe0"
	wait_for 10 grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state || fail "rxe0 does not become active"
	ulimit -l unlimited
	export MOONCAKE_RDMA_TIMEOUT=17
	bench=$B/bin/transfer_engine_bench
	meta=http://10.9.5.1:$port/metadata
}
case ${1:-} in
target)
	in_guest 10.9.5.1
	"$B/bin/mooncake-metadata-server" --port=$port --bind=10.9.5.1 --insecure &
	wait_for 20 curl -sf "http://10.9.5.1:$port/health" -o /dev/null || fail "no metadata server"
	"$bench" --mode=target --metadata_server=$meta --local_server_name=$name --protocol=rdma --buffer_size=8M &
	wait_for 400 test -e /host/stop || fail "the other guest did not end"
	exit 0 ;;
initiator)
	in_guest 10.9.5.2
	wait_for 150 curl -m 5 -sf "$meta?key=mooncake/ram/$name" -o /dev/null || fail "the target is not published"
	for flags in "--check" "--operation=write" "--operation=read"; do
		"$bench" --mode=initiator --metadata_server=$meta --local_server_name=i --segment_id=$name --protocol=rdma \
			--buffer_size=8M --block_size=64K --batch_size=4 --threads=1 --duration=6 --json $flags >/tmp/run ||
			fail "$flags: $(cat /tmp/run)"
		jq -e '.failed == 0 and .timed_out == 0 and .bytes > 0 and (.wrong_bytes // 0) == 0' /tmp/run >/dev/null ||
			fail "$flags: $(cat /tmp/run)"
		echo "$flags: $(jq -c '{throughput, bytes}' /tmp/run)"
	done
	exit 0 ;;
esac

. "$(dirname "$0")/../lib/common.sh"
. "$VM/lib/host.sh"
[ -x "$B/bin/transfer_engine_bench" ] || die "build the tools first"
dir=$B/vm/rdma_two
mkdir -p "$dir"
rm -f "$dir/wire" "$B/vm/rdma_two-target/stop"
if [ "${1:-}" = uml ]; then
	[ -n "${RDMA_TWO_SPACE:-}" ] || RDMA_TWO_SPACE=yes exec unshare -n "$0" uml
	ip link set lo up multicast on && ip route add 239.0.0.0/8 dev lo || die "no multicast on lo"
	# shellcheck disable=SC2054 # commas of the kernel's
	listen=(-k uml -a eth0=mcast,52:54:00:09:00:01,239.192.168.1,1102,0)
	# shellcheck disable=SC2054 # commas of the kernel's
	connect=(-k uml -a eth0=mcast,52:54:00:09:00:02,239.192.168.1,1102,0)
else
	command -v qemu-system-x86_64 >/dev/null || cannot "there is no qemu-system-x86_64; scripts/deps --test installs it"
	mapfile -t listen < <(vm_link "$dir/wire" listen 1)
	mapfile -t connect < <(vm_link "$dir/wire" connect 2)
fi
"$VM/run" -n rdma_two-target -t 600 "${listen[@]}" "$(realpath "$0")" target &
other=$!
cleanup() { kill "$other" 2>/dev/null; }
trap cleanup EXIT
for ((i = 0; i < 100; i++)); do
	[ ! -S "$dir/wire" ] && [ "${1:-}" != uml ] || break
	sleep 0.1
done
"$VM/run" -n rdma_two-initiator -t 500 "${connect[@]}" "$(realpath "$0")" initiator
rc=$?
touch "$B/vm/rdma_two-target/stop"
wait "$other" || { [ $rc != 0 ] || rc=1; }
trap - EXIT
exit $rc
