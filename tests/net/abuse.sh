#!/usr/bin/env bash
# What strangers can do to a target and to a metadata server by talking nonsense to every port, a thousand at a
# time: nothing that others notice. Then many processes at once, orderly ends, and a metadata server that dies.
# shellcheck source=tests/net/common.sh disable=SC2034
. "$(dirname "$0")/common.sh"
command -v jq >/dev/null || skip "jq is not installed"
abuser=$B/tests/net/abuser
memory=abuse-$$
shm=/dev/shm/mooncake/$(id -u)/$memory
ended() { cleanup; "$tool" memory unlink "$memory" >/dev/null 2>&1 || true; }
trap ended EXIT

section() { [ $SECONDS -lt "${ABUSE_SECONDS:-60}" ] || die "no end after $SECONDS s"; echo "--- $*"; }
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
fds() { find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l; }
# fds_return WHO PID COUNT: within 5 s no more than COUNT are open.
fds_return() {
	local until=$((SECONDS + 5))
	while [ "$(fds "$2")" -gt "$3" ]; do
		[ $SECONDS -le $until ] || { ss -tnp 2>/dev/null | grep "pid=$2,"; die "$1: $(fds "$2") descriptors, not $3"; }
		sleep 0.1
	done
}
has() { "$tool" metadata get "$1" --metadata_server="$uri" >/dev/null 2>&1; }
# ended_with STATUS PID SECONDS
ended_with() {
	local rc=0
	until_true "$3" test ! -e "/proc/$2"
	wait "$2" || rc=$?
	[ "$rc" -le "$1" ] || die "process $2 ended with status $rc"
}

# abuse PREFIX: a thousand connections to each port, held for 5 s (rpc: until the target ends them); pids in $abusers.
abuse() {
	abusers=()
	background "$1-rpc" "$abuser" rpc "$port" 1000 10; abusers+=("$pid")
	background "$1-data" "$abuser" data "$data_port" 1000 5 "$address" "$length"; abusers+=("$pid")
	background "$1-http" "$abuser" http "$server_port" 1000 5; abusers+=("$pid")
}
# Of the metadata server's connections 4 may be clients that keep theirs, and 100 of each thousand broke off in the
# middle of a line: libmicrohttpd can miss that when the last byte and the end come together, until its 30 s are over.
abuse_over() {
	for p in "${abusers[@]}"; do ended_with 0 "$p" 15; done
	cat "$dir/$1-rpc" "$dir/$1-data" "$dir/$1-http"
	jq -es 'all(.refused == 0)' "$dir/$1-rpc" "$dir/$1-data" "$dir/$1-http" >/dev/null || die "not all could connect"
	jq -e '.held == 0' "$dir/$1-rpc" >/dev/null || die "the rpc port keeps strangers for longer than its 3 s"
	fds_return target "$target" "$target_fds"
	fds_return "metadata server" "$server" $((server_fds + 204))
}
grew_little() {
	local now
	now=$(rss "$target")
	[ $((now - target_rss)) -lt 65536 ] || die "the target grew from $target_rss to $now KiB"
	now=$(rss "$server")
	[ $((now - server_rss)) -lt 65536 ] || die "the metadata server grew from $server_rss to $now KiB"
}

start_server
start_target victim --classic --memory="named:$memory" --page_size=4096 --protocol=tcp
"$tool" metadata get mooncake/ram/victim --metadata_server="$uri" >"$dir/record"
port=$(sed -nE 's/^Segment .*, port ([0-9]+),.*/\1/p' "$dir/target-victim")
data_port=$(jq .tcp_data_port "$dir/record")
address=$(jq '.buffers[0].addr' "$dir/record")
length=$(jq '.buffers[0].length' "$dir/record")
[ "$data_port" -gt 0 ] && [ "$length" -gt 0 ] || die "the record of a classic target lacks members"

section "garbage alone: no byte of registered memory changes, descriptors and memory come back"
target_fds=$(fds "$target") server_fds=$(fds "$server")
target_rss=$(rss "$target") server_rss=$(rss "$server")
before=$(sha256sum <"$shm")
abuse alone
abuse_over alone
grew_little
[ "$before" = "$(sha256sum <"$shm")" ] || die "registered memory was changed"
# The same, aimed a page deeper, is what a classic peer may do: had it got through above, it would have been seen.
"$abuser" data "$data_port" 32 1 $((address + 8192)) 8192 >"$dir/inside"
[ "$before" != "$(sha256sum <"$shm")" ] || die "writes inside the memory change nothing: the comparison is blind"

section "garbage under load: a check that runs, and one that comes in the middle, go through without a fault"
background check "$bench" --mode=initiator --metadata_server="$uri" --local_server_name=checker --segment_id=victim \
	--threads=2 --batch_size=16 --block_size=65536 --protocol=tcp --check --duration=8 --warmup=0 --json
check=$pid
until_true 5 has mooncake/ram/checker
abuse loaded
sleep 0.5
initiator late victim --protocol=tcp --operation=read --duration=1 --json >"$dir/late" 2>&1 || die "a late one is not served"
grew_little
ended_with 0 "$check" 30
abuse_over loaded
grew_little
jq -e '.wrong_bytes == 0 and .failed == 0 and .timed_out == 0 and .bytes > 0' "$dir/check" >/dev/null || die "the check failed"
jq -e '.failed == 0 and .timed_out == 0' "$dir/late" >/dev/null || die "the late one failed"
kill "$target"; ended_with 0 "$target" 5

section "ten targets and ten initiators at once"
targets=() initiators=()
for i in $(seq 10); do
	background "target-t$i" "$bench" --mode=target --metadata_server="$uri" --local_server_name="t$i" --buffer_size=16777216
	targets+=("$pid")
done
for i in $(seq 10); do
	until_true 10 grep -q segment_id "$dir/target-t$i"
	background "check-$i" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="i$i" --segment_id="t$i" \
		--threads=1 --batch_size=16 --block_size=65536 --check --duration=2 --warmup=0 --json \
		--protocol="$([ $((i % 2)) = 0 ] && echo tcp || echo shm)"
	initiators+=("$pid")
done
for i in $(seq 10); do
	ended_with 0 "${initiators[i - 1]}" 20
	jq -e '.wrong_bytes == 0 and .failed == 0 and .bytes > 0' "$dir/check-$i" >/dev/null || die "check $i failed"
done
for p in "${targets[@]}"; do kill "$p"; done
for p in "${targets[@]}"; do ended_with 0 "$p" 3; done

for protocol in tcp shm; do
	section "$protocol: SIGTERM to both in mid-run: they end within 3 s, and their keys are gone"
	start_target "leaver-$protocol" --protocol=$protocol
	for i in 1 2; do
		background "run-$protocol-$i" "$bench" --mode=initiator --metadata_server="$uri" --local_server_name="run-$protocol-$i" \
			--segment_id="leaver-$protocol" --threads=2 --batch_size=16 --block_size=65536 --protocol=$protocol \
			--operation=write --duration=20 --warmup=0 --timeout_ms=2000 --json
		run[i]=$pid
		until_true 5 has "mooncake/ram/run-$protocol-$i"
	done
	sleep 0.5
	kill -TERM "${run[1]}"; ended_with 0 "${run[1]}" 3
	jq -e '.failed == 0 and .bytes > 0' "$dir/run-$protocol-1" >/dev/null || die "the initiator left without its summary"
	kill -TERM "$target"; ended_with 0 "$target" 3
	for key in ram token rpc_meta; do
		for name in "leaver-$protocol" "run-$protocol-1"; do
			has "mooncake/$key/$name" && die "mooncake/$key/$name is still there"
		done
	done
	kill -TERM "${run[2]}" 2>/dev/null || true	# it may have given up already
	ended_with 1 "${run[2]}" 4
	has "mooncake/ram/run-$protocol-2" && die "the record of an initiator whose target had left is still there"
done
kill "$server"; ended_with 0 "$server" 5

section "metadata server killed (-9) and started again on its log: the keys are there, the stopped target's too"
server_flags=--log_file=$dir/keys.log
start_server
start_target keeper --protocol=tcp
kill -STOP "$target"	# it cannot publish anything again
kill -9 "$server"; wait "$server" 2>/dev/null || true
start_server
for key in ram token rpc_meta; do has "mooncake/$key/keeper" || die "mooncake/$key/keeper is lost"; done
kill -CONT "$target"
initiator finder keeper --protocol=tcp --check --duration=1 --json >"$dir/finder" 2>&1 || die "the target is not to be used"
jq -e '.wrong_bytes == 0 and .bytes > 0' "$dir/finder" >/dev/null || die "wrong bytes"
