#!/bin/bash
# SPDX-License-Identifier: MIT
# The classic P2P store: what a classic node registered is listed and fetched, and what we hold is found by classic
# clients in the record and read over the classic protocol. The other side is a peer that shares no code with us.
# shellcheck source=tests/net/common.sh disable=SC2119
. "$(dirname "$0")/../net/common.sh"
peer=$B/tests/interop/classic_peer
[ -x "$peer" ] || skip "$peer was not built"
[ -x "$B/bin/p2p-store-example" ] || skip "built without the P2P store"
start_server
put() { curl -sf -X PUT --data-binary @- "$uri?key=$1" >/dev/null; }
get() { curl -sf "$uri?key=$1"; }
record() { get mooncake/checkpoint/"$1"; }

echo "--- a classic node registers: memory of its own, its segment, the record"
background peer "$peer" serve --size=0x2000000
node=$pid
until_true 10 grep -q '^ready' "$dir/peer"
segment=$(sed -n 's/^ready //p' "$dir/peer")
length=16000000 seed=11
"$peer" write "$segment" --seed=$seed --length=$length || die "cannot fill the classic node"
"$peer" descriptor "$segment" >"$dir/descriptor" || die "no descriptor"
address=$(jq '.buffers[0].addr' "$dir/descriptor")
put "mooncake/ram/$segment" <"$dir/descriptor"
jq -cn --arg ip "${segment%:*}" --argjson port "${segment##*:}" '{ip_or_host_name: $ip, rpc_port: $port}' | put "mooncake/rpc_meta/$segment"
shard=4194304
jq -cn --arg s "$segment" --argjson a "$address" --argjson n $length --argjson m $shard '{name: "old/model", size: $n, size_list: [$n],
	max_shard_size: $m, shards: [range(0; $n; $m) | {size: ([$m, $n - .] | min), gold: [{segment_name: $s, offset: ($a + .)}],
	replica_list: null}]}' | put mooncake/checkpoint/old/model

echo "--- ours lists and fetches it, and serves it to classic clients"
"$tool" p2p ls --metadata_server="$uri" --classic --json old/ >"$dir/ls"
[ "$(jq -r '.[0].name + " " + (.[0].bytes | tostring)' "$dir/ls")" = "old/model $length" ] || die "it is not listed"
[ "$("$tool" p2p ls --metadata_server="$uri" --json old/ | jq length)" = 0 ] || die "it is listed without --classic"
rc=0; timeout 20 "$tool" p2p get --metadata_server="$uri" --advertise=127.0.0.1 old/model "$dir/file" >"$dir/strict" 2>&1 || rc=$?
[ $rc = 1 ] || die "a classic record was believed without --classic"
port=$((21000 + RANDOM % 10000))
background ours "$tool" p2p get --metadata_server="$uri" --classic --advertise=127.0.0.1 --local_server_name=127.0.0.1:$port \
	--serve old/model "$dir/file.bin"
ours=$pid
until_true 30 grep -q '^Serving' "$dir/ours"
[ "$(stat -c %s "$dir/file.bin")" = $length ] || die "the file has another size"
mv "$dir/file.bin" "$dir/.file" # not for the log
record old/model >"$dir/record"
[ "$(jq '[.shards[] | select(.replica_list[0].segment_name == "127.0.0.1:'$port'")] | length' "$dir/record")" = 4 ] || die "not in the record"
[ "$(jq '[.shards[] | select(.gold[0].segment_name == "'"$segment"'")] | length' "$dir/record")" = 4 ] || die "the other's entries were touched"
get "mooncake/ram/127.0.0.1:$port" >"$dir/descriptor" || die "no descriptor of ours"
"$peer" read 127.0.0.1:$port --descriptor="$dir/descriptor" --address="$(jq '.shards[0].replica_list[0].offset' "$dir/record")" \
	--seed=$seed --length=$length || die "a classic client reads other bytes from us"
kill -9 "$node"
kill "$ours"
wait "$ours" || die "the receiver did not end well"
record old/model >"$dir/after"
[ "$(jq -c '[.shards[].replica_list]' "$dir/after")" = '[null,null,null,null]' ] || die "our entries stayed"
[ "$(jq '[.shards[].gold[0]] | length' "$dir/after")" = 4 ] || die "the other's entries went"

echo "--- the only holder is dead: a sentence, no hang"
rc=0; timeout 60 "$tool" p2p get --metadata_server="$uri" --classic --advertise=127.0.0.1 old/model "$dir/.none" >"$dir/dead" 2>&1 || rc=$?
[ $rc = 1 ] && grep -q 'old/model' "$dir/dead" || die "a dead classic holder: status $rc"

echo "--- ours registers: classic clients find gold in the record; without --classic there is no record"
head -c 9000000 "$dir/.file" >"$dir/.part"
port=$((21000 + RANDOM % 10000))
background seed "$tool" p2p register --metadata_server="$uri" --classic --advertise=127.0.0.1 --local_server_name=127.0.0.1:$port \
	--max_shard_size=4M new/model "$dir/.part"
ours=$pid
until_true 30 grep -q '^Serving' "$dir/seed"
record new/model >"$dir/record"
[ "$(jq -c '[.shards[].size]' "$dir/record")" = '[4194304,4194304,611392]' ] || die "other shards"
[ "$(jq '.shards[1].gold[0].offset - .shards[0].gold[0].offset' "$dir/record")" = 4194304 ] || die "other offsets"
get "mooncake/ram/127.0.0.1:$port" >"$dir/descriptor" || die "no descriptor of ours"
"$peer" read 127.0.0.1:$port --descriptor="$dir/descriptor" --address="$(jq '.shards[0].gold[0].offset' "$dir/record")" \
	--seed=$seed --length=9000000 || die "a classic client reads other bytes"
kill "$ours"
wait "$ours" || die "the seed did not end well"
! record new/model || die "an empty record stayed"
background seed "$tool" p2p register --metadata_server="$uri" --advertise=127.0.0.1 new/model "$dir/.part"
until_true 30 grep -q '^Serving' "$dir/seed"
! record new/model || die "a record without --classic"
echo "all done"
