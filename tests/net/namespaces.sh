#!/usr/bin/env bash
# Two hosts and one for metadata, as network namespaces joined by veth and a bridge: the bench runs across
# them over IPv4, over IPv6 alone, and with two addresses per host of which one is cut, before and meanwhile.
# shellcheck source=tests/net/common.sh disable=SC2034
. "$(dirname "$0")/common.sh"
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null || skip "no ip command (package iproute2)"
id=$$
m=mct-m-$id a=mct-a-$id b=mct-b-$id
for ns in "$m" "$a" "$b"; do
	ip netns add "$ns" 2>/dev/null || skip "this machine does not let us make network namespaces"
	namespaces+=("$ns")
	ip -n "$ns" link set lo up
done
in_m="ip netns exec $m" in_a="ip netns exec $a" in_b="ip netns exec $b"
# Two switches in m, one per network; each host has a leg in both.
for net in 1 2; do
	ip -n "$m" link add "br$net" type bridge
	ip -n "$m" link set "br$net" up
	for host in a b; do
		ns=${!host}
		ip link add "v$net$host$id" type veth peer name "p$net$host$id"
		ip link set "v$net$host$id" netns "$ns"
		ip link set "p$net$host$id" netns "$m"
		ip -n "$ns" link set "v$net$host$id" name "eth$net"
		ip -n "$m" link set "p$net$host$id" name "to_$host$net" master "br$net" up
		ip -n "$ns" link set "eth$net" up
	done
	ip -n "$m" addr add "10.77.$net.1/24" dev "br$net"
	ip -n "$a" addr add "10.77.$net.2/24" dev eth$net
	ip -n "$b" addr add "10.77.$net.3/24" dev eth$net
done
"$tool" key new "$dir/key" >/dev/null

echo "--- IPv4, cluster key"
server_bind=10.77.1.1 server_flags="--key_file=$dir/key --insecure"
start_server $in_m
target_prefix=$in_a start_target v4 --key_file="$dir/key"
initiator_prefix=$in_b initiator i4 v4 --key_file="$dir/key" --check --duration=1 >"$dir/run4" 2>&1 || die "no transfer over IPv4"
grep -q tcp "$dir/run4" || die "not over tcp"

echo "--- the first address of the target is cut before we connect: the second is tried"
ip -n "$m" link set to_a1 down
# The records stay for their lease; the initiator reads them from m, and reaches a by network 2 only.
initiator_prefix=$in_b initiator i5 v4 --key_file="$dir/key" --operation=write --duration=1 >"$dir/run5" 2>&1 || die "the second address was not tried"
ip -n "$m" link set to_a1 up

echo "--- the address in use is cut in mid-transfer: the run goes on over the other, no wrong byte, nothing failed"
until_true 15 $in_a "$tool" metadata get mooncake/ram/v4 --metadata_server="$uri" --key_file="$dir/key"
initiator_prefix=$in_b background i6 $in_b "$bench" --mode=initiator --metadata_server="$uri" --key_file="$dir/key" --local_server_name=i6 --segment_id=v4 \
	--threads=2 --batch_size=16 --block_size=65536 --protocol=tcp --operation=write --duration=12 --warmup=0 --timeout_ms=30000 --json
run=$pid
sleep 2
ip -n "$m" link set to_a1 down
until_true 60 test ! -e /proc/"$run"
rc=0; wait "$run" || rc=$?
[ $rc = 0 ] || die "status $rc after the cut"
ip -n "$m" link set to_a1 up

echo "--- IPv6 alone"
kill "$target" "$server"
until_true 10 test ! -e /proc/"$server"
for ns in "$m" "$a" "$b"; do
	for dev in br1 br2 eth1 eth2; do ip -n "$ns" -4 addr flush dev $dev 2>/dev/null || true; done
done
ip -n "$m" addr add fd77::1/64 dev br1 nodad
ip -n "$a" addr add fd77::2/64 dev eth1 nodad
ip -n "$b" addr add fd77::3/64 dev eth1 nodad
server_bind=fd77::1 server_port=0 start_server $in_m
grep -q '\[fd77::1\]' <<<"$uri" || die "the server's URI has no brackets: $uri"
target_prefix=$in_a start_target v6 --key_file="$dir/key"
initiator_prefix=$in_b initiator i7 v6 --key_file="$dir/key" --check --duration=1 >"$dir/run7" 2>&1 || die "no transfer over IPv6"

echo "--- a loopback address is not published to a remote metadata service"
rc=0
timeout 10 $in_a "$bench" --mode=target --metadata_server="$uri" --key_file="$dir/key" --local_server_name=lo --advertise=127.0.0.1 --buffer_size=4096 >"$dir/lo" 2>&1 || rc=$?
[ $rc = 2 ] && grep -q loopback "$dir/lo" || die "a loopback address was published"

echo "--- a host that drops what comes: every error is there within 5 s"
# Nobody has that link address: packets go out, and nothing comes back.
ip -n "$b" addr add 10.77.1.3/24 dev eth1
for host in 10.77.1.9 fd77::2; do
	ip -n "$b" neigh replace "$host" lladdr 02:00:00:00:00:99 dev eth1 nud permanent
done
silent() {
	local begun rc=0
	begun=$(date +%s%N)
	timeout 20 $in_b "$bench" "$@" --local_server_name=i9 --duration=1 >"$dir/silent" 2>&1 || rc=$?
	[ $rc = 1 ] || die "status $rc from a silent host"
	[ $((($(date +%s%N) - begun) / 1000000)) -lt 5000 ] || die "a silent host took $((($(date +%s%N) - begun) / 1000000)) ms: $*"
}
silent --metadata_server=http://10.77.1.9:8080/metadata --segment_id=x
silent --metadata_server=P2PHANDSHAKE --key_file="$dir/key" --segment_id=10.77.1.9:15000
# The metadata service answers, the target does not.
silent --metadata_server="$uri" --key_file="$dir/key" --segment_id=v6

echo "--- no IPv4 loopback: a keyless P2PHANDSHAKE target takes ::1"
ip -n "$b" addr del 127.0.0.1/8 dev lo
background p2p $in_b "$bench" --mode=target --metadata_server=P2PHANDSHAKE --buffer_size=64M
until_true 20 grep -q segment_id "$dir/p2p"
grep -q 'Segment \[::1\]' "$dir/p2p" || die "not on ::1"
segment=$(sed -n "s/.*segment_id='*\([^ ']*\).*/\1/p" "$dir/p2p" | head -n 1)
$in_b "$bench" --metadata_server=P2PHANDSHAKE --segment_id="$segment" --threads=1 --batch_size=4 --duration=0.3 --protocol=tcp >"$dir/p2p6" 2>&1 ||
	die "no transfer over ::1"
