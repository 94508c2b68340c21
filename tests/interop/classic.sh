#!/bin/bash
# SPDX-License-Identifier: MIT
# Our tools against a classic peer that shares no code with them, in both roles, v1 and v2, over
# P2PHANDSHAKE and the HTTP metadata server; what happens without --classic, and when a peer dies.
# shellcheck source=tests/net/common.sh
. "$(dirname "$0")/../net/common.sh"
peer=$B/tests/interop/classic_peer
[ -x "$peer" ] || skip "$peer was not built"

# start_peer FLAGS...: a classic target; its name in $segment, its pid in $target
start_peer()
{
	background peer "$peer" serve --size=0x4000000 --buffers=4 "$@"
	target=$pid
	until_true 10 grep -q '^ready' "$dir/peer"
	segment=$(sed -n 's/^ready //p' "$dir/peer")
}

# start_ours FLAGS...: a target of ours
start_ours()
{
	background target "$bench" --mode=target --metadata_server=P2PHANDSHAKE --local_server_name=127.0.0.1 \
		--buffer_size=64M --block_size=64K --batch_size=16 --threads=2 "$@"
	target=$pid
	until_true 10 grep -q '^Ready' "$dir/target"
	segment=$(sed -n 's/^Segment \([^,]*\),.*/\1/p' "$dir/target")
}

end_target()
{
	kill -9 "$target"
	{ wait "$target"; } 2>/dev/null || :
}

# initiate FLAGS...
initiate()
{
	timeout 60 "$bench" --local_server_name=127.0.0.1 --segment_id="$segment" --block_size=64K \
		--batch_size=16 --threads=2 --duration=0.5 --warmup=0.1 --metadata_server="${uri:-P2PHANDSHAKE}" "$@" \
		>"$dir/out" 2>"$dir/err"
}

classic()
{
	timeout 60 "$peer" "$@" >"$dir/out" 2>"$dir/err"
}

# We are the client.
for flags in --version=2 --version=1 "--version=1 --once" "--version=2 --once"; do
	# shellcheck disable=SC2086
	start_peer $flags
	initiate --check --duration=1 || die "--check against a classic peer with $flags"
	grep -q 'tcp-classic' "$dir/out" "$dir/err" || die "$flags: the path is not tcp-classic"
	for operation in read write; do
		initiate --operation=$operation || die "$operation against a classic peer with $flags"
	done
	end_target
done

start_peer --version=1
! initiate --require_ack || die "a v1 peer was accepted with --require_ack"
grep -q 'v1' "$dir/err" || die "--require_ack says no reason"
end_target

# A peer that dies in the middle is an error at once, not at the deadline of 30 s.
start_peer
{ sleep 1.5; kill -9 "$target"; } &
begin=$SECONDS
! initiate --duration=4 --follow_restart=false || die "a run against a peer that died ended well"
[ $((SECONDS - begin)) -lt 15 ] || die "it took $((SECONDS - begin)) s to notice that the peer died"
grep -qE 'Connection (refused|reset)' "$dir/out" "$dir/err" || die "the death of the peer is not said"

# We are the server.
start_ours --classic
for version in 2 1; do
	classic write "$segment" --version=$version --seed=$version --count=100 || die "classic write v$version"
	classic read "$segment" --version=$version --seed=$version --count=100 || die "classic read v$version"
	classic read "$segment" --version=2 --seed=$version --count=1 --length=6553600 && die "other bytes went unnoticed"
done
classic write "$segment" --version=2 --seed=7 --length=50000000 || die "one large classic write"
classic read "$segment" --version=2 --seed=7 --length=50000000 || die "one large classic read"
classic notify "$segment" name message || die "classic notify"
classic probe "$segment" || die "classic probe"
classic write "$segment" --offset=0x100000000 && die "a write outside was taken"
grep -q 'rejected, code 1' "$dir/err" || die "a write outside was not rejected by a status"
end_target

# Without --classic only the probe is answered.
start_ours
classic probe "$segment" || die "the probe is not answered without --classic"
classic descriptor "$segment" && die "the descriptor is given away without --classic"
classic notify "$segment" name message && die "a notify of a stranger is taken without --classic"
end_target

# The HTTP metadata server: also a peer of the oldest kind, with data on its rpc port and no handshake.
start_server
for flags in --version=2 --data_port=0; do
	start_peer $flags
	sed -n 's/^descriptor //p' "$dir/peer" >"$dir/json"
	key=$(printf %s "$segment" | sed 's/:/%3A/')
	curl -fsS -X PUT --data-binary @"$dir/json" "$uri?key=mooncake%2Fram%2F$key" >/dev/null
	curl -fsS -X PUT --data-binary "{\"ip_or_host_name\":\"127.0.0.1\",\"rpc_port\":${segment#*:}}" \
		"$uri?key=mooncake%2Frpc_meta%2F$key" >/dev/null
	initiate --check --duration=1 || die "--check over HTTP metadata against a classic peer with $flags"
	end_target
done

echo "classic peers: all well"
