#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm: alone kernels=hand memory=3072 seconds=900
# Classic RDMA, both ways, against a peer that shares no code with us: every form of the handshake there was, refusals
# word by word, lost queue pairs, new keys, a peer that dies and comes back, both sides sending over one pair of NICs.
. "$REPO/tests/vm/lib/guest.sh"
vm_rxe_pair
ulimit -l unlimited
timeout=16 # an emulated processor answers late
export MOONCAKE_RDMA_TIMEOUT=$timeout
bench=$B/bin/transfer_engine_bench peer=$B/tests/interop/classic_rdma_peer both=$B/tests/interop/classic_rdma_both
for program in "$bench" "$peer" "$both"; do
	[ -x "$program" ] || fail "$program was not built"
done
work=$(mktemp -d)
pids=()
cleanup() {
	for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null; done
	wait 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
die() { fail "$* -- $(tail -n 20 "$work"/{peer,target,out,err,both} 2>/dev/null)"; }

# start_peer FLAGS...: a peer on rxe1 that takes commands; its name in $segment, its pid in $peer_pid
start_peer() {
	rm -f "$work/in" "$work/peer"
	mkfifo "$work/in"
	"$peer" --device=rxe1 --timeout=$timeout --buffers=2 "$@" <"$work/in" >"$work/peer" 2>&1 &
	peer_pid=$!
	pids+=("$peer_pid")
	exec 7>"$work/in"
	wait_for 20 grep -qs '^ready' "$work/peer" || die "the peer does not start"
	segment=$(sed -n 's/^ready //p' "$work/peer")
}
stop_peer() {
	exec 7>&-
	kill -9 "$peer_pid" 2>/dev/null
	wait "$peer_pid" 2>/dev/null
}
answers() { grep -cE '^(ok|failed)' "$work/peer"; }
more_answers() { [ "$(answers)" -gt "$1" ]; }
# tell COMMAND: to the peer that runs; fails if it does
tell() {
	local n
	n=$(answers)
	echo "$*" >&7
	wait_for 60 more_answers "$n" || die "no answer to: $*"
	[ "$(grep -E '^(ok|failed)' "$work/peer" | tail -n 1)" = ok ] || die "the peer failed at: $*"
}
# one COMMAND: a peer of its own for one command
one() { timeout 90 "$peer" --device=rxe0 --timeout=$timeout --length=262144 "$@" >"$work/out" 2>"$work/err"; }

# run_initiator HOW FLAGS...
run_initiator() {
	local how=$1
	shift
	# shellcheck disable=SC2086
	$how "$bench" --mode=initiator --local_server_name=127.0.0.1 --segment_id="$segment" --device_name=rxe0 \
		--metadata_server="${uri:-P2PHANDSHAKE}" --protocol=rdma --block_size=32K --batch_size=8 --threads=1 \
		--duration=1 --warmup=0 --timeout_ms=20000 --open_timeout_ms=60000 "$@" >"$work/out" 2>"$work/err"
}
initiate() { run_initiator "timeout 200" "$@"; }
sent() { cat "/sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts"; }
more_sent() { [ $(($(sent "$1") - $2)) -gt "$3" ]; } # NIC BEFORE COUNT
# start_load FLAGS...: an initiator in the background, once it has begun; its pid in $initiator. It goes on until end_load,
# which has its exit status: what happens meanwhile waits for traces, not for the clock.
begun_or_gone() { more_sent rxe0 "$1" 400 || ! kill -0 "$initiator" 2>/dev/null; }
start_load() {
	local before
	before=$(sent rxe0)
	run_initiator exec --duration=300 "$@" &
	initiator=$!
	pids+=("$initiator")
	wait_for 100 begun_or_gone "$before" || die "nothing is sent"
	more_sent rxe0 "$before" 400 || die "nothing was sent"
}
end_load() {
	kill -TERM "$initiator" 2>/dev/null
	wait "$initiator"
}
connected() { grep -c '^connected' "$work/peer"; }
more_connected() { [ "$(connected)" -gt "$1" ]; }
must() { [ "$(jq "$1" "$work/out")" = true ] || die "not so: $1"; }

# start_target FLAGS...: ours; its name in $segment
start_target() {
	rm -f "$work/target"
	"$bench" --mode=target --metadata_server="${uri:-P2PHANDSHAKE}" --local_server_name=127.0.0.1:0 --protocol=rdma \
		--device_name=rxe0 --buffer_size=16M --block_size=32K --batch_size=8 --threads=1 "$@" >"$work/target" 2>&1 &
	target=$!
	pids+=("$target")
	wait_for 60 grep -qs '^Ready' "$work/target" || die "our target does not start"
	segment=$(sed -n 's/^Segment \([^,]*\),.*/\1/p' "$work/target")
}
stop_target() {
	kill -9 "$target"
	wait "$target" 2>/dev/null
}

begin=$SECONDS
section() { echo "$((SECONDS - begin)) s: $*"; }

section "we are the client: today's form, 0.3.12 with acks, before 0.3.11, before 0.3.0"
for flags in "" "--ack" "--old" "--old --no_type"; do
	# shellcheck disable=SC2086
	start_peer $flags
	# Before 0.3.11 the peer reads our descriptor, which is answered without a metadata service under --classic.
	classic=''
	[ "${flags#--old}" = "$flags" ] || classic=--classic
	initiate --check --json $classic || die "--check against a peer with '$flags'"
	must '.failed == 0 and .wrong_bytes == 0 and (.path | startswith("rdma-classic "))'
	grep -q '^connected' "$work/peer" || die "no queue pairs were asked for"
	[ -z "$classic" ] || grep -q '^connected.*by its descriptor' "$work/peer" || die "our descriptor was not read"
	[ "$flags" != --ack ] || grep -q '^acked' "$work/peer" || die "no acknowledgement"
	stop_peer
done

section "queue pairs vanish: nothing fails, nothing is wrong"
start_peer
for what in --check --operation=write; do
	start_load $what --json
	for i in 1 2; do
		n=$(connected)
		tell evict
		wait_for 60 more_connected "$n" || die "the peer was not asked again"
	done
	end_load || die "with evictions"
	must '.failed == 0 and .timed_out == 0 and .reopened == 0 and (.wrong_bytes // 0) == 0'
done

section "its memory is registered anew: stale, opened anew, never wrong"
start_load --check --json
n=$(connected)
tell rereg
wait_for 60 more_connected "$n" || die "the peer was not asked again"
n=$(sent rxe0)
wait_for 60 more_sent rxe0 "$n" 400 || die "nothing is sent with the new keys"
end_load || [ -s "$work/out" ] || die "with new keys"
must '.wrong_bytes == 0 and .reopened >= 1 and .stale >= 1'
stop_peer

section "it dies, and comes back under its name: stale, opened anew"
start_peer --port=18091
start_load --json --operation=write --timeout_ms=8000
stop_peer
sleep 1
start_peer --port=18091
wait_for 60 more_connected 0 || die "the peer that came back was not asked"
n=$(sent rxe0)
wait_for 60 more_sent rxe0 "$n" 400 || die "nothing is sent to the peer that came back"
end_load
[ -s "$work/out" ] || die "no result after the peer was restarted"
must '.reopened >= 1'
stop_peer

section "it dies for good: an error, and no hanging"
start_peer
start_load --json --operation=write --timeout_ms=4000 --follow_restart=false
stop_peer
sleep 10 # what was under way has to be final by then, a second past its deadline
start=$SECONDS
end_load && die "writes to a dead peer ended well"
[ $((SECONDS - start)) -lt 20 ] || die "it took $((SECONDS - start)) s"

section "we are the server"
start_target --classic
seed=1
for flags in "" "--ack" "--old" "--no_type" "--old --no_type"; do
	seed=$((seed + 1))
	# shellcheck disable=SC2086
	one $flags write "$segment" $seed || die "a peer with '$flags' cannot write"
	# shellcheck disable=SC2086
	one $flags read "$segment" $seed || die "a peer with '$flags' cannot read what it wrote"
done
one read "$segment" 99 && die "other bytes went unnoticed"
own=$segment@rxe0
one repeat "$segment" "$own" || die "asking twice with the same queue pairs"
one ask "$segment" "$segment@rxe9" || die "no answer to a wrong NIC"
grep -qF "\"reply_msg\":\"Invalid argument: peer nic path inconsistency, expect $own\"" "$work/out" || die "a wrong NIC"
one ask "$segment" "localhost:1@rxe0" || die "no answer to a wrong path"
grep -qF "\"reply_msg\":\"Invalid argument: peer nic path inconsistency, expect $own\"" "$work/out" || die "a wrong path"
one --qps=3 ask "$segment" "$own" || die "no answer to three queue pairs"
grep -qF '"reply_msg":"QP count mismatch in peer and local endpoints, check MC_MAX_EP_PER_CTX"' "$work/out" ||
	die "three queue pairs"
one --qps=3 write "$segment" 1 && die "three queue pairs were taken"
one write "$segment" 7 || die "a write after refusals"
stop_target
MC_NUM_QP_PER_EP=3 start_target --classic
one --qps=3 write "$segment" 3 || die "MC_NUM_QP_PER_EP=3"
stop_target

section "without --classic nobody answers, and nothing of the kind is published"
start_target
one ask "$segment" "$segment@rxe0" && die "queue pairs were given away without --classic"
grep -q 'closed without an answer' "$work/err" || die "asked without --classic"
one write "$segment" 1 && die "a stranger wrote without --classic"
stop_target
"$B/bin/mooncake-metadata-server" --port=18080 >"$work/server" 2>&1 &
pids+=("$!")
uri=http://127.0.0.1:18080/metadata
wait_for 20 curl -sf http://127.0.0.1:18080/health -o /dev/null || fail "no metadata server"
descriptor() { curl -fsSG --data-urlencode "key=mooncake/ram/$segment" "$uri" >"$work/out" || die "no descriptor of $segment"; }
start_target
descriptor
must '.name != null and .buffers == [] and (tostring | test("rkey") | not)'
stop_target
start_target --classic
descriptor
must '.protocol == "rdma" and (.devices | length) == 1 and .devices[0].name == "rxe0" and .devices[0].lid == 0'
must '.devices[0].gid == "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:09:00:01"'
must '(.buffers | length) > 0 and (.buffers | all(.addr > 0 and .length > 0 and .name != ""))'
must '.buffers | all((.rkey | length) == 1 and (.lkey | length) == 1 and .rkey[0] > 0)'
must '[.priority_matrix[][][]] | unique == ["rxe0"]'
stop_target

section "a metadata service in between, and a peer before 0.3.11 that looks us up there: no --classic is needed"
start_peer --old --metadata="$uri"
sed -n 's/^descriptor //p' "$work/peer" >"$work/json"
key=$(printf %s "$segment" | sed 's/:/%3A/')
curl -fsS -X PUT --data-binary @"$work/json" "$uri?key=mooncake%2Fram%2F$key" >/dev/null
curl -fsS -X PUT --data-binary "{\"ip_or_host_name\":\"127.0.0.1\",\"rpc_port\":${segment#*:}}" \
	"$uri?key=mooncake%2Frpc_meta%2F$key" >/dev/null
initiate --check --json || die "an old peer over a metadata service"
must '.failed == 0 and .wrong_bytes == 0'
# It is asked again, as long as whoever opens its segment waits.
kill -STOP "$peer_pid"
initiate --check --json &
waiting=$!
sleep 7
kill -0 "$waiting" || die "a peer that does not answer for a while is given up at once"
kill -CONT "$peer_pid"
wait "$waiting" || die "a peer that did not answer for a while"
must '.failed == 0 and .wrong_bytes == 0'
stop_peer

section "both sides send, over one pair of NICs"
unset uri
for first in us them; do
	start_peer --length=262144
	rm -f "$work/both" "$work/go"
	mkfifo "$work/go"
	"$both" "$segment" rxe0 <"$work/go" >"$work/both" 2>&1 &
	pair=$!
	pids+=("$pair")
	exec 8>"$work/go"
	wait_for 30 grep -qs '^ready' "$work/both" || die "our side does not start"
	ours=$(sed -n 's/^ready //p' "$work/both")
	[ $first = us ] || tell write "$ours" 1
	echo go >&8
	[ $first = them ] || wait_for 20 grep -q '^connected' "$work/peer" || die "we do not ask"
	for i in 1 2 3; do
		tell write "$ours" $i
		tell read "$ours" $i
	done
	grep -q '^retired' "$work/peer" && die "one side threw out what the other had made"
	[ $first = us ] || grep -q '^repeated' "$work/peer" || die "queue pairs that they made are not used"
	tell evict
	tell write "$ours" 5
	tell read "$ours" 5
	kill -TERM "$pair"
	wait "$pair" || die "our side, while the peer wrote too"
	exec 8>&-
	stop_peer
done

section "a segment that its own process opens: queue pairs that are connected to themselves"
rm -f "$work/both" "$work/go"
mkfifo "$work/go"
"$both" self rxe0 <"$work/go" >"$work/both" 2>&1 &
pair=$!
pids+=("$pair")
n=$(sent rxe0)
echo go >"$work/go"
wait_for 60 more_sent rxe0 "$n" 400 || die "nothing is sent to itself"
kill -TERM "$pair"
wait "$pair" || die "to itself"
grep -qE '^[1-9][0-9]* rounds' "$work/both" || die "no round was made"

section "two NICs on each side, one wire is cut and comes back: nothing fails, nothing is wrong"
vm_rxe_wire 1
start_target --classic --device_name=rxe1,rxe3
a=$(sent rxe0) b=$(sent rxe2)
start_load --protocol=rdma-classic --device_name=rxe0,rxe2 --check --json --block_size=256K --batch_size=4
wait_for 60 more_sent rxe0 "$a" 400 || die "rxe0 carries nothing"
wait_for 60 more_sent rxe2 "$b" 400 || die "rxe2 carries nothing"
ip link set v0 down
sleep 5
b=$(sent rxe2)
wait_for 60 more_sent rxe2 "$b" 400 || die "nothing goes over the wire that is left"
ip link set v0 up
vm_wire_routes 0
a=$(sent rxe0)
wait_for 60 more_sent rxe0 "$a" 400 || die "nothing goes over the wire that came back"
end_load || die "with a cut wire"
must '.failed == 0 and .timed_out == 0 and .wrong_bytes == 0 and .reopened == 0'
stop_target

section "all well"
