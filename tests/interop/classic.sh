#!/bin/bash
# SPDX-License-Identifier: MIT
# Our tools against a classic peer that shares no code with them, in both roles, v1 and v2, over
# P2PHANDSHAKE and the HTTP metadata server; what happens without --classic, and when a peer dies.
set -eu

bin=${B:-build}/bin
peer=${B:-build}/tests/interop/classic_peer
[ -x "$peer" ] || {
	echo "skipped: $peer was not built"
	exit 77
}
tmp=$(mktemp -d)
pids=
cleanup()
{
	for pid in $pids; do
		{ kill -9 "$pid" && wait "$pid"; } 2>/dev/null || :
	done
	rm -rf "$tmp"
}
trap cleanup EXIT

fail()
{
	echo "FAILED: $1" >&2
	tail -n 20 "$tmp/out" "$tmp/err" >&2 || :
	exit 1
}

# until_there PID FILE PATTERN
until_there()
{
	for _ in $(seq 200); do
		grep -q "$3" "$2" 2>/dev/null && return 0
		kill -0 "$1" 2>/dev/null || break
		sleep 0.05
	done
	cp "$2" "$tmp/out"
	fail "$2 never had \"$3\""
}

# start_peer FLAGS...: a classic target; its name in $segment, its pid in $target
start_peer()
{
	: >"$tmp/peer"
	"$peer" serve --size=0x4000000 --buffers=4 "$@" >"$tmp/peer" 2>&1 &
	target=$!
	pids="$pids $target"
	until_there $target "$tmp/peer" '^ready'
	segment=$(sed -n 's/^ready //p' "$tmp/peer")
}

# start_ours FLAGS...: a target of ours
start_ours()
{
	: >"$tmp/target"
	"$bin/transfer_engine_bench" --mode=target --metadata_server=P2PHANDSHAKE --local_server_name=127.0.0.1 \
		--buffer_size=64M --block_size=64K --batch_size=16 --threads=2 "$@" >"$tmp/target" 2>&1 &
	target=$!
	pids="$pids $target"
	until_there $target "$tmp/target" '^Ready'
	segment=$(sed -n 's/^Segment \([^,]*\),.*/\1/p' "$tmp/target")
}

end_target()
{
	kill -9 $target
	{ wait $target; } 2>/dev/null || :
}

# initiate FLAGS...
initiate()
{
	timeout 60 "$bin/transfer_engine_bench" --local_server_name=127.0.0.1 --segment_id="$segment" --block_size=64K \
		--batch_size=16 --threads=2 --duration=0.5 --warmup=0.1 --metadata_server="${metadata:-P2PHANDSHAKE}" "$@" \
		>"$tmp/out" 2>"$tmp/err"
}

classic()
{
	timeout 60 "$peer" "$@" >"$tmp/out" 2>"$tmp/err"
}

# We are the client.
for flags in --version=2 --version=1 "--version=1 --once" "--version=2 --once"; do
	# shellcheck disable=SC2086
	start_peer $flags
	initiate --check --duration=1 || fail "--check against a classic peer with $flags"
	grep -q 'tcp-classic' "$tmp/out" "$tmp/err" || fail "$flags: the path is not tcp-classic"
	for operation in read write; do
		initiate --operation=$operation || fail "$operation against a classic peer with $flags"
	done
	end_target
done

start_peer --version=1
! initiate --require_ack || fail "a v1 peer was accepted with --require_ack"
grep -q 'v1' "$tmp/err" || fail "--require_ack says no reason"
end_target

# A peer that dies in the middle is an error at once, not at the deadline of 30 s.
start_peer
{ sleep 1.5; kill -9 $target; } &
begin=$SECONDS
! initiate --duration=4 --follow_restart=false || fail "a run against a peer that died ended well"
[ $((SECONDS - begin)) -lt 15 ] || fail "it took $((SECONDS - begin)) s to notice that the peer died"
grep -qE 'Connection (refused|reset)' "$tmp/out" "$tmp/err" || fail "the death of the peer is not said"

# We are the server.
start_ours --classic
for version in 2 1; do
	classic write "$segment" --version=$version --seed=$version --count=100 || fail "classic write v$version"
	classic read "$segment" --version=$version --seed=$version --count=100 || fail "classic read v$version"
	classic read "$segment" --version=2 --seed=$version --count=1 --length=6553600 && fail "other bytes went unnoticed"
done
classic write "$segment" --version=2 --seed=7 --length=50000000 || fail "one large classic write"
classic read "$segment" --version=2 --seed=7 --length=50000000 || fail "one large classic read"
classic notify "$segment" name message || fail "classic notify"
classic probe "$segment" || fail "classic probe"
classic write "$segment" --offset=0x100000000 && fail "a write outside was taken"
grep -q 'rejected, code 1' "$tmp/err" || fail "a write outside was not rejected by a status"
end_target

# Without --classic only the probe is answered.
start_ours
classic probe "$segment" || fail "the probe is not answered without --classic"
classic descriptor "$segment" && fail "the descriptor is given away without --classic"
classic notify "$segment" name message && fail "a notify of a stranger is taken without --classic"
end_target

# The HTTP metadata server: also a peer of the oldest kind, with data on its rpc port and no handshake.
"$bin/mooncake-metadata-server" --port=0 >"$tmp/server" 2>&1 &
pids="$pids $!"
until_there $! "$tmp/server" 'listening on'
metadata=$(sed -n 's/.*listening on //p' "$tmp/server")
for flags in --version=2 --data_port=0; do
	start_peer $flags
	sed -n 's/^descriptor //p' "$tmp/peer" >"$tmp/json"
	key=$(printf %s "$segment" | sed 's/:/%3A/')
	curl -fsS -X PUT --data-binary @"$tmp/json" "$metadata?key=mooncake%2Fram%2F$key" >/dev/null
	curl -fsS -X PUT --data-binary "{\"ip_or_host_name\":\"127.0.0.1\",\"rpc_port\":${segment#*:}}" \
		"$metadata?key=mooncake%2Frpc_meta%2F$key" >/dev/null
	initiate --check --duration=1 || fail "--check over HTTP metadata against a classic peer with $flags"
	end_target
done

echo "classic peers: all well"
