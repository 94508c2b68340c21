#!/bin/bash
# SPDX-License-Identifier: MIT
# Real runs between two processes: tcp and shm, read, write and --check, text and JSON; the target is killed
# and restarted in the middle of a run; SIGINT ends a run with its summary.
set -eu

command -v jq >/dev/null || {
	echo "skipped: jq is not there"
	exit 77
}
bin=${B:-build}/bin
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

"$bin/mooncake-metadata-server" --port=0 >"$tmp/server" 2>&1 &
pids="$pids $!"
until_there $! "$tmp/server" 'listening on'
metadata=$(sed -n 's/.*listening on //p' "$tmp/server")

# start_target NAME FLAGS...; sets $target
start_target()
{
	local name=$1

	shift
	: >"$tmp/$name"
	"$bin/transfer_engine_bench" --mode=target --metadata_server="$metadata" --local_server_name="$name" \
		--advertise=127.0.0.1 --buffer_size=64M --block_size=64K --batch_size=16 --threads=2 --json "$@" \
		>"$tmp/$name" 2>"$tmp/$name.err" &
	target=$!
	pids="$pids $target"
	until_there $target "$tmp/$name" '"segment"'
}

# initiate NAME FLAGS...: stdout to $tmp/out
initiate()
{
	local name=$1

	shift
	timeout 60 "$bin/transfer_engine_bench" --metadata_server="$metadata" --segment_id="$name" --advertise=127.0.0.1 \
		--local_server_name="i-$name" --block_size=64K --batch_size=16 --threads=2 --duration=0.5 --warmup=0.1 \
		"$@" >"$tmp/out" 2>"$tmp/err"
}

good='.failed == 0 and .timed_out == 0 and .stale == 0 and .bytes > 0 and .bytes_per_second > 0 and
	.batches > 0 and .batch_latency_us.p50 > 0 and .batch_latency_us.p50 <= .batch_latency_us.p999 and
	.cpu_seconds_per_gib_initiator > 0 and .interrupted == false and .last_error == null'

for memory in memfd anonymous; do
	start_target "t-$memory" --memory=$memory
	for protocol in tcp shm; do
		for operation in read write; do
			initiate "t-$memory" --protocol=$protocol --operation=$operation --json ||
				fail "$protocol $operation of $memory memory"
			jq -e "$good" <"$tmp/out" >/dev/null || fail "$protocol $operation of $memory memory: figures"
			jq -e --arg p $protocol '.path | startswith($p)' <"$tmp/out" >/dev/null ||
				fail "$protocol $operation of $memory memory took another path"
		done
		initiate "t-$memory" --protocol=$protocol --check --json --block_size=65537 --working_set=32M ||
			fail "--check over $protocol, $memory memory"
		jq -e '.wrong_bytes == 0 and .checked_bytes > 0 and .rounds > 0' <"$tmp/out" >/dev/null ||
			fail "--check over $protocol, $memory memory: figures"
	done
	kill "$target"
	wait "$target" || fail "the target did not end with 0 on SIGTERM"
done

start_target t-text
initiate t-text || fail "a run with text output"
grep -Eq '^Worker 1 stopped!$' "$tmp/out" || fail "no line of a worker"
grep -Eq '^Test completed: duration [0-9]+\.[0-9]{2}, batch count [0-9]+, throughput [0-9]+\.[0-9]{2} GB/s$' "$tmp/out" ||
	fail "no line as the classic tool prints it"
[ ! -s "$tmp/err" ] || fail "something on stderr"
initiate t-text --sweep --sweep_block_size=4K,64K --sweep_batch_size=1,8 --sweep_threads=1,2 --duration=0.1 --json ||
	fail "--sweep"
jq -e '(.sweep | length) == 8 and all(.sweep[]; .bytes > 0 and .failed == 0)' <"$tmp/out" >/dev/null || fail "--sweep: figures"

# The target dies and comes back under its name: counted, re-opened, and the run goes on.
timeout 60 "$bin/transfer_engine_bench" --metadata_server="$metadata" --segment_id=t-text --advertise=127.0.0.1 \
	--local_server_name=i-restart --protocol=tcp --block_size=64K --batch_size=16 --threads=2 --duration=8 \
	--timeout_ms=2000 --json >"$tmp/out" 2>"$tmp/err" &
initiator=$!
sleep 1.5
kill -9 "$target"
wait "$target" 2>/dev/null || :
start_target t-text
status=0
wait $initiator || status=$?
[ $status = 1 ] || fail "a run over a restart ended with $status instead of 1"
jq -e '.reopened >= 1 and .bytes > 0 and .failed + .timed_out + .stale > 0' <"$tmp/out" >/dev/null || fail "restart: figures"

# SIGINT: a summary, long before the time is up.
begin=$SECONDS
timeout -s INT 2 "$bin/transfer_engine_bench" --metadata_server="$metadata" --segment_id=t-text \
	--advertise=127.0.0.1 --local_server_name=i-int --threads=2 --block_size=64K --batch_size=16 --duration=60 \
	>"$tmp/out" 2>"$tmp/err" || :
[ $((SECONDS - begin)) -lt 10 ] || fail "SIGINT did not end the run"
grep -q '^Test completed: ' "$tmp/out" || fail "no summary after SIGINT"
